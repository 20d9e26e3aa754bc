"""`stretto compress`: a recipe's passes on a checkpoint."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from . import console as show
from .cli_bench import Json


def compress(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint, trained to its end")],
    recipe: Annotated[Path, typer.Option(help="a TOML file: which passes, in what order")],
    data: Annotated[str, typer.Option(help="what it was trained on: 'digits', an image folder or zip, or an .npz")],
    out_path: Annotated[Path, typer.Option("--out", help="the smaller checkpoint; a run cut off goes on beside it")],
    json: Json = None,
) -> None:
    """Make a trained network smaller by passes in order: pruning, distillation, quantization, factored layers."""
    from .training.compress.recipe import read_recipe
    from .training.compress.run import compress as run

    stages = read_recipe(recipe)
    with show.TrainingBar(show.OUT) as bar:
        report = run(checkpoint, stages, data, out_path, tell=bar.tell, on_progress=bar.progress)
    for done in report["passes"]:
        print_pass(show.OUT, done)
    show.write_json(json, report)


def print_pass(console: Console, report: dict[str, Any]) -> None:
    """Every point and the sizes before and after a pass."""
    before, after = report["before"], report["after"]
    columns = [title for what in ("accuracy", "MACs", "parameters") for title in (what, "then")]
    table = Table("width", "depth", *columns, title=f"{report['name']}: before and after", title_justify="left")
    for old, new in zip(before["points"], after["points"], strict=True):
        cells = [f"{point['accuracy']:.2%}" for point in (old, new)]
        cells += [show.amount(point[what]) for what in ("macs", "params") for point in (old, new)]
        table.add_row(f"{new['width']:g}", str(new["depth"]), *cells)
    console.print(table)
    console.print(
        f"all weights: {before['nonzero']:,} of {before['parameters']:,} not zero, then {after['nonzero']:,} of "
        f"{after['parameters']:,}; coded {before['coded_bytes'] / 1e3:,.1f} kB, "
        f"then {after['coded_bytes'] / 1e3:,.1f} kB "
        f"({after['fp32_bytes'] / after['coded_bytes']:.1f} times smaller than in 32 bits); accuracies are of the "
        f"calibration split; {report['seconds']:.0f} s",
        highlight=False,
    )
