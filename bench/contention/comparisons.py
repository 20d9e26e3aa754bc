"""Who is compared with whom in `bench.contention`, and with what goal."""

from dataclasses import dataclass, replace

from .contestants import (
    AGAIN,
    ALERT,
    BOTH,
    BY_EXIT,
    FULL,
    FULL_FP32,
    OURS,
    PRIORITISED,
    PROFILE,
    SMALLEST,
    SUBMITTED,
    SWITCHED,
)

BEST_FIXED, BEST_HERE = "best fixed point", "best fixed point of each environment"
PHASE_ORACLE, CLAIRVOYANT = "phase oracle", "clairvoyant"
PHASE_BY_ALL, HERE_BY_ALL = "phase oracle, by all rounds", "best fixed point of each environment, by all rounds"
MET, FAILED, COUNTED = "deadlines met", "wrong or late", "wrong or late, counted"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One contestant's count over another's, all rounds or those of one environment; a goal as `Row` has it."""

    figure: str
    ours: str
    theirs: str
    count: str = FAILED
    at_most: float | None = None
    at_least: float | None = None
    environment: str | None = None
    note: str = ""


GOALS = (
    Comparison("deadlines met over the smallest network's", OURS, SMALLEST, MET, at_least=0.99),
    Comparison("wrong or late over the phase oracle's", OURS, PHASE_ORACLE, at_most=1.02),
    Comparison(
        "wrong or late over the best fixed point's, bursts", OURS, BEST_HERE, at_most=1.0, environment="bursts",
        note="a point for each deadline, chosen in hindsight for the bursts",
    ),
    Comparison(
        "wrong or late over the best fixed point's, all environments", OURS, BEST_FIXED, at_most=1.0,
        note="a point for each deadline, chosen in hindsight, the same in all environments",
    ),
    Comparison(
        "wrong or late over the switched networks'", OURS, SWITCHED, at_most=1.0,
        note=f"which have the policy and the time model of {OURS!r}",
    ),
)  # fmt: skip
COMPARISONS = (
    *(replace(goal, figure=goal.figure + ending, ours=who) for who, ending in BOTH.items() for goal in GOALS),
    Comparison(
        "wrong or late over the phase oracle's, by all rounds", OURS, PHASE_BY_ALL,
        note="chosen by all rounds of the phase, not those of one deadline, of which the luckiest point is the best",
    ),
    Comparison(
        "wrong or late over the best fixed point's, bursts, by all rounds", OURS, HERE_BY_ALL, environment="bursts",
        note="the same for the bursts",
    ),
    Comparison("deadlines met over those with the profile alone", OURS, PROFILE, MET),
    Comparison("wrong or late over those with the profile alone", OURS, PROFILE),
    Comparison("deadlines met, smallest network over itself (chance)", AGAIN, SMALLEST, MET),
    Comparison("wrong or late, smallest network over itself (chance)", AGAIN, SMALLEST),
    Comparison("wrong or late over the full network's", OURS, FULL),
    Comparison("wrong or late over the full network's, fp32", OURS, FULL_FP32),
    Comparison("wrong or late over those exit by exit", OURS, BY_EXIT),
    Comparison("wrong or late over the smallest network's", OURS, SMALLEST),
    Comparison("wrong or late over those of alert with its scalar filter", OURS, ALERT),
    Comparison("wrong or late over the clairvoyant's, whom nobody can reach", OURS, CLAIRVOYANT),
    Comparison("wrong or late, submitted over inferred", SUBMITTED, OURS),
    Comparison("wrong or late, high priority over normal", PRIORITISED, SUBMITTED),
    Comparison("deadlines met, high priority over normal", PRIORITISED, SUBMITTED, MET),
)  # fmt: skip
