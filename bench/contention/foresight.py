"""How well the time models of `bench.contention` foretold the times that it recorded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...policies.situation import Step
from ...runtime.bundle import Bundle
from ...runtime.options import chosen_model
from ...runtime.profile import Profile
from ...runtime.steps import all_steps
from ..foresight import LEVEL, LONG, PATHS, STEPS, TUNED, evaluate
from ..recordings import Recording
from ..report import Row
from .contestants import BOTH, OURS, PROFILE, Runtime

OFF_POINTS, OVER_HINDSIGHT, OVER_SCALAR = 0.5, 1.1, 0.75
SKIP = 200  # steps and paths at the beginning


def foresight(recording: Recording, bundle: Bundle, profile: Profile, runtime: Runtime) -> dict[str, Any]:
    """Figures of time models, this runtime's by contestant, on steps, whole paths and those longer than a slice.

    As `evaluate` gives them, but None for what can't be said, such as a ratio of nothing.
    """
    idle_ms: dict[Step, Sequence[float]] = {step: profile.finish_ms(step) for step in all_steps(bundle.manifest)}
    names = {OURS: runtime.time_model, PROFILE: runtime.with_profile.time_model, "scalar": "scalar"}
    models = {who: lambda name=name: chosen_model(name, profile) for who, name in names.items()}
    skip = min(SKIP, len(recording.paths) // 2)
    found = evaluate(recording, models, idle_ms, skip)
    return {who: {kind: _said(figures) for kind, figures in kinds.items()} for who, kinds in found.items()}


def _said(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def foresight_rows(found: Mapping[str, Mapping[str, Any]], network: str) -> list[Row]:
    """What has a goal and can be said of both of this runtime's time models."""
    return [
        replace(row, figure=row.figure + ending)
        for who, ending in BOTH.items()
        for row in _rows(found[who], found[TUNED], network)
    ]


def _rows(ours: Mapping[str, Any], tuned: Mapping[str, Any], network: str) -> list[Row]:
    rows = [_share_row(ours[kind], kind, network) for kind in (STEPS, PATHS) if ours[kind]["under"] is not None]
    rows += [
        Row(f"pinball loss of {kind} over a constant's in hindsight", network, ours[kind]["over_hindsight"], "×",
            at_most=OVER_HINDSIGHT, control={"count": ours[kind]["count"], "loss, ms": ours[kind]["loss_ms"]})
        for kind in (STEPS, PATHS) if ours[kind]["over_hindsight"] is not None
    ]  # fmt: skip
    if ours[LONG]["over_scalar"] is not None:
        control = {"count": ours[LONG]["count"], "losses, ms": [ours[LONG]["loss_ms"], tuned[LONG]["loss_ms"]]}
        rows.append(
            Row("pinball loss of long paths over the tuned scalar filter's", network, ours[LONG]["over_scalar"], "×",
                at_most=OVER_SCALAR, control=control)
        )  # fmt: skip
    return rows


def _share_row(figures: Mapping[str, Any], kind: str, network: str) -> Row:
    share = float(figures["under"])
    return Row(
        f"{kind} under their predicted 99 % quantile, off by", network, 100 * abs(share - LEVEL), "points",
        at_most=OFF_POINTS, control={"share": share, "count": figures["count"]},
    )  # fmt: skip
