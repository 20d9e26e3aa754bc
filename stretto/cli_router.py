"""`stretto router`: gives a bundle what chooses the width by the input."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from . import console as show
from .cli_bench import Json


def router(
    bundle: Annotated[Path, typer.Argument(help="a .stretto file")],
    data: Annotated[str, typer.Option(help="what it was trained on: 'digits', an image folder or zip, or an .npz")],
    out_path: Annotated[Path, typer.Option("--out", help="the bundle with its router; may be the same file")],
    images: Annotated[int | None, typer.Option(help="of the training split, at most; default: 20000")] = None,
    epochs: Annotated[int | None, typer.Option(help="over them; default: 10")] = None,
    json: Json = None,
) -> None:
    """Fit a small head on the stem that predicts, for every operating point, how likely it is right on an input."""
    from .runtime.bundle import Bundle
    from .training.router import RouterOptions, add_router

    given = {name: value for name, value in (("images", images), ("epochs", epochs)) if value is not None}
    with show.WorkBar(show.OUT) as bar:
        made = add_router(Bundle.open(bundle), out_path, data, options=replace(RouterOptions(), **given), tell=bar.tell)
    show.write_json(json, show.router(show.OUT, made))
