"""What came of a budget is counted by the wall clock, and budgets span what the profile allows."""

from types import SimpleNamespace

import numpy as np
import pytest
from stretto.bench import sweep as module
from stretto.bench.sweep import budgets_of, sweep
from stretto.policies.situation import OperatingPoint
from stretto.runtime.energy import Power
from stretto.runtime.profile import Profile


class SlowSession:
    """Answers class 1 at one point; every second request takes longer than the budget."""

    def __init__(self, clock: SimpleNamespace) -> None:
        self.clock, self.asked = clock, 0

    def infer(self, x: np.ndarray, budget_ms: float) -> SimpleNamespace:
        self.asked += 1
        self.clock.now += budget_ms / 1e3 * (2 if self.asked % 2 else 0.5)
        return SimpleNamespace(index=1, point=OperatingPoint(0.5, 2))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return clock


def test_a_deadline_counts_as_met_by_the_clock_alone(clock: SimpleNamespace) -> None:
    x, y = np.zeros((4, 1)), np.array([1, 1, 1, 1])
    (result,) = sweep(SlowSession(clock), x, y, [8.0], requests=10)  # type: ignore[arg-type]
    assert result.met == 0.5
    assert result.accuracy == 1.0
    assert (result.width, result.depth, result.requests) == (0.5, 2.0, 10)
    assert result.latency_p99_ms > result.budget_ms


def test_budgets_run_from_the_fastest_point_to_past_the_slowest() -> None:
    times = {OperatingPoint(0.5, 1): 1.0, OperatingPoint(1.0, 2): 10.0}
    entries = {(point.whole_way, 1): {"paced": (0.1, p99_ms)} for point, p99_ms in times.items()}
    made = "desk", "0" * 64, "onnx", 1, "measured", "2026-01-01T00:00:00+00:00"
    profile = Profile(*made, (0.5, 0.99), (1,), entries, Power(5.0, "a guess"))
    session = SimpleNamespace(points=tuple(times), profile=profile)
    budgets = budgets_of(session, count=5)  # type: ignore[arg-type]
    assert budgets[0] == pytest.approx(1.3) and budgets[-1] == pytest.approx(20.0)
    assert np.allclose(np.diff(np.log(budgets)), np.log(20.0 / 1.3) / 4)
