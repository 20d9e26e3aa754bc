"""Runs steps and decides between them: engine, time model and policy together, with the clocks that they are told."""

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Protocol

from ..policies import looks_at_answers, looks_at_energy, looks_at_load
from ..policies.latency import Ran, Study, TimeModel
from ..policies.load import UNKNOWN, Load
from ..policies.scores import probabilities
from ..policies.situation import Budget, Evidence, FloatArray, OperatingPoint, Policy, Situation, Step, Stop
from .engines import Engine
from .engines.cut import Cut, CutOff
from .errors import ClosedError
from .handover import SOON
from .inputs import Samples
from .menu import Exit, Menu
from .stand import NOTHING, Clocks, Moment, Note, Reached, Stand, Start, start_of

_UNTOLD = 1024  # notes at most: who makes one more tells the model of them


class Sensing(Protocol):
    """Whoever knows the load. `now`: as last seen; cheap to read, from any thread."""

    @property
    def now(self) -> Load: ...


class Shadowing(Protocol):
    """Whoever has some answers compared with better ones."""

    def told(self, x: Samples, reached: Reached, stopped_by: Stop | None, at: int = 0) -> None:
        """A sample's request ended: `x`, (samples, …), with its number `at`. Takes no time that matters for most."""


class Blind:
    """No sensors: nothing is known of the load."""

    now = UNKNOWN


BLIND = Blind()


class Failed(Exception):
    """The engine failed at a point, for that `reason`; whoever ran it looks for another."""

    def __init__(self, point: OperatingPoint, reason: Exception):
        super().__init__(f"{point}: {reason}")
        self.point, self.reason = point, reason


class Runner:
    """The one place where steps are run, timed and chosen; for any number of threads.

    The model isn't safe from several threads, so one lock guards it, which is never held while a graph runs. It is told
    of what ran by `learn`, which takes longer than a request should wait. `learns`: whether it wants to be told.
    """

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        model: TimeModel,
        clocks: Clocks = Clocks(),
    ):
        self.engine, self.policy, self.model = engine, policy, model
        # a model of somebody's own may lack both
        self.learns = bool(getattr(model, "learns", TimeModel.learns))
        self._study: Callable[[], Study | None] = getattr(model, "study", lambda: None)
        self.sensors: Sensing = BLIND
        self.shadow: Shadowing | None = None
        self.clocks = clocks
        self._looks_at_energy = looks_at_energy(policy)
        self.looks_at_load, self.looks_at_answers = looks_at_load(policy), looks_at_answers(policy)
        self._learning = Lock()
        self._notes: deque[Note] = deque()
        running = self.running = set[int]()  # a set, as its additions and removals need no lock
        threads = engine.threads
        # how many threads run a step just now, which are no load of others; without the runner, which nobody is to keep
        self.own_running: Callable[[], int] = lambda: len(running) * threads

    def begin(self, x: Samples, menu: Menu, since: Moment | None = None, awake_cpu_s: float | None = None) -> Stand:
        """Samples, (samples, …), at a menu since a moment, or since now."""
        at_s, cpu_s = since or self.now()
        return Stand(x, menu, at_s, cpu_s, cpu_s if awake_cpu_s is None else awake_cpu_s)

    def now(self) -> Moment:
        """By both clocks."""
        return Moment(self.clocks.wall(), self.clocks.thread())

    def pick_up(self, stand: Stand) -> None:
        """Time went by that no step of these samples took: the next step begins now."""
        now = self.now()
        stand.awake_cpu_s += now.cpu_s - stand.cpu_s
        stand.at_s, stand.cpu_s = now

    def predict(self, stand: Stand) -> FloatArray:
        """(steps, levels of the model) when the exits on the menu would be answered by; `stand` keeps it."""
        ran_ms = (stand.cpu_s - stand.awake_cpu_s) * 1e3
        stand.load = load = self.sensors.now
        stand.predicted_ms = predicted_ms = self.foretell(stand.menu, ran_ms, load)
        return predicted_ms

    def foretell(self, menu: Menu, ran_ms: float, load: Load) -> FloatArray:
        """(steps, levels of the model) when the exits of a menu would be answered by, as the model says."""
        with self._learning:
            return self.model.finish_ms(menu.answered_ms, ran_ms, load, menu.graphs)

    def ask(self, stand: Stand, deadline: float, budget: Budget, reached: Sequence[Reached]) -> list[Step | Stop]:
        """The policy's choice for each of the samples here, which isn't asked where nothing is left to choose.

        That takes time when there is least. `reached`: of each sample.

        Raises:
            RuntimeError: the policy chose what it can't.
        """
        slack_ms = (deadline - stand.at_s) * 1e3
        if all(reached) and (stop := stand.menu.ends(slack_ms)) is not None:
            return [stop] * len(reached)
        finish_ms = self.predict(stand)
        menu, load, spent_mj, chances = stand.menu, stand.load, stand.spent_mj, stand.chances
        return [
            self.choose(
                menu, slack_ms, budget, finish_ms, load, seen, spent_mj, None if chances is None else chances[row]
            )
            for row, seen in enumerate(reached)
        ]

    def choose(
        self,
        menu: Menu,
        slack_ms: float,
        budget: Budget,
        finish_ms: FloatArray,
        load: Load,
        seen: Reached = NOTHING,
        spent_mj: float = 0.0,
        chances: FloatArray | None = None,
    ) -> Step | Stop:
        """The policy's choice for one sample that saw these exits; `chances`: (points,) as a router said of it.

        Raises:
            RuntimeError: the policy chose what it can't.
        """
        energy_mj = menu.energy_mj if self._looks_at_energy else None
        accuracy = menu.accuracy if chances is None else chances[menu.columns]
        situation = Situation(
            slack_ms, budget, seen, menu.steps, finish_ms, self.model.levels, accuracy, load=load.busy,
            energy_mj=energy_mj, spent_mj=spent_mj, routed=chances is not None,
        )  # fmt: skip
        return menu.choose(self.policy, situation)

    def ends_ms(self, stand: Stand, step: Step) -> list[float]:
        """By when the exits on a step's way, itself the last, are answered by as good as surely: the highest level."""
        predicted_ms = self.predict(stand) if stand.predicted_ms is None else stand.predicted_ms
        latest_ms = predicted_ms[:, -1]
        return [latest_ms.item(row) for row in stand.menu.on_way[step]]

    def take(
        self,
        stand: Stand,
        step: Step,
        parts: tuple[Step, ...],
        protect: Callable[[], Cut | None] = lambda: None,
        due_s: Sequence[float] = (),
        passing: Callable[[], object] | None = None,
    ) -> tuple[Exit, list[Evidence]]:
        """Runs a step of the menu: the exit where the samples stand then, and what it says of each.

        That is an exit on its way where the clock says so. Where it is ended early, the exits that it had passed are in
        `stand.passed`, and `stand.x` goes on from them.

        Args:
            parts: what to run for it one after the other, without a decision in between: its legs, or it alone.
            protect: gives what may end the next part.
            due_s: moments, one for each part but the last, past which the next part isn't begun; none: it always is.
            passing: called after each part.

        Raises:
            CutOff: that ended it.
            ClosedError: the engine is closed.
            Failed: it raised anything else.
        """
        menu, passed = stand.menu, stand.passed
        self.running.add(id(stand))
        try:
            for number, part in enumerate(parts):
                cut = protect()
                if cut is not None and cut.asked:  # between two parts; not every engine would look
                    raise CutOff
                logits, features = self._run(part, stand.x, cut)
                if features is not None:  # nothing goes on from the final exit
                    stand.x = features
                exit = menu.after[part]
                passed.append((exit, logits))
                if exit.record is None:
                    stand.chances = probabilities(logits)
                menu = exit.menu
                if passing is not None:
                    passing()
                if number < len(due_s) and self.clocks.wall() > due_s[number]:
                    step, parts = step._replace(depth=exit.point.depth), parts[: number + 1]
                    break
        except CutOff:
            self._note_step(stand, step, cut_off=True)
            raise
        finally:
            self.running.discard(id(stand))
            stand.spent_mj += stand.menu.taken_mj(step, parts, len(passed))
        self._note_step(stand, step)
        stand.menu = menu
        return exit, exit.read(logits, stand.chances)

    def run_alone(self, start: Start, step: Step, x: Samples) -> tuple[FloatArray, Samples | None, Moment]:
        """A request's first step, as one graph that nobody ends: logits, features to go on from, and when it ended.

        `x`: (1, …), made for this request.

        Raises:
            ClosedError: the engine is closed.
            Failed: it raised anything else.
        """
        key = id(x)
        self.running.add(key)
        try:
            logits, features = self._run(step, x, None)
        finally:
            self.running.discard(key)
        end = self.now()
        if self.learns:
            self._note(Note(step, start, end, 1, False, False))
        return logits, features, end

    def _run(self, step: Step, x: Samples, cut: Cut | None) -> tuple[FloatArray, Samples | None]:
        """What the engine gives; that it can't is told from whatever else may go wrong."""
        try:
            return self.engine.run(step, x, cut)
        except (CutOff, ClosedError):
            raise
        except Exception as error:
            raise Failed(step.point, error) from error

    def study(self) -> None:
        """Lets the model work out what it was told, which takes a while that no request waits for."""
        with self._learning:
            study = self._study()
        if study is not None:
            with SOON:
                study.work_out()
            with self._learning:
                study.put_in_place()

    def learn(self) -> None:
        """Tells the model of all that ran since the last time."""
        while self._notes:
            with self._learning:  # for each anew, so that a request needn't wait for all
                if self._notes:
                    self.model.observe(self._ran(self._notes.popleft()))

    def note_path(self, start: Start, end: Stand, step: Step, graphs: int, cut_off: bool) -> None:
        """Of a whole path, as one step from where it started."""
        if self.learns:
            self._note(Note(step, start, Moment(end.at_s, end.cpu_s), graphs, cut_off, True))

    def _note_step(self, stand: Stand, step: Step, cut_off: bool = False) -> None:
        """Of a step that began at `stand`, which ends now."""
        now = self.now()
        if self.learns:
            self._note(Note(step, start_of(stand), now, len(stand.passed) + cut_off, cut_off, False))
        stand.at_s, stand.cpu_s = now

    def _note(self, note: Note) -> None:
        self._notes.append(note)
        if len(self._notes) >= _UNTOLD:
            self.learn()

    def _ran(self, note: Note) -> Ran:
        """As the model is told of it."""
        start, menu = note.start, note.start.menu
        row = menu.rows[note.step]
        return Ran(
            note.step,
            menu.idle_ms[row],
            (start.cpu_s - start.awake_cpu_s) * 1e3,
            (note.end.cpu_s - start.cpu_s) * 1e3 if self.engine.in_caller else None,
            (note.end.at_s - start.at_s) * 1e3,
            start.load,
            note.cut_off,
            None if start.predicted_ms is None else start.predicted_ms[row] - menu.answer_ms,
            note.whole_path,
            note.graphs,
        )
