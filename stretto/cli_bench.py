"""`stretto bench`: one function a benchmark."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from . import console as show

bench = typer.Typer(no_args_is_help=True, help="Benchmarks; each prints a table and writes JSON.")
RESULTS = Path("bench/results")
MODELS = Path("bench/models")
TRAINED = Path("out/train")
SWITCHED = Path("out/switches")
COMPRESSED = Path("out/compress")
TICKETS = Path("out/lottery")
FASHION_MNIST = "/usr/share/datasets/fashion-mnist"  # where Debian's dataset-fashion-mnist has it
Json = Annotated[Path | None, typer.Option("--json", help="write the result here as JSON")]
ReportOnly = Annotated[bool, typer.Option("--report-only", help="train nothing, report what is there")]


def _kept(name: str) -> Path | None:
    """Where a benchmark writes unless told: among the repository's results, and nowhere in any other folder."""
    return RESULTS / name if RESULTS.is_dir() else None


def _drawn(name: str, folder: Path) -> Path:
    """Where a benchmark draws unless told: among the repository's pictures, in any other folder beside its files."""
    return (Path("docs") if Path("docs").is_dir() else folder) / name


@bench.command("session")
def session(json: Json = _kept("session.json")) -> None:
    """The session against raw ONNX Runtime: time, memory, size, deadlines met."""
    from .bench.session import run as measure

    measure(json)


@bench.command("train-step")
def train_step(json: Json = _kept("train_step.json")) -> None:
    """One joint training step against the steps of separate networks."""
    from .bench.train.step import run as measure

    measure(json)


@bench.command("train")
def train(
    reference: Annotated[str, typer.Argument(help="the network: cifar, clothes or, only to try it, digits")],
    data: Annotated[str, typer.Option(help="'digits', an image folder or zip of one, or an .npz")],
    folder: Annotated[Path, typer.Option(help="checkpoints, bundles, logs; goes on from what is there")] = TRAINED,
    workers: Annotated[int, typer.Option(help="2: the supernet beside its controls; 1: one after the other")] = 2,
    job: Annotated[str | None, typer.Option(help="train this one alone: supernet, width-0.5, …; no table")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="default: bench/results/train_NETWORK.json")] = None,
    picture: Annotated[Path | None, typer.Option(help="default: docs/train_NETWORK.png, or in the folder")] = None,
    model: Annotated[
        Path | None, typer.Option(help="copy the supernet's bundle here, at most 10 MB, and check the copy")
    ] = None,
    report_only: ReportOnly = False,
) -> None:
    """A reference network against each of its widths trained alone: accuracy, exits, time; cut off, it goes on."""
    import_module("matplotlib")  # whose absence would otherwise be found after all the work

    from .bench.references import find_reference
    from .bench.train.run import copy_model, plan, report
    from .bench.train.run import train as train_all

    if report_only and job is not None:
        raise ValueError(f"--job {job} trains and --report-only doesn't; leave one of them out")
    chosen, name = find_reference(reference), f"train_{reference}"
    jobs = plan(chosen, data, folder, workers)
    if not report_only:
        train_all(jobs, workers, job, show.OUT)
        if job is not None:
            return
    if model is not None:
        copy_model(jobs, model)
    committed = model or (MODELS / f"{reference}.stretto" if (MODELS / f"{reference}.stretto").exists() else None)
    table, image = json or _kept(f"{name}.json") or folder / f"{name}.json", picture or _drawn(f"{name}.png", folder)
    with show.WorkBar(show.OUT) as bar:
        report(chosen, data, jobs, table, image, bar.tell, workers, committed, console=show.OUT)


@bench.command("switches")
def switches(
    data: Annotated[str, typer.Option(help="photos to train on: a zip or folder, an .npz, or 'digits'")],
    weights: Annotated[
        str | None, typer.Option(help="of the pretrained ResNet-20 whose channels are sorted; else that is left out")
    ] = None,
    photos: Annotated[
        str | None, typer.Option(help="larger photos, for the switches on a pretrained network; else they are left out")
    ] = None,
    folder: Annotated[Path, typer.Option(help="a file for each training; goes on from what is there")] = SWITCHED,
    seeds: Annotated[int, typer.Option(help="pairs of each switch; 3 at least say anything")] = 3,
    epochs: Annotated[int | None, typer.Option(help="of the trainings from scratch; default: 2")] = None,
    workers: Annotated[int, typer.Option(help="trainings side by side, each on one thread")] = 2,
    only: Annotated[list[str], typer.Option(help="train for this switch alone; repeatable")] = [],  # noqa: B006
    report_only: ReportOnly = False,
    json: Annotated[Path | None, typer.Option("--json", help="default: bench/results/switches.json")] = None,
    picture: Annotated[Path | None, typer.Option(help="default: docs/switches.png")] = None,
) -> None:
    """What each switch of training gains, by small trainings with it on and off; cut off, it goes on.

    Table and picture are in the folder where there is no bench/results or docs, or where not every switch is measured.
    """
    import_module("matplotlib")  # whose absence would otherwise be found after all the work

    from .bench.report import write_json
    from .bench.switches.report import draw
    from .bench.switches.run import Setup
    from .bench.switches.run import run as measure

    setup = Setup(data, folder, weights, photos, seeds, epochs)
    with show.WorkBar(show.OUT) as bar:
        report = measure(setup, only, workers, report_only, bar.tell, show.OUT)
    table, image = folder / "switches.json", folder / "switches.png"
    if report["complete"]:
        table, image = _kept(table.name) or table, _drawn(image.name, folder)
    else:
        show.OUT.print(f"not every switch has its seeds (3 at least): unless told, table and picture are in {folder}")
    write_json(json or table, report)
    draw(report, picture or image)


@bench.command("compress")
def compress(
    fashion: Annotated[str | None, typer.Option(help="Fashion-MNIST, for the LeNets: its four files' folder")] = None,
    cifar: Annotated[str | None, typer.Option(help="CIFAR-10, for the residual networks")] = None,
    clothes: Annotated[str | None, typer.Option(help="photos of clothes, for EfficientNet-Lite0")] = None,
    study: Annotated[
        list[str], typer.Option(help="lenets, supernets, photos, channels, bits, factors or taught; default: all")
    ] = [],  # noqa: B006
    folder: Annotated[Path, typer.Option(help="checkpoints, bundles, logs; goes on from what is there")] = COMPRESSED,
    workers: Annotated[int, typer.Option(help="trainings side by side, each on one thread")] = 2,
    report_only: ReportOnly = False,
    json: Annotated[Path | None, typer.Option("--json", help="default: bench/results/compress.json")] = None,
    picture: Annotated[Path | None, typer.Option(help="default: docs/compress.png")] = None,
) -> None:
    """The compression stack against its controls: sizes, accuracies, times; hours of training, which cut off goes on.

    Table and picture are in the folder where there is no bench/results or docs, or where not every study is measured.
    """
    import_module("matplotlib")  # whose absence would otherwise be found after all the work

    from .bench.compress.run import make, plan, report
    from .bench.compress.studies import STUDIES

    given = {"fashion": fashion, "cifar": cifar, "clothes": clothes}
    chosen, jobs = plan(study, {name: path for name, path in given.items() if path is not None}, folder)
    if not report_only:
        make(jobs, workers, show.OUT)
    table, image = folder / "compress.json", folder / "compress.png"
    if set(chosen) == set(STUDIES):
        table, image = _kept(table.name) or table, _drawn(image.name, folder)
    with show.WorkBar(show.OUT) as bar:
        report(chosen, jobs, json or table, picture or image, bar.tell, show.OUT)


@bench.command("lottery")
def lottery(
    data: Annotated[
        str, typer.Option(help="images to train on; the default is where Debian's dataset-fashion-mnist puts them")
    ] = FASHION_MNIST,
    folder: Annotated[Path, typer.Option(help="a file for each search; goes on from what is there")] = TICKETS,
    seeds: Annotated[int, typer.Option(help="of every search; 3 at least say anything")] = 3,
    epochs: Annotated[int | None, typer.Option(help="of one training; default: 8")] = None,
    workers: Annotated[int, typer.Option(help="searches side by side, each on one thread")] = 2,
    report_only: ReportOnly = False,
    json: Annotated[Path | None, typer.Option("--json", help="default: bench/results/lottery.json")] = None,
    picture: Annotated[Path | None, typer.Option(help="default: docs/lottery.png")] = None,
) -> None:
    """Lottery tickets: pruned shapes trained from their first numbers and from others; cut off, it goes on.

    Table and picture are in the folder where there is no bench/results or docs, or where not every search is over.
    """
    import_module("matplotlib")  # whose absence would otherwise be found after all the work

    from .bench.lottery.picture import draw
    from .bench.lottery.run import EPOCHS, Setup
    from .bench.lottery.run import run as measure
    from .bench.report import write_json

    setup = Setup(data, folder, seeds, EPOCHS if epochs is None else epochs)
    with show.WorkBar(show.OUT) as bar:
        report, panels = measure(setup, workers, report_only, bar.tell, show.OUT)
    table, image = folder / "lottery.json", folder / "lottery.png"
    if report["complete"]:
        table, image = _kept(table.name) or table, _drawn(image.name, folder)
    else:
        show.OUT.print(f"not every search has its seeds (3 at least): unless told, table and picture are in {folder}")
    write_json(json or table, report)
    draw(panels, picture or image)


@bench.command("contention")
def contention(
    bundle: Annotated[Path, typer.Argument(help="a .stretto file")],
    data: Annotated[str, typer.Option(help="'digits', an image folder or zip of one, or an .npz")],
    split: Annotated[list[str], typer.Option(help="held out, the stream of inputs; repeatable")] = ["test"],  # noqa: B006
    controls: Annotated[
        list[Path], typer.Option(help="bundles of its widths trained alone, or a folder of them; repeatable")
    ] = [],  # noqa: B006
    minutes: Annotated[float | None, typer.Option(help="of all environments together; default: 20")] = None,
    rounds: Annotated[int | None, typer.Option(help="in each environment")] = None,
    policy: Annotated[str, typer.Option(help="this runtime's")] = "alert",
    time_model: Annotated[str, typer.Option(help="this runtime's; deadline with profile is beside it")] = "slices",
    samples: Annotated[int | None, typer.Option(help="of the data; default: all")] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="default: bench/results/contention_BUNDLE.json, or in out")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="default: docs/contention_BUNDLE.png, or in out")] = None,
    keep: Annotated[Path | None, typer.Option(help="default: out/contention_BUNDLE.npz, the recorded times")] = None,
) -> None:
    """Deadlines under other people's load, against fixed and switched networks; nothing else should run meanwhile."""
    import_module("matplotlib")  # whose absence would otherwise be found after all the work

    from .bench.contention.contestants import Runtime
    from .bench.contention.rounds import Effort
    from .bench.contention.run import Asked, Files
    from .bench.contention.run import run as measure

    asked = Asked(bundle, data, tuple(split), tuple(controls), samples)
    effort = Effort(rounds, 20.0 if rounds is None and minutes is None else minutes)
    name, out = f"contention_{bundle.stem}", Path("out")
    files = Files(
        json or _kept(f"{name}.json") or out / f"{name}.json",
        picture or _drawn(f"{name}.png", out),
        keep or out / f"{name}.npz",
    )
    with show.WorkBar(show.OUT) as bar:
        measure(asked, Runtime(policy, time_model), effort, files, bar.tell, show.OUT)


@bench.command("easy")
def easy(
    bundle: Annotated[Path, typer.Argument(help="a .stretto file")],
    data: Annotated[str, typer.Option(help="'digits', an image folder or zip of one, or an .npz")],
    split: Annotated[list[str], typer.Option(help="whose samples choose and certify; repeatable")] = ["calibration"],  # noqa: B006
    test: Annotated[list[str], typer.Option(help="whose samples every figure is of; repeatable")] = ["test"],  # noqa: B006
    samples: Annotated[int | None, typer.Option(help="of the test; default: all")] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="default: bench/results/easy_BUNDLE.json, or in out")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="default: docs/easy_BUNDLE.png, or in out")] = None,
) -> None:
    """What easy inputs save by early exits and escalation: MACs, time, and whether promises and alarms hold."""
    import_module("matplotlib")  # whose absence would otherwise be found after all the work

    from .bench.easy.run import Asked
    from .bench.easy.run import run as measure

    asked, name, out = Asked(bundle, data, tuple(split), tuple(test), samples), f"easy_{bundle.stem}", Path("out")
    table = json or _kept(f"{name}.json") or out / f"{name}.json"
    with show.WorkBar(show.OUT) as bar:
        measure(asked, table, picture or _drawn(f"{name}.png", out), bar.tell, show.OUT)


@bench.command("zoo")
def zoo(json: Json = _kept("zoo.json")) -> None:
    """Which classifiers of a public zoo become supernets."""
    from .bench.zoo import run as measure

    measure(json)


@bench.command("exact")
def exact(json: Json = _kept("exact.json")) -> None:
    """Supernets against the networks that they were made of, at full and at narrower widths."""
    from .bench.exact import run as measure

    measure(json)


@bench.command("demo")
def demo(json: Path = Path("out/demo.json"), picture: Path = Path("out/demo.png")) -> None:
    """Train, export and profile on digits, then answer under a sweep of budgets, idle and with every core busy."""
    import_module("matplotlib")  # whose absence would otherwise be found after all the work

    from .bench.demo import run as measure

    with show.TrainingBar(show.OUT) as bar:
        measure(json, picture, bar.tell, bar.progress)
