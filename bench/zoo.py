"""Which classifiers of a public zoo become supernets: pytorchcv's ImageNet models, one of each family."""

import importlib
import multiprocessing
import re
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..training.errors import TraceError
from ..training.supernet import Supernet, make_plan, make_supernet
from ..training.supernet.cuts import macs
from ..training.supernet.report import narrowed_share
from .report import Row, machine, print_rows, write_json

WIDTHS = (0.5, 1.0)
ENOUGH = 0.9  # of the MACs in layers narrowed on both sides
TIME_LIMIT_S = 240.0
NUMBERS_UP_TO_MACS = 3e9  # larger ones are traced without numbers
ERRORS = {  # what each difference is of, and its goal
    "full_error": ("full width against the model, float64", 1e-5),
    "subnet_error": ("subnet against the supernet, float64", 1e-5),
    "zeroed_error": ("full width with dropped channels zero against the narrow width, float64", None),
    "float32_error": ("full width against the model, float32", None),
    "float32_noise": ("model against itself on an input that differs by 2^-22, float32", None),
}
CLOSE = {"float32_error": 1e-4, "float32_noise": 1e-4}
WORKERS = 2
OTHER_DATA = (
    "cifar|svhn|cub|coco|voc|ade20k|cityscapes|celeba|widerface|jasper|quartz|raft|propaint|visemenet|nvpattexp|"
    "superpoint|pfpc|lffd|prnet|centernet"
)
_schemas: Any = None  # kept: the operators vanish with it


def run(json: Path | None = None, names: list[str] | None = None, console: Console | None = None) -> dict[str, Any]:
    """Measure every family, or the models of these names; prints a table and writes JSON."""
    console = console or Console()
    models = zoo()
    chosen = {name: models[name] for name in names or families(models)}
    with ThreadPoolExecutor(WORKERS) as pool:
        results = pool.map(lambda item: _in_process(*item), chosen.items())
        told = list(track(results, "models", len(chosen), console=console, transient=True))
    rows = _figures(told)
    console.print(_table(told))
    print_rows(console, rows, f"{len(told)} classifiers of pytorchcv")
    report = {"machine": machine(), "rows": [row.to_json() for row in rows], "models": told}
    if json is not None:
        write_json(json, report)
    return report


def zoo() -> dict[str, Callable[[], torch.nn.Module]]:
    """Every model of pytorchcv by name.

    It imports torchvision, which beside a torch that it wasn't built for asks for the schemas of operators that it
    failed to load. Defining them first lets it import; nothing here calls them.
    """
    global _schemas
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        _schemas = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except ImportError as error:
        raise ImportError(
            "the zoo needs pytorchcv and torchvision: pip install 'stretto[bench]' torchvision"
        ) from error
    models: dict[str, Callable[[], torch.nn.Module]] = importlib.import_module("pytorchcv.model_provider")._models
    return models


def families(models: dict[str, Callable[[], torch.nn.Module]]) -> list[str]:
    """ImageNet's models, the first listed (mostly the smallest) of each module and name up to its first digit."""
    first: dict[tuple[str, str], str] = {}
    for name, make in models.items():
        if not re.search(OTHER_DATA, name) and make.__module__.rpartition(".")[2] != "voca":
            first.setdefault((make.__module__, re.sub(r"\d.*", "", name)), name)
    return list(first.values())


def _in_process(name: str, make: Callable[[], torch.nn.Module]) -> dict[str, Any]:
    """Measure one model in a process of its own, with a limit on time."""
    context = multiprocessing.get_context("fork")  # what is imported needn't be again
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure_to, args=(theirs, make), daemon=True)
    started = time.perf_counter()
    process.start()
    theirs.close()
    try:
        told = ours.recv() if ours.poll(TIME_LIMIT_S) else {"error": f"not done within {TIME_LIMIT_S:g} s"}
    except EOFError:
        told = {"error": "its process died"}
    process.kill()
    process.join()
    return {"model": name, **told, "seconds": round(time.perf_counter() - started, 2)}


def _measure_to(connection: Any, make: Callable[[], torch.nn.Module]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # initialisers say that they do nothing on the meta device
    connection.send(measure(make))


def measure(make: Callable[[], torch.nn.Module]) -> dict[str, Any]:
    """What becomes of one model: the share that widths reach, what stays full, or the error.

    Differences in float64, over the largest logit, None for models that are too large: `full_error` of the full width
    to the model itself; `subnet_error` of the narrow subnet to the supernet at that width; `zeroed_error` of the full
    network with the parameters of the dropped channels zero to the narrow width, which is rounding unless something is
    averaged or normed over the channels. `float32_error` is `full_error` in float32, `float32_noise` what the model's
    own answer changes by when its input does by a quarter of a millionth.
    """
    with torch.device("meta"):
        model: Any = make()
    example = torch.empty(2, 3, *model.in_size, device="meta")
    try:
        plan = make_plan(model, example, WIDTHS, exits=1)
    except (TraceError, ValueError) as error:
        return {"error": re.sub(r"\S*site-packages/", "", str(error))}
    work = sum(macs(plan.traced).values())
    return {
        "error": None,
        "narrowed_share": narrowed_share(plan, min(WIDTHS)),
        "macs": work,
        "places_to_cut": len(plan.cuts),
        "full": [{"name": kept.name, "reason": kept.reason} for kept in plan.channels.kept],
        "notes": plan.traced.notes,
        **(_errors(make) if work <= NUMBERS_UP_TO_MACS else dict.fromkeys(ERRORS)),
    }


def _errors(make: Callable[[], torch.nn.Module]) -> dict[str, float]:
    torch.manual_seed(0)
    model: Any = make()
    x, narrow = torch.randn(2, 3, *model.in_size), min(WIDTHS)
    with torch.no_grad():
        _settle_norms(model, x)
        float32 = make_supernet(model, x, WIDTHS, exits=1).eval()
        errors = {
            "float32_error": _relative(float32(x)[-1], model(x)),
            "float32_noise": _relative(model(x * (1 + 2**-22)), model(x)),
        }
        model, x = model.double(), x.double()
        net = make_supernet(model, x, WIDTHS, exits=1).eval()
        errors["full_error"] = _relative(net(x)[-1], model(x))
        errors["subnet_error"] = _relative(net.subnet(narrow, 1)(x), net(x, narrow)[-1])
        _zero_dropped(net, narrow)
        errors["zeroed_error"] = _relative(net(x)[-1], net(x, narrow)[-1])
    return errors


def _zero_dropped(net: Supernet, width: float) -> None:
    """Set every parameter of the channels that a width drops to zero."""
    channels = net.plan.channels
    for name, value in net.shared.named_parameters():
        for axis, ids in enumerate(channels.parameters.get(name, ())):
            used = channels.indices(ids, width)
            if used is not None:
                kept = torch.zeros(value.shape[axis], dtype=torch.bool)
                kept[torch.from_numpy(used)] = True
                value[(slice(None),) * axis + (~kept,)] = 0


def _settle_norms(model: torch.nn.Module, x: torch.Tensor) -> None:
    """Give batch norms the statistics of a batch: fresh ones would hide a mistake in them, and leave a deep network so
    ill-conditioned that rounding alone changes its answer."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(x)
    for norm in norms:
        norm.momentum = 0.1
        if norm.running_var is not None:
            norm.running_var.clamp_(min=0.1)
    model.eval()


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _figures(told: list[dict[str, Any]]) -> list[Row]:
    traced = [model for model in told if model["error"] is None]
    reached = [model for model in traced if model["narrowed_share"] >= ENOUGH]
    numbers = [model for model in traced if model["full_error"] is not None]
    rows = [_share("become supernets", traced, told, 0.9)]
    rows.append(_share(f"with ≥ {ENOUGH:.0%} of the MACs narrowed on both sides", reached, told, 0.75))
    for key, (what, goal) in ERRORS.items() if numbers else ():
        errors = sorted(model[key] for model in numbers)
        close = CLOSE.get(key, 1e-5)
        note = f"{sum(error <= close for error in errors)} of {len(errors)} within {close:g}"
        rows.append(Row(f"{what}, worst of {len(errors)}", "pytorchcv", errors[-1], "", at_most=goal, note=note))
    return rows


def _share(figure: str, those: list[Any], told: list[Any], goal: float) -> Row:
    note = f"{len(those)} of {len(told)}"
    return Row(figure, "pytorchcv", len(those) / len(told), "", at_least=goal, note=note)


def _table(told: list[dict[str, Any]]) -> Table:
    table = Table("model", "narrowed on both sides", "error to the model", "what stays full, or why it failed")
    for model in told:
        if model["error"] is not None:
            table.add_row(model["model"], "—", "", model["error"].splitlines()[0].partition(". ")[0], style="red")
        else:
            reasons = list(dict.fromkeys(kept["reason"] for kept in model["full"]))
            error = "" if model["full_error"] is None else f"{model['full_error']:.1g}"
            table.add_row(model["model"], f"{model['narrowed_share']:.1%}", error, "; ".join(reasons[:3]))
    return table


def main(json: Path = Path("bench/results/zoo.json"), name: list[str] | None = None) -> None:
    """All families, or the models named with `--name`."""
    run(json, name)


if __name__ == "__main__":
    import typer

    typer.run(main)
