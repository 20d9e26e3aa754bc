"""What a bundle's certificate means where it runs: the rule that stops early."""

from math import inf

from ..policies import make_exit_rule
from ..policies.exits import RulePerWay
from .manifest import Certified


def certified_rule(certified: Certified) -> RulePerWay:
    """Its thresholds, each at its width and precision; elsewhere nothing stops early.

    Raises:
        ValueError: there is no such rule, or a threshold is out of its range.
    """
    return RulePerWay(
        {
            (way.width, way.precision): make_exit_rule(
                certified.rule, threshold=inf if way.threshold is None else way.threshold
            )
            for way in certified.ways
        }
    )
