"""Recipes: which passes to run, in what order, with which options, from a TOML file.

[tune]                  # for every pass: how to fine-tune, options of training
lr = 0.01

[[pass]]
name = "prune_weights"
share = 0.8             # the pass' own options
epochs = 2              # and fine-tuning's, over those of [tune]
"""

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ..option_types import check_types
from .subject import Subject
from .tuning import BEFORE, TUNING_NAMES, Tuning, Workshop, make_tuning

# name → where it is, so that listing them imports nothing
PASSES = {
    "prune_weights": "prune_weights:PruneWeights",
    "prune_channels": "prune_channels:PruneChannels",
    "distill": "distill:Distill",
    "quantize": "quantize:Quantize",
    "cluster": "cluster:Cluster",
    "binarize": "binarize:Binarize",
    "low_rank": "low_rank:LowRank",
    "separable": "separable:Separable",
}


class RecipeError(ValueError):
    """A recipe says something that can't be done; names where, what was found and what is allowed."""


class Pass(Protocol):
    """One way to make a network smaller; a frozen dataclass of its options, whose defaults leave its weights alone.

    Every width and exit survives it.
    """

    def run(self, subject: Subject, shop: Workshop) -> tuple[Subject, dict[str, Any]]:
        """The smaller network, which may be the same one changed, and what is to be told of it, as plain values."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A pass of a recipe: its name, what the recipe says of it, and what comes of that."""

    name: str
    said: dict[str, Any]
    work: Pass
    tuning: Tuning


def read_recipe(path: str | Path) -> tuple[Stage, ...]:
    """A recipe file's passes, in order.

    Teachers are looked for beside the recipe first, then in the current folder.

    Raises:
        RecipeError: it isn't there, isn't TOML, or says something unknown or not allowed; an unknown name comes with
            the nearest one.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a readable recipe: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not TOML: {error}") from error
    return make_recipe(content, str(path), path.parent)


def make_recipe(content: dict[str, Any], where: str = "recipe", folder: Path = Path()) -> tuple[Stage, ...]:
    """The passes of a recipe that was read already; `where`: what to call it in messages."""
    _check_names(content, ("tune", "pass"), f"{where}: table")
    tune, passes = content.get("tune", {}), content.get("pass", [])
    if not isinstance(tune, dict) or not isinstance(passes, list) or not passes:
        raise RecipeError(f"{where}: has no passes; each begins with [[pass]], what they share is under [tune]")
    _check_names(tune, TUNING_NAMES, f"{where}: [tune]: option")
    return tuple(_stage(said, tune, f"{where}: pass {n}", folder) for n, said in enumerate(passes, start=1))


def _stage(said: dict[str, Any], tune: dict[str, Any], where: str, folder: Path) -> Stage:
    name = said.get("name") if isinstance(said, dict) else None
    if not isinstance(name, str):
        raise RecipeError(f"{where}: has no name; one of {', '.join(PASSES)}")
    _check_names([name], PASSES, f"{where}: name")
    where, kind = f"{where} ({name})", _kind(name)
    own = {field.name for field in fields(kind)}
    given = {key: value for key, value in said.items() if key != "name"}
    _check_names(given, own | TUNING_NAMES, f"{where}: option")
    mine = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items() if key in own}
    tuning = tune | {key: value for key, value in given.items() if key not in own}
    try:
        made = make_tuning(tuning)
        made = replace(made, teachers=tuple(_found(teacher, folder) for teacher in made.teachers))
        return Stage(name, {"name": name} | mine | tuning, kind(**mine), made)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}") from error


def _kind(name: str) -> Any:
    module, _, kind = PASSES[name].partition(":")
    return getattr(import_module(f"{__package__}.{module}"), kind)


def _found(teacher: str, folder: Path) -> str:
    beside = folder / teacher
    return str(beside) if teacher != BEFORE and beside.exists() else teacher


def _check_names(found: Iterable[str], allowed: Iterable[str], what: str) -> None:
    known = sorted(allowed)
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}"
            raise RecipeError(f"{what} '{name}' isn't known{hint}")


def check_options(options: Any, **shares: float | None) -> None:
    """What passes check of their options: types, and shares that must be in [0, 1).

    Raises:
        TypeError, ValueError: names the option, what it is and what is allowed.
    """
    check_types(options)
    for name, value in shares.items():
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name} {value}: must be in [0, 1)")


def check_choice(name: str, value: str, table: Iterable[str]) -> None:
    """An option that is a key of a table.

    Raises:
        ValueError: it isn't; says the nearest one.
    """
    known = list(table)
    if value not in known:
        near = difflib.get_close_matches(value, known, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ValueError(f"{name} '{value}' isn't known{hint}; one of {', '.join(known)}")
