"""What a router would have sent each input to, for every `enough`, and how long that takes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ...policies.scores import probabilities
from ...policies.situation import OperatingPoint, Situation, Step, Stop
from ...runtime.bundle import Bundle
from ...runtime.engines import make_engine
from ...training.certify import Logits
from ...training.evaluate import BATCH, Tell
from .curves import Curve, Route, Sides

ROUTER = "router"
ENOUGH = tuple(np.round(1 - np.geomspace(0.002, 0.9, 60), 4).tolist())
Samples = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Through:
    """Goes through the router to `point`, whatever that says."""

    routes: ClassVar[bool] = True
    point: OperatingPoint

    def next(self, situation: Situation) -> Step | Stop:
        """See `Policy`."""
        if situation.evidence:
            return Stop.TARGET if situation.steps else Stop.FINAL
        steps = [step for step in situation.steps if step.precision == self.point.precision]
        look = next((step for step in steps if not step.depth), None)
        return look or next(step for step in steps if step.point == self.point)


def chances_on(bundle: Bundle, sides: tuple[Samples, Samples], tell: Tell) -> Sides | None:
    """(samples, points) of both, in the manifest's order of points; None: the bundle has no router."""
    return Sides(*(_chances(bundle, pixels, tell) for pixels in sides)) if bundle.routed else None


def router_curve(bundle: Bundle, precision: str, logits: tuple[Logits, Logits], labels: Sides, chances: Sides) -> Curve:
    """To the point of the fewest MACs that is likely enough right, or to the likeliest one."""
    has = bundle.manifest
    records = sorted((one for one in has.points if one.precision == precision), key=lambda one: one.macs)
    columns = [bundle.routed.index(record.point) for record in records]
    ends, right = [], []
    for of_points, truth, said in zip(logits, labels, chances, strict=True):
        ends.append(sent(said[:, columns]).astype(np.int8))
        each = np.stack([of_points[record.point].argmax(axis=1) == truth for record in records], axis=1)
        right.append(np.take_along_axis(each, ends[-1].astype(np.intp), axis=1))
    look, extra = has.router_step(precision).point, float(has.provenance["router"]["macs"])
    routes: tuple[Route, ...] = tuple((look, record.point) for record in records)
    macs = np.array([record.macs + extra for record in records])
    return Curve(ROUTER, f"{ROUTER}, {precision}", precision, ENOUGH, routes, macs, Sides(*ends), Sides(*right))


def sent(chances: NDArray[np.floating]) -> NDArray[np.integer]:
    """(samples, `ENOUGH`) which point is the first that is likely enough right, or the likeliest."""
    likely = chances[:, :, None] >= np.array(ENOUGH)
    found: NDArray[np.integer] = np.where(likely.any(axis=1), likely.argmax(axis=1), chances.argmax(axis=1)[:, None])
    return found


def _chances(bundle: Bundle, pixels: Samples, tell: Tell) -> NDArray[np.floating]:
    engine, step = make_engine("onnx", bundle), bundle.manifest.router_step()
    try:
        said = []
        for start in range(0, len(pixels), BATCH):
            said.append(engine.run(step, bundle.manifest.input.prepare(pixels[start : start + BATCH]))[0])
            tell("router", start, len(pixels))
    finally:
        engine.close()
    return probabilities(np.concatenate(said))
