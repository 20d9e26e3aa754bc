"""Separately trained fixed networks behind one session: what a user would switch between without a supernet.

Each control is a width of one made-up bundle with a single exit, so session, policy and time model are the very same
as the supernet's; only what runs differs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...policies.situation import Step
from ...runtime.bundle import Bundle
from ...runtime.engines import Engine, make_engine
from ...runtime.manifest import PointRecord


def find_controls(given: Sequence[Path], supernet: Path) -> list[Bundle]:
    """The controls' bundles: files as they are given, of a folder all that have one exit; never the supernet itself.

    Raises:
        ValueError: something is given, and no control is there.
        BundleError: a file, or one in a folder, is no bundle.
    """
    paths = [path for place in given for path in (sorted(place.glob("*.stretto")) if place.is_dir() else [place])]
    opened = [Bundle.open(path) for path in paths if path.resolve() != supernet.resolve()]
    controls = [bundle for bundle in opened if bundle.manifest.depths == 1 or bundle.path in given]
    if given and not controls:
        raise ValueError(f"no bundle of one exit in {', '.join(map(str, given))}; stretto bench train makes them")
    return controls


def by_width(controls: Sequence[Bundle], supernet: Bundle) -> dict[float, Bundle]:
    """Controls by the width at which each was trained, the narrowest first.

    Raises:
        ValueError: one has several exits or widths, doesn't take and answer what the supernet does, or two have the
            same width.
    """
    found: dict[float, Bundle] = {}
    for bundle in sorted(controls, key=_width):
        _check(bundle, supernet, found)
        found[_width(bundle)] = bundle
    return found


def merge(controls: Mapping[float, Bundle]) -> Bundle:
    """A bundle with a width for each control, without graphs, which `SwitchedEngine` runs."""
    widest = list(controls.values())[-1].manifest
    precisions = tuple(p for p in widest.precisions if all(p in b.manifest.precisions for b in controls.values()))
    points = tuple(record for width, bundle in controls.items() for record in _records(bundle, width, precisions))
    manifest = replace(widest, network="switched", widths=tuple(controls), precisions=precisions, points=points)
    sha256 = hashlib.sha256("".join(bundle.sha256 for bundle in controls.values()).encode()).hexdigest()
    return Bundle(Path("switched.stretto"), manifest, sha256, {}, {})


class SwitchedEngine:
    """Runs the control whose width a step names."""

    def __init__(self, controls: Mapping[float, Bundle], engine: str = "onnx", threads: int = 1) -> None:
        self._own = {width: bundle.manifest.widths[0] for width, bundle in controls.items()}
        self._engines: dict[float, Engine] = {}
        for width, bundle in controls.items():
            self._engines[width] = make_engine(engine, bundle, threads)
        first = next(iter(self._engines.values()))
        self.name, self.threads, self.in_caller = first.name, first.threads, first.in_caller

    def runs(self, precision: str) -> bool:
        """Whether every control's engine computes in it."""
        return all(engine.runs(precision) for engine in self._engines.values())

    def load(self, step: Step) -> None:
        """Gets the control ready."""
        self._engines[step.width].load(self._there(step))

    def run(self, step: Step, x: Any, *more: Any) -> Any:
        """As the control's engine does."""
        return self._engines[step.width].run(self._there(step), x, *more)

    def close(self) -> None:
        """Closes every control's engine."""
        for engine in self._engines.values():
            engine.close()

    def _there(self, step: Step) -> Step:
        return step._replace(width=self._own[step.width])


def _width(control: Bundle) -> float:
    """As a share of the original network; what a control is in its own bundle is its full width."""
    alone = control.manifest.provenance.get("alone")
    return float(alone if alone is not None else control.manifest.widths[-1])


def _records(bundle: Bundle, width: float, precisions: Sequence[str]) -> list[PointRecord]:
    return [replace(record, width=width) for record in bundle.manifest.points if record.precision in precisions]


def _check(bundle: Bundle, supernet: Bundle, before: Mapping[float, Bundle]) -> None:
    has, wanted, name = bundle.manifest, supernet.manifest, bundle.path.name
    if has.depths != 1 or len(has.widths) != 1:
        raise ValueError(f"{name} has {has.depths} exits and widths {has.widths}; a control has one of each")
    for what in ("input", "classes"):
        if (found := getattr(has, what)) != (there := getattr(wanted, what)):
            raise ValueError(
                f"{what} of {name}: {str(found)[:200]}, of {supernet.path.name}: {str(there)[:200]}; give controls "
                "that were trained on the supernet's data"
            )
    if _width(bundle) in before:
        raise ValueError(
            f"{name} and {before[_width(bundle)].path.name} both have width {_width(bundle):g}; leave one out"
        )
