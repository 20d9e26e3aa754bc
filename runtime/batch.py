"""Several samples of one request, which go on together as long as the policy chooses the same for them."""

from typing import NamedTuple

from ..policies.situation import Evidence, OperatingPoint, Step, Stop
from .course import Course, Request, depths_of, is_behind_router
from .engines.cut import CutOff
from .inputs import Samples
from .offers import Offers
from .runner import Failed, Runner
from .stand import NOTHING, Reached, Stand, start_of
from .watchdog import Guards


class Group(NamedTuple):
    """Samples, by their numbers, that take the same step next; `at`: the exit where they stand, None at the start."""

    samples: list[int]
    stand: Stand
    at: OperatingPoint | None
    step: Step


class BatchRun(Course):
    """Takes every sample of a batch as far as the policy goes. `reached`, `exits`, `stops`, `spent_mj`: of each.

    Arguments and errors as for `Run`.
    """

    def __init__(self, runner: Runner, offers: Offers, request: Request, x: Samples, guards: Guards | None):
        super().__init__(runner, offers, request, x, guards)
        self.reached: list[Reached] = [NOTHING] * len(x)
        self.exits: list[list[int]] = [[] for _ in x]
        self.stops: dict[int, Stop] = {}
        self.spent_mj = [0.0] * len(x)
        self.was_cut_off = False
        self._ran = stand = runner.begin(x, request.menus.start, request.since)
        self._groups = self._part(stand, list(range(len(x))), None)
        self.start = start_of(stand)

    def finish(self) -> None:
        """Runs until all samples have stopped."""
        while self._groups:
            group = self._groups.pop()
            if group.stand is not self._ran:  # others ran since it was decided
                self._runner.pick_up(group.stand)
                self._ran = group.stand
            try:
                self._groups += self._advance(group)
            except CutOff:
                self._be_cut_off(group)

    def end(self) -> None:
        """As of `Course`."""
        super().end()
        if (shadow := self._runner.shadow) is not None:
            for sample, reached in enumerate(self.reached):
                shadow.told(self._x, reached, self.stops.get(sample), sample)

    def _advance(self, group: Group) -> list[Group]:
        """Runs the group's step, notes what its samples saw, and gives the groups that go on."""
        stand, step = group.stand, group.step
        try:
            exit, evidence = self._take(stand, step, bool(self.reached[group.samples[0]]))
        except Failed as failed:
            return self._fall_back(group, failed)
        self._pass(group)
        if evidence:  # a router says nothing
            self._see(group, evidence)
        return self._part(stand, group.samples, exit.point)

    def _pass(self, group: Group) -> None:
        depths = depths_of(group.stand.passed)
        for sample in group.samples:
            self.exits[sample] += depths
            self.spent_mj[sample] = group.stand.spent_mj
        group.stand.passed.clear()

    def _see(self, group: Group, evidence: list[Evidence]) -> None:
        for sample, seen in zip(group.samples, evidence, strict=True):
            self.reached[sample] += (seen,)

    def _read_passed(self, group: Group) -> OperatingPoint | None:
        """The step ended early: the exits on its way are those in hand; the last of them."""
        at = group.at
        for exit, logits in group.stand.passed:
            if evidence := exit.read(logits, group.stand.chances):
                self._see(group, evidence)
            at = exit.point
        self._pass(group)
        return at

    def _part(self, stand: Stand, samples: list[int], at: OperatingPoint | None) -> list[Group]:
        """Asks for every sample that stands here, notes why some stop, and gives the groups that go on."""
        rows_by_step: dict[Step, list[int]] = {}
        choices = self._ask(stand, [self.reached[sample] for sample in samples])
        for row, choice in enumerate(choices):
            if isinstance(choice, Stop):
                self.stops[samples[row]] = choice
            else:
                rows_by_step.setdefault(choice, []).append(row)
        if [len(rows) for rows in rows_by_step.values()] == [len(samples)]:
            return [self._group(samples, stand, at, step) for step in rows_by_step]
        return [
            self._group([samples[row] for row in rows], self._some(stand, rows, at, step), at, step)
            for step, rows in rows_by_step.items()
        ]

    def _group(self, samples: list[int], stand: Stand, at: OperatingPoint | None, step: Step) -> Group:
        """Where the step starts at the input again, so does the group."""
        if not step.first and at is not None:
            stand.x, at = self._x[samples], None
        return Group(samples, stand, at, step)

    def _some(self, stand: Stand, rows: list[int], at: OperatingPoint | None, step: Step) -> Stand:
        """A part of the samples that stand here, with the times of so many."""
        menus = self._offers.menus(len(rows))
        menu = menus.start if at is None else menus.exits[at].menu
        if step not in menu.rows:  # the engine failed there, in another request, since this one chose it
            menu = stand.menu
        part = Stand(stand.x[rows], menu, stand.at_s, stand.cpu_s, stand.awake_cpu_s, spent_mj=stand.spent_mj)
        part.chances = None if stand.chances is None else stand.chances[rows]
        self._runner.predict(part)
        return part

    def _fall_back(self, group: Group, failed: Failed) -> list[Group]:
        """Decides again without the point: how to go on from here, or else whether to start again at another width."""
        at = self._read_passed(group)
        self._without(failed, group.stand, at)
        is_stuck = is_behind_router(group.stand, at, self.reached[group.samples[0]])
        groups = [] if is_stuck else self._part(group.stand, group.samples, at)
        stopped = [sample for sample in group.samples if is_stuck or sample in self.stops]
        if at is None or not stopped:
            return groups
        for sample in stopped:
            self.stops.pop(sample, None)
        start = self._offers.menus(len(stopped)).start
        again = self._runner.begin(self._x[stopped], start)
        again.spent_mj = group.stand.spent_mj
        return groups + self._part(again, stopped, None)

    def _be_cut_off(self, group: Group) -> None:
        self._read_passed(group)
        self.was_cut_off = True
        self.stops |= dict.fromkeys(group.samples, Stop.DEADLINE)
        if self._guard is not None:
            self._guard.was_cut(group.stand.at_s)
