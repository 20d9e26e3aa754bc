"""What a bundle's certificate means where it runs: the rule that stops early, and which answers its promise covers."""

from collections.abc import Callable
from functools import partial
from math import inf

from ..policies import make_exit_rule
from ..policies.exits import CertifiedRule, Rule, RulePerWay
from ..policies.situation import OperatingPoint, Stop
from .manifest import Certified

IsCovered = Callable[[OperatingPoint, Stop | None], bool]  # of the last exit that was looked at, and why it was


def certified_rule(certified: Certified) -> RulePerWay:
    """Its thresholds, each at its width and precision; elsewhere nothing stops early.

    A `CertifiedRule`, unless the method promises nothing.

    Raises:
        ValueError: there is no such rule, or a threshold is out of its range.
    """
    made_of = RulePerWay if certified.method == "naive" else CertifiedRule
    return made_of(
        {
            (way.width, way.precision): make_exit_rule(
                certified.rule, threshold=inf if way.threshold is None else way.threshold
            )
            for way in certified.ways
        }
    )


def coverage_of(rule: Rule | None, depths: int) -> IsCovered | None:
    """What says whether an answer is covered by a rule's promise, asked anew for each; None where it makes none.

    It covers what the rule ended, and what went on to the final exit, `depths`, without any exit being sure.
    """
    covers = getattr(rule, "covers", None)
    return None if covers is None else partial(_is_covered, covers, depths)


def _is_covered(
    covers: Callable[[OperatingPoint], bool], depths: int, point: OperatingPoint, stop: Stop | None
) -> bool:
    ended_by_rule = stop is Stop.CONFIDENCE or (stop is Stop.FINAL and point.depth == depths)
    return ended_by_rule and covers(point)
