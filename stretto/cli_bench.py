"""`stretto bench`: one function a benchmark."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from . import console as show

bench = typer.Typer(no_args_is_help=True, help="Benchmarks; each prints a table and writes JSON.")
RESULTS = Path("bench/results")
Json = Annotated[Path | None, typer.Option("--json", help="write the result here as JSON")]


def _kept(name: str) -> Path | None:
    """Where a benchmark writes unless told: among the repository's results, and nowhere in any other folder."""
    return RESULTS / name if RESULTS.is_dir() else None


@bench.command("session")
def session(json: Json = _kept("session.json")) -> None:
    """The session against raw ONNX Runtime: time, memory, size, deadlines met."""
    from .bench.session import run as measure

    measure(json)


@bench.command("train-step")
def train_step(json: Json = _kept("train_step.json")) -> None:
    """One joint training step against the steps of separate networks."""
    from .bench.train_step import run as measure

    measure(json)


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
