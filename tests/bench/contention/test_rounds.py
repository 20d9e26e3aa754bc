"""Rounds visit every environment as often, in bursts that last, and ask everybody the same."""

import random
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stretto.bench.contention import rounds as module
from stretto.bench.contention.load import ENVIRONMENTS, Environment, nothing
from stretto.bench.contention.rounds import (
    BURST_ROUNDS,
    VISIT_ROUNDS,
    Asking,
    Effort,
    Field,
    Match,
    Visit,
    bursts,
    recording_of,
    visits,
)
from stretto.bench.recordings import RecordedPath, Route
from stretto.policies.situation import OperatingPoint

ROUTES = (Route(0.5, "fp32"), Route(1.0, "fp32", in_one=True))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0, slept=[])

    def sleep(seconds: float) -> None:
        clock.slept.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(module.time, "sleep", sleep)
    return clock


@pytest.mark.parametrize("rounds", [1, 19, 40, VISIT_ROUNDS, 500])
@pytest.mark.parametrize("seed", range(5))
def test_no_burst_is_shorter_than_said_unless_all_is(rounds: int, seed: int) -> None:
    on = bursts(rounds, random.Random(seed))
    lengths = [len(list(phase)) for _, phase in groupby(on)]
    assert len(on) == sum(lengths) == rounds
    assert min(lengths) >= min(rounds, BURST_ROUNDS[0])


def test_bursts_of_a_visit_are_both_on_and_off() -> None:
    assert all(set(bursts(VISIT_ROUNDS, random.Random(seed))) == {True, False} for seed in range(20))


@pytest.mark.parametrize("rounds", [1, VISIT_ROUNDS, VISIT_ROUNDS + 7])
def test_every_environment_has_as_many_rounds_as_said(rounds: int) -> None:
    made = list(visits(Effort(rounds=rounds), lambda: 0.0))
    for environment in ENVIRONMENTS:
        assert sum(len(visit.on) for visit in made if visit.environment is environment) == rounds
    assert [visit.number for visit in made] == list(range(len(made)))


def test_minutes_end_with_a_whole_turn_of_environments() -> None:
    seconds = iter([0.0, 59.0, 61.0])
    assert len(list(visits(Effort(minutes=1.0), lambda: next(seconds)))) == 2 * len(ENVIRONMENTS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither rounds nor minutes"),
        ({"rounds": 0}, "rounds is 0; give at least 1"),
        ({"minutes": 0.0}, "minutes is 0; give a number above 0"),
        ({"minutes": -1.0, "rounds": 5}, "minutes is -1"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"minutes": float("inf")}, "minutes is inf"),
    ],
)
def test_effort_without_a_beginning_or_an_end_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Effort(**given)


def played(clock: SimpleNamespace, asks: dict, on: list[bool], environment: Environment | None = None) -> list:
    def record(way: tuple[float, str], x: np.ndarray, phase: str) -> RecordedPath:
        return RecordedPath(0, f"{phase} {x:g}", 0.0, ())

    entered = Field(asks, ROUTES, record, Asking())
    match = Match(entered, np.arange(3, dtype=np.float32), [2.0, 8.0], seed=0)
    return list(match.play(Visit(0, environment or Environment("calm", nothing), on)))


def test_everybody_is_asked_the_same_in_a_round_and_timed_by_the_clock(clock: SimpleNamespace) -> None:
    asked: dict[str, list] = {"a": [], "b": []}

    def ask(name: str, takes_s: float):
        def asking(x: np.ndarray, deadline_ms: float) -> SimpleNamespace:
            asked[name].append((float(x), deadline_ms))
            clock.now += takes_s
            return SimpleNamespace(index=int(x), point=OperatingPoint(1.0, 2))

        return asking

    rounds = played(clock, {"a": ask("a", 0.004), "b": ask("b", 0.001)}, [True] * 6)
    assert asked["a"] == asked["b"] == [(now.sample, now.deadline_ms) for now in rounds]
    assert [now.answers["a"].latency_ms for now in rounds] == pytest.approx([4.0] * 6)
    for now in rounds:
        assert {route: path.phase for route, path in now.paths.items()} == dict.fromkeys(ROUTES, f"calm {now.sample}")
    assert [path.round for path in recording_of(rounds).paths] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert sorted(now.sample for now in rounds) == [0, 0, 1, 1, 2, 2]
    assert sorted(now.deadline_ms for now in rounds) == [2.0] * 3 + [8.0] * 3


def test_requests_come_as_often_as_a_device_asks_but_never_without_a_pause(clock: SimpleNamespace) -> None:
    def slow(x: np.ndarray, deadline_ms: float) -> None:
        clock.now += 1.0

    rounds = played(clock, {"slow": slow}, [True] * 5)
    assert all(0.005 <= pause <= 0.5 for pause in clock.slept if pause)
    assert rounds[0].answers["slow"].label == -1 and rounds[0].answers["slow"].point is None


def test_load_is_switched_when_a_phase_begins_and_never_else(clock: SimpleNamespace) -> None:
    switched: list[bool] = []

    class Load:
        def __enter__(self):
            return switched.append

        def __exit__(self, *error: object) -> None:
            switched.append(False)

    rounds = played(clock, {}, [False, False, True, True, False], Environment("bursts", Load, bursts=True))
    assert switched == [False, True, False, False]
    assert [now.on for now in rounds] == [False, False, True, True, False]


def test_a_thread_of_ours_runs_while_somebody_is_asked_and_never_else(clock: SimpleNamespace) -> None:
    asking, seen = Asking(), []
    match = Match(Field({"a": lambda x, ms: seen.append(asking())}, (), None, asking), np.zeros(1), [1.0], seed=0)
    for _ in match.play(Visit(0, Environment("calm", nothing), [True] * 3)):
        seen.append(asking())
    assert seen == [1, 0] * 3
