"""Every step that there is along a bundle's ways, by its manifest."""

from itertools import product

from ..policies.situation import Step
from .manifest import Manifest


def spans(manifest: Manifest, width: float, precision: str, first: int = 0) -> tuple[Step, ...]:
    """The steps that start at stage `first` (0 for the stem, 1 after a router, else 2 or more), nearest exit first."""
    return tuple(Step(first, depth, width, precision) for depth in range(max(first, 1), manifest.depths + 1))


def starts(manifest: Manifest) -> tuple[int, ...]:
    """The stages that steps can start at without a router: the stem, and the one after each exit but the final."""
    return (0, *range(2, manifest.depths + 1))


def legs(manifest: Manifest, width: float, precision: str) -> tuple[Step, ...]:
    """The steps of a request that goes exit by exit."""
    return tuple(spans(manifest, width, precision, first)[0] for first in starts(manifest))


def ways(manifest: Manifest) -> tuple[tuple[float, str], ...]:
    """Every width and precision: what stays fixed along a request."""
    return tuple(product(manifest.widths, manifest.precisions))


def all_steps(manifest: Manifest) -> tuple[Step, ...]:
    """Every step that a request can be offered."""
    begins = (*starts(manifest), *([1] if manifest.has_router else []))
    steps = (step for way in ways(manifest) for first in begins for step in spans(manifest, *way, first))
    return (*steps, *routers(manifest))


def routers(manifest: Manifest) -> tuple[Step, ...]:
    """The stem and the router in each precision, none where there is no router."""
    return tuple(map(manifest.router_step, manifest.precisions)) if manifest.has_router else ()


def routed_legs(manifest: Manifest, width: float, precision: str) -> tuple[Step, ...]:
    """The steps of a request that goes exit by exit from a router."""
    first, *onward = legs(manifest, width, precision)
    return (manifest.router_step(precision), first._replace(first=1), *onward)
