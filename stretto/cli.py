"""The command `stretto`: one thin function a verb."""

import sys
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from . import console as show
from .cli_bench import bench
from .cli_compress import compress
from .cli_router import router
from .cli_values import confidence_of, exits_of, explain, numbers, policy_of

if TYPE_CHECKING:
    from .runtime.answer import Answer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One trained network, answered at any width and any depth, in time.",
)
app.add_typer(bench, name="bench")
app.command()(compress)
app.command()(router)
out, _write = show.OUT, show.write_json

Json = Annotated[Path | None, typer.Option("--json", help="write the result here as JSON")]
Data = Annotated[str, typer.Option(help="'digits', an image folder or zip of one, MNIST's four files, or an .npz")]
BundlePath = Annotated[Path, typer.Argument(help="a .stretto file")]
Threads = Annotated[int, typer.Option(help="processor threads for one step")]
EngineName = Annotated[str, typer.Option("--engine", help="onnx, or openvino, which also runs bf16")]
Net = Annotated[str, typer.Option(help="resnet, mobilenet, lenet5, lenet5caffe, lenet300, or package.module:callable")]
NetOption = Annotated[list[str], typer.Option("--option", help="an option of the network, name=value; repeatable")]
Widths = Annotated[str, typer.Option(help="width multipliers, 1.0 among them")]
Point = Annotated[
    str | None, typer.Option(metavar="WIDTH,DEPTH[,PRECISION]", help="always answer at this operating point")
]
PolicyName = Annotated[
    str | None, typer.Option(help="deadline, the default, alert, conformal, or fixed, which needs --point")
]
Confidence = Annotated[
    str | None, typer.Option(help="stop at an exit that is this sure, in (0, 1]; a number a depth; or calibrated")
]
Head = Annotated[str, typer.Option(help="classifier of the early exits: linear or conv")]
Exits = Annotated[str, typer.Option(help="how many, or shares of the MACs, or names of layers (see stretto trace)")]


@app.command()
def trace(
    net: Net,
    option: NetOption = [],  # noqa: B006
    shape: Annotated[str, typer.Option(help="one input: channels,height,width")] = "3,224,224",
    classes: int = 10,
    widths: Widths = "0.25,0.5,0.75,1.0",
    exits: Exits = "4",
    head: Head = "linear",
    json: Json = None,
) -> None:
    """What would become of a network: channel groups, what stays at full width and why, where exits can go."""
    from .training.nets import read_options
    from .training.task import trace_network

    report = trace_network(
        net, read_options(option), numbers(shape, int), classes, numbers(widths), exits_of(exits), head
    )
    show.trace_report(out, report)
    _write(json, report)


@app.command()
def train(
    net: Net,
    data: Data,
    out_path: Annotated[Path, typer.Option("--out", help="the checkpoint; training goes on from it if it exists")],
    option: NetOption = [],  # noqa: B006
    weights: Annotated[str | None, typer.Option(help="starting weights: .safetensors, .pt or .npz")] = None,
    widths: Widths = "0.25,0.5,0.75,1.0",
    exits: Exits = "4",
    head: Head = "linear",
    size: Annotated[int | None, typer.Option(help="side of the square images, pixels")] = None,
    mean: Annotated[str | None, typer.Option(help="per channel, of pixels in [0, 1]; default: the images' own")] = None,
    std: Annotated[str | None, typer.Option(help="likewise")] = None,
    augment: Annotated[str, typer.Option(help="auto, none, digits, cifar or photo")] = "auto",
    alone: Annotated[
        float | None, typer.Option(metavar="WIDTH", help="train this width alone with one exit, the control")
    ] = None,
    sort: Annotated[bool, typer.Option(help="begin with the most important channels first")] = True,
    shared_stem: Annotated[bool, typer.Option(help="run the first layers at full width, once for all widths")] = True,
    holdout: Annotated[float, typer.Option(help="share of train that is held out, the calibration split")] = 0.05,
    epochs: int = 10,
    batch: int = 128,
    lr: Annotated[float, typer.Option(help="largest learning rate, for the mean over the widths")] = 0.1,
    seed: int = 0,
    set_: Annotated[list[str], typer.Option("--set", help="any other training option, name=value; repeatable")] = [],  # noqa: B006
    json: Json = None,
) -> None:
    """Turn a network into a supernet and train all widths and exits jointly."""
    from .training.fit import fit_options
    from .training.nets import read_options, read_values
    from .training.task import TrainTask, run_training

    try:
        options = fit_options(epochs=epochs, lr=lr, seed=seed, **read_values(set_))
    except TypeError as error:  # an option's name, which for a function's caller is a matter of type
        raise ValueError(str(error)) from error
    task = TrainTask(
        net, data, net_options=read_options(option), weights=weights, widths=numbers(widths), exits=exits_of(exits),
        head=head, size=size, batch=batch, augment=augment, mean=numbers(mean) if mean else None,
        std=numbers(std) if std else None, alone=alone, sort=sort, shared_stem=shared_stem, holdout=holdout,
    )  # fmt: skip
    with show.TrainingBar(out) as bar:
        report = run_training(task, options, out_path, bar.progress, bar.tell)
    show.points(out, report["points"], f"{out_path}: accuracy on the calibration split")
    _write(json, report)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="a checkpoint, or a bundle, of which only the precisions change")],
    data: Data,
    out_path: Annotated[Path, typer.Option("--out", help="the bundle")],
    weights: Annotated[str | None, typer.Option(help="float32 (default), or float16 for half the size")] = None,
    splits: Annotated[str | None, typer.Option(help="that give the accuracies; default: test, or a bundle's")] = None,
    precisions: Annotated[str, typer.Option(help="fp32, and any of int8, bf16")] = "fp32",
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="int8 weights in 7 bits: fast on x86 processors without VNNI too")
    ] = False,
    spare: Annotated[
        float | None, typer.Option(help="share of the calibration split to fit nothing to, so that it can certify")
    ] = None,
    coded: Annotated[
        bool, typer.Option("--coded", help="in as few bytes as can be: for weights of few values, or many zeros")
    ] = False,
    json: Json = None,
) -> None:
    """Write a checkpoint or a bundle as a bundle, with the held-out accuracy of every operating point."""
    from .training.sources import export_source

    with show.WorkBar(out) as bar:
        bundle = export_source(
            source, out_path, data, weights=weights, precisions=tuple(precisions.split(",")),
            reduce_range=reduce_range, splits=None if splits is None else tuple(splits.split(",")),
            spare=spare, coded=coded, tell=bar.tell,
        )  # fmt: skip
    show.bundle(out, bundle)
    _write(json, show.bundle_report(bundle))


@app.command("eval")
def evaluate(
    bundle: BundlePath,
    data: Data,
    splits: str = "test",
    threads: Threads = 1,
    confidence: Annotated[
        str | None, typer.Option(help="of the adaptive rows, in (0, 1]; default: the certified thresholds, or 0.9")
    ] = None,
    engine: EngineName = "onnx",
    json: Json = None,
) -> None:
    """Accuracy, MACs, parameters and latency of every operating point, and of adaptive execution."""
    from .bench.evaluate import evaluate_bundle

    with show.WorkBar(out) as bar:
        report = evaluate_bundle(
            bundle, data, tuple(splits.split(",")), threads, confidence_of(confidence), bar.tell, engine
        )
    show.points(out, report["points"], f"{bundle.name} on {data} ({splits})")
    show.adaptive(out, report)
    _write(json, report)


@app.command()
def calibrate(
    bundle: BundlePath,
    data: Data,
    split: Annotated[list[str], typer.Option(help="whose samples certify; repeatable")] = ["calibration"],  # noqa: B006
    risk: Annotated[float, typer.Option(help="what exiting early may lose on average, in (0, 1)")] = 0.01,
    confidence: Annotated[float, typer.Option(help="that it loses no more, in (0, 1)")] = 0.95,
    loss: Annotated[
        str, typer.Option(help="disagreement with the full fp32 network's answers, or accuracy that it has more")
    ] = "disagreement",
    method: Annotated[str, typer.Option(help="ltt, ucb, or naive, which promises nothing")] = "ltt",
    rule: Annotated[str, typer.Option(help="probability, margin, entropy or patience")] = "probability",
    out_path: Annotated[Path | None, typer.Option("--out", help="default: NAME-calibrated.stretto beside it")] = None,
    threads: Threads = 1,
    engine: EngineName = "onnx",
    json: Json = None,
) -> None:
    """Write a bundle with thresholds for early exits that lose no more than is said, with the probability that is."""
    from .runtime.bundle import Bundle
    from .training.certify import Asked, calibrate_bundle

    asked = Asked(risk, round(1 - confidence, 12), loss, method, rule)
    place = out_path or bundle.with_name(f"{bundle.stem}-calibrated.stretto")
    with show.WorkBar(out) as bar:
        _, report = calibrate_bundle(
            Bundle.open(bundle), data, place, asked, splits=split, threads=threads, engine=engine, tell=bar.tell
        )
    show.calibration(out, report)
    _write(json, report)


@app.command()
def profile(
    bundle: BundlePath,
    threads: Threads = 1,
    engine: EngineName = "onnx",
    batches: Annotated[str, typer.Option(help="batch sizes")] = "1",
    rounds: int = 20,
    json: Json = None,
) -> None:
    """Measure the times and the power of the steps on this device and keep them for later loads."""
    from .runtime.bundle import Bundle
    from .runtime.measure import measure_and_keep

    opened = Bundle.open(bundle)
    with show.WorkBar(out) as bar:
        progress = partial(bar.tell, "profiling")
        measured, place = measure_and_keep(opened, engine, threads, numbers(batches, int), rounds, progress)
    show.profile(out, opened, measured)
    out.print(f"kept in {place}", soft_wrap=True)
    _write(json, measured.to_json())


@app.command()
def run(
    bundle: BundlePath,
    input: Annotated[Path, typer.Argument(help="an image file, black to white, or a .npy of one input")],
    budget_ms: Annotated[float | None, typer.Option(help="milliseconds the answer may take")] = None,
    energy_mj: Annotated[float | None, typer.Option(help="millijoules it may take; with --policy alert")] = None,
    policy: PolicyName = None,
    point: Point = None,
    confidence: Confidence = None,
    threads: Threads = 1,
    engine: EngineName = "onnx",
    json: Json = None,
) -> None:
    """One answer."""
    from .policies.situation import Budget
    from .runtime.session import load

    chosen, budget = policy_of(policy, point), Budget(inf if budget_ms is None else budget_ms, energy_mj)
    with load(bundle, engine, threads, chosen, confidence_of(confidence)) as session:
        x = show.read_input(input, session.bundle.manifest.input)
        answer = cast("Answer", session.infer(x, budget=budget))  # one input gives one answer
        show.answer(out, answer, session.profile)
        _write(json, show.answer_report(answer, session.profile))


@app.command()
def serve(
    bundles: list[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    policy: PolicyName = None,
    point: Point = None,
    confidence: Confidence = None,
    threads: Threads = 1,
    engine: EngineName = "onnx",
    shadow: Annotated[
        float, typer.Option(help="share of certified answers compared with the full network's when idle, 0 for none")
    ] = 0.01,
) -> None:
    """Serve bundles by the Open Inference Protocol v2, with metrics."""
    from .runtime.server.app import serve as serve_forever

    serve_forever(
        bundles, host, port, engine=engine, threads=threads, policy=policy_of(policy, point),
        confidence=confidence_of(confidence),
        shadow=shadow,
    )  # fmt: skip


@app.command()
def inspect(bundle: BundlePath, threads: Threads = 1, engine: EngineName = "onnx", json: Json = None) -> None:
    """What is inside a bundle, and what its points take in energy if it was profiled here."""
    from .runtime.bundle import Bundle
    from .runtime.measure import kept_profile

    opened = Bundle.open(bundle)
    known = kept_profile(opened, engine, threads)
    show.bundle(out, opened, known)
    _write(json, show.bundle_report(opened, known))


def main() -> None:
    """Run the command; errors that a user can cause are one line, not a traceback."""
    from .runtime.errors import StrettoError

    try:
        app()
    except (StrettoError, ValueError, FloatingPointError, OSError, ImportError) as error:
        text = f"stretto: {explain(error)}"
        Console(stderr=True).print(text, style="red", markup=False, emoji=False, soft_wrap=True)
        sys.exit(1)
