"""A small supernet trained on digits, which the tests of compression work on; made once."""

import functools
import tempfile
from pathlib import Path

from stretto.training.compress.recipe import Stage, make_recipe
from stretto.training.compress.run import compress
from stretto.training.compress.subject import Subject, open_subject
from stretto.training.data import Data, load_data
from stretto.training.fit import fit_options
from stretto.training.task import TrainTask, run_training

WIDTHS = (0.5, 1.0)
TASK = TrainTask("resnet", "digits", {"base": "16", "blocks": "1"}, widths=WIDTHS, exits=2, batch=32)
OPTIONS = fit_options(epochs=6, lr=0.1, autocast=False, channels_last=False, recalibrate=10)


@functools.cache
def digits() -> Data:
    return load_data("digits")


@functools.cache
def trained() -> Path:
    """Its checkpoint."""
    path = Path(tempfile.mkdtemp()) / "net.pt"
    run_training(TASK, OPTIONS, path, data=digits())
    return path


def subject() -> Subject:
    return open_subject(trained(), "digits", digits())


def recipe(*passes: dict, **tune: object) -> tuple[Stage, ...]:
    return make_recipe({"tune": tune, "pass": list(passes)})


def run(tmp_path: Path, *passes: dict, name: str = "small.pt", **tune: object) -> tuple[Path, list[dict]]:
    """The smaller checkpoint, and each pass' report."""
    out = tmp_path / name
    return out, compress(trained(), recipe(*passes, **tune), "digits", out, cache=tmp_path, data=digits())["passes"]
