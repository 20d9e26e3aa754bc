"""What the searches say: a table of accuracies, and figures with their goals, differences paired by seed."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ..report import Row
from .panels import FEW, Estimate, Panel
from .variants import (
    LONGER,
    MORE,
    RANDOM,
    SIGNS,
    TICKET,
    UNTRAINED,
    UNTRAINED_RANDOM,
    UNTRAINED_SIGNS,
    VARIANTS,
)

MATCH = -0.1  # points; a ticket that is on average no further below the whole network matches it
GOAL = ("weights", "low")  # the only panel with goals; of the others whatever is found is reported
MATCH_NOTE = (
    f"the fewest weights left at which, and at every step before, the ticket is on average at most {-MATCH:g} points "
    "below the whole network of the same seed; 100 where that is so at none"
)
PAIRED_NOTE = "percent of the test's images, paired by seed; 95 % interval by Student's t over the seeds"


def make_rows(panel: Panel) -> list[Row]:
    """The panel's figures, with goals where there are any."""
    untrained = [_untrained_row(panel, variant) for variant in (UNTRAINED, UNTRAINED_SIGNS)]
    return [_match_row(panel), *(_gain_rows(panel, panel.few) if panel.few else []), *untrained]


def _gain_rows(panel: Panel, few: list[int]) -> list[Row]:
    """Where few weights are left: the ticket at each share, what else is compared averaged over them."""
    goal = 0.0 if (panel.kind, panel.rate) == GOAL else None
    return [
        *(_gain_row(panel, "ticket over random", TICKET, RANDOM, [n], goal) for n in few),
        *(_gain_row(panel, "ticket over whole", TICKET, None, [n]) for n in few),
        _gain_row(panel, "signs over random", SIGNS, RANDOM, few),
        _gain_row(panel, "ticket over signs", TICKET, SIGNS, few),
        _gain_row(panel, "longer over ticket", LONGER, TICKET, few, note=_costs(few)),
    ]


def smallest_match(panel: Panel) -> int:
    """The last round of those, without a gap from the first, whose ticket matches the whole network; 0 if none does."""
    found = 0
    for number in sorted(panel.left):
        if (panel.test[TICKET][number] - panel.whole).mean < MATCH:
            break
        found = number
    return found


def _match_row(panel: Panel) -> Row:
    found = smallest_match(panel)
    goal = 100 * FEW if (panel.kind, panel.rate) == GOAL else None
    gain = panel.test[TICKET][found] - panel.whole
    control = {"whole network, %": panel.whole.mean, "ticket, %": panel.test[TICKET][found].mean,
               "difference": str(gain)}  # fmt: skip
    return Row("weights left where ticket matches whole", panel.name, 100 * panel.left[found], "%",
               at_most=goal, control=control, note=MATCH_NOTE)  # fmt: skip


def _gain_row(
    panel: Panel, figure: str, of: str, over: str | None, numbers: Sequence[int], goal: float | None = None,
    note: str = "",
) -> Row:  # fmt: skip
    """Points of one variant over another, or over the whole network, averaged over rounds."""
    gain = panel.gain(of, over, numbers)
    at = _shares(panel, numbers)
    return Row(f"{figure}, at {at}", panel.name, gain.mean, "points", at_least=goal, spread=gain.spread,
               control={"by_seed": list(gain.by_seed)}, note="; ".join(filter(None, (PAIRED_NOTE, note))))  # fmt: skip


def _untrained_row(panel: Panel, variant: str) -> Row:
    """At the round that is best on the calibration split, so that nothing is chosen on the test."""
    line = panel.calibration[variant]
    number = max((n for n in line if n > 0), key=lambda n: line[n].mean)
    accuracy = panel.test[variant][number]
    control = {
        "chance, %": panel.chance,
        "new random numbers in the same shape, untrained, %": str(panel.test[UNTRAINED_RANDOM][number]),
        "whole network, the same numbers untrained, %": str(panel.test[variant][0]),
    }
    return Row(f"{_words(variant)}, at {_shares(panel, [number])}", panel.name, accuracy.mean, "%",
               spread=accuracy.spread, control=control,
               note="at the share that is best on the calibration split")  # fmt: skip


def _shares(panel: Panel, numbers: Sequence[int]) -> str:
    return ", ".join(f"{100 * panel.left[number]:.1f}" for number in numbers) + " %"


def _costs(numbers: Sequence[int]) -> str:
    """What training for longer costs against the pruning that led there."""
    pruning = ", ".join(str(number + 1) for number in numbers)
    return f"{MORE} times the epochs of one training; the pruning that led there and the ticket's take {pruning} times"


def print_panels(console: Console, panels: Sequence[Panel]) -> None:
    """A table a panel: a line for each share of weights left, a column for each beginning; mean ± standard error."""
    for panel in panels:
        table = Table("left, %", *map(_words, VARIANTS), title=f"{panel.title}: % of the test's images right",
                      title_justify="left", padding=(0, 1, 0, 0), box=box.HORIZONTALS)  # fmt: skip
        for number, left in panel.left.items():
            cells = (_cell(panel.test.get(variant, {}).get(number)) for variant in VARIANTS)
            table.add_row(f"{100 * left:.1f}", *cells)
        console.print(table)
    for name, variant in VARIANTS.items():
        console.print(f"{_words(name)}: {variant.label}", highlight=False)


def _words(variant: str) -> str:
    return variant.replace("_", " ")


def _cell(estimate: Estimate | None) -> str:
    return "" if estimate is None else str(estimate)
