"""The switch interval is the process's: short while a graph runs, and afterwards as it was."""

import sys
from threading import Barrier, Thread

import numpy as np
import pytest
from stretto.policies.fixed import Fixed
from stretto.policies.situation import OperatingPoint
from stretto.runtime.bundle import Bundle
from stretto.runtime.handover import INTERVAL_S, Handover
from stretto.runtime.session import Session

from .fakes import Clock, SetPace, set_profile
from .toy import toy_bundle

USUAL_S = 0.004


@pytest.fixture(autouse=True)
def usual():
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL_S)
    yield
    sys.setswitchinterval(before)


def now_s():
    return pytest.approx(sys.getswitchinterval())


def test_interval_is_short_inside_and_as_before_afterwards():
    soon = Handover()
    with soon:
        assert now_s() == INTERVAL_S
        with soon:
            assert now_s() == INTERVAL_S
        assert now_s() == INTERVAL_S
    assert now_s() == USUAL_S


def test_interval_is_as_before_after_an_error():
    with pytest.raises(KeyError), Handover():
        raise KeyError
    assert now_s() == USUAL_S


def test_shorter_interval_is_left_alone():
    sys.setswitchinterval(INTERVAL_S / 10)
    with Handover():
        assert now_s() == INTERVAL_S / 10
    assert now_s() == INTERVAL_S / 10


def test_interval_that_somebody_sets_meanwhile_stays():
    with Handover():
        sys.setswitchinterval(0.002)
    assert now_s() == 0.002


def test_last_of_many_threads_restores_it():
    soon, together, seen = Handover(), Barrier(4), []

    def enter():
        for _ in range(50):
            together.wait(30)
            with soon:
                together.wait(30)
                seen.append(sys.getswitchinterval())

    threads = [Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == pytest.approx([INTERVAL_S] * 200)
    assert now_s() == USUAL_S


@pytest.mark.parametrize("ask", ["infer", "refine", "submit"])
def test_session_runs_its_graphs_so_and_nothing_else(tmp_path, ask):
    bundle = Bundle.open(toy_bundle(tmp_path / "toy.stretto", widths=(1.0,), depths=2).path)
    seen, x = [], np.zeros((3, 8, 8), np.float32)

    class Looking(SetPace):
        def run(self, step, x, cut=None):
            seen.append(sys.getswitchinterval())
            return super().run(step, x, cut)

    asks = {
        "infer": lambda: session.infer(x),
        "refine": lambda: [now_s() for _ in session.refine(x)],
        "submit": lambda: session.submit(x).result(30),
    }
    point = OperatingPoint(1.0, 2)
    with Session(bundle, Looking(bundle, Clock(), 1.0), Fixed(point), set_profile(bundle)) as session:
        seen.clear()
        between = asks[ask]()
        assert seen == pytest.approx([INTERVAL_S] * len(seen))
        assert seen
    if ask == "refine":
        assert between == [USUAL_S] * 2
    assert now_s() == USUAL_S
