from collections import Counter
from itertools import product

import pytest
from stretto.policies.situation import Step
from stretto.runtime import measure
from stretto.runtime.bundle import Bundle
from stretto.runtime.energy import EnergyMeter, Power, open_meter
from stretto.runtime.engines import make_engine
from stretto.runtime.measure import kept_profile, measure_and_keep, measure_profile, warm_up_profile
from stretto.runtime.steps import all_steps

from .fakes import Clock, SetPace, expected_ms
from .sensors.trees import plant, zone
from .toy import toy_bundle

ROUTES = 4 * (1 + 2)  # of each width and precision: exit by exit, and to the second and third exit in one graph


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(toy_bundle(tmp_path_factory.mktemp("measure") / "toy.stretto", precisions=("fp32", "int8")).path)


@pytest.fixture(autouse=True)
def no_meter(monkeypatch):
    """Whatever the machine of the tests has."""
    monkeypatch.setattr(measure, "open_meter", lambda threads: EnergyMeter(watts=5.0 * threads))


@pytest.fixture
def clock(monkeypatch):
    """Time passes only when the engine or a pause says so."""
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    return clock


def test_real_engine_gets_times_of_every_step_at_every_batch_size(bundle, monkeypatch):
    monkeypatch.setattr(measure, "PAUSE_S", (0.0, 0.0))
    profile = measure_profile(make_engine("onnx", bundle), bundle, batches=(4, 1), rounds=1)
    profile.check(bundle)
    assert (profile.batches, profile.source, profile.engine, profile.threads) == ((1, 4), "measured", "onnx", 1)
    assert set(profile.times) == set(product(all_steps(bundle.manifest), (1, 4)))
    for times in profile.times.values():
        assert set(times) == {"back_to_back", "paced"}
        assert all(min(quantiles) > 0 and list(quantiles) == sorted(quantiles) for quantiles in times.values())


def test_steps_and_spans_take_what_passed_between_their_exits(bundle, clock):
    profile = measure_profile(SetPace(bundle, clock, stage_ms=10.0), bundle, batches=(1, 3), rounds=2)
    for step, batch in product(all_steps(bundle.manifest), (1, 3)):
        assert profile.finish_ms(step, batch) == pytest.approx((expected_ms(step, 10.0) * batch,) * 4)


def test_making_the_answers_is_timed_apart_as_any_step_may_be_the_last(bundle, clock, monkeypatch):
    monkeypatch.setattr(measure, "make_answer", lambda *about: clock.sleep(0.005))
    profile = measure_profile(SetPace(bundle, clock, stage_ms=10.0), bundle, rounds=2)
    for step in all_steps(bundle.manifest):
        on_the_way_ms = 5.0 if step.first else 0.0  # who goes on has done as much
        assert profile.finish_ms(step) == pytest.approx((expected_ms(step, 10.0) + on_the_way_ms,) * 4)
        if step.first == 0:
            assert profile.whole_way_ms(step.point) == pytest.approx(expected_ms(step, 10.0) + 5.0)
    assert profile.answer_ms() == pytest.approx(5.0)


def test_upper_quantile_of_few_runs_is_the_slowest(bundle, clock):
    class Stutters(SetPace):
        def run(self, step, x, cut=None):
            if len(self.runs) == 30:
                clock.sleep(1.0)
            return super().run(step, x)

    profile = measure_profile(Stutters(bundle, clock, stage_ms=10.0), bundle, rounds=1)
    slowest = max((profile.finish_ms(step) for step in all_steps(bundle.manifest)), key=max)
    assert slowest[-1] > 1000 > slowest[0]


def test_every_path_is_run_as_often_and_no_two_rounds_begin_alike(bundle, clock):
    engine = SetPace(bundle, clock, stage_ms=1.0)
    measure_profile(engine, bundle, rounds=4)
    assert len(set(Counter(engine.runs).values())) == 1
    ends = [step for step in engine.runs if step.first == 0][ROUTES:]  # the first ones load
    round_length = len(ends) // 4
    assert len({ends[turn * round_length] for turn in range(4)}) == 4


def test_what_is_run_goes_from_exit_to_exit_or_from_the_input_to_one(bundle, clock):
    engine = SetPace(bundle, clock, stage_ms=1.0)
    measure_profile(engine, bundle, rounds=1)
    assert {(step.first, step.depth) for step in engine.runs} == {(0, 1), (0, 2), (0, 3), (2, 2), (3, 3)}


def test_graph_that_goes_to_its_exit_in_one_has_the_time_that_it_takes(bundle, clock):
    class Quicker(SetPace):
        def run(self, step, x, cut=None):
            if step.first == 0 and step.depth > 1:
                clock.sleep(-0.001 * step.width * step.depth)
            return super().run(step, x)

    profile = measure_profile(Quicker(bundle, clock, stage_ms=10.0), bundle, rounds=2)
    for step in all_steps(bundle.manifest):
        in_one = step.first == 0 and step.depth > 1
        assert profile.finish_ms(step)[0] == pytest.approx(expected_ms(step, 9.0 if in_one else 10.0))


def test_warm_up_runs_the_legs_alone(bundle, clock):
    engine = SetPace(bundle, clock, stage_ms=1.0)
    warm_up_profile(engine, bundle)
    assert {(step.first, step.depth) for step in engine.runs} == {(0, 1), (2, 2), (3, 3)}


def test_paced_runs_come_after_pauses_that_are_not_counted(bundle, clock, monkeypatch):
    pauses = []
    monkeypatch.setattr(clock, "sleep", lambda s: (pauses.append(s), Clock.sleep(clock, s)))
    measure_profile(SetPace(bundle, Clock(), stage_ms=1.0), bundle, rounds=2)
    assert len(pauses) == 2 * 5 * ROUTES
    assert all(0.005 <= pause <= 0.020 for pause in pauses)


def test_progress_counts_rounds_up_to_all_of_them(bundle, clock):
    told = []
    measure_profile(
        SetPace(bundle, clock, 1.0), bundle, batches=(1, 2), rounds=3, progress=lambda *args: told.append(args)
    )
    assert told == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize("options", [{"batches": ()}, {"batches": (0, 1)}, {"rounds": 0}])
def test_nothing_to_measure_is_refused(bundle, options):
    with pytest.raises(ValueError, match="give one or more, each at least 1"):
        measure_profile(make_engine("onnx", bundle), bundle, **options)


def test_warm_up_knows_every_step_and_says_what_it_is(bundle, clock):
    profile = warm_up_profile(SetPace(bundle, clock, stage_ms=1.0), bundle)
    profile.check(bundle)
    assert profile.source == "warm-up"
    assert profile.finish_ms(Step(0, 3, 1.0)) == pytest.approx((3.0,) * 4)


def test_warm_up_of_a_slow_network_runs_each_path_twice_after_loading(bundle, clock):
    engine = SetPace(bundle, clock, stage_ms=1000.0)
    warm_up_profile(engine, bundle, limit_s=0.1)
    assert set(Counter(engine.runs).values()) == {1 + 2}


def test_warm_up_of_a_quick_network_ends_by_itself(bundle, clock):
    engine = SetPace(bundle, clock, stage_ms=0.0)
    warm_up_profile(engine, bundle, limit_s=1e9)
    assert set(Counter(engine.runs).values()) == {1 + 2 * measure.WARM_UP_ROUNDS}


class Burning(SetPace):
    """Draws `watts` while it runs, by the counter of its processor package under `root`; at rest it draws nothing."""

    watts = 12.0

    def __init__(self, bundle, clock, root):
        super().__init__(bundle, clock, stage_ms=10.0)
        self.root, self.energy_uj = root, 0
        plant(root, zone("intel-rapl:0", "package-0", 0))

    def run(self, step, x, cut=None):
        before_s = self._clock.now_s
        found = super().run(step, x, cut)
        self.energy_uj += round((self._clock.now_s - before_s) * self.watts * 1e6)
        plant(self.root, {"sys/class/powercap/intel-rapl:0/energy_uj": f"{self.energy_uj}\n"})
        return found


@pytest.fixture
def burning(bundle, clock, tmp_path, monkeypatch):
    """An engine whose power the package's meter tells, which is there for whoever opens one."""
    engine = Burning(bundle, clock, tmp_path)
    monkeypatch.setattr("stretto.runtime.energy.monotonic", clock)
    monkeypatch.setattr(measure, "open_meter", lambda threads: open_meter(threads=threads, root=tmp_path))
    return engine


def test_power_is_the_meters_while_steps_ran_without_the_pauses(bundle, burning):
    power = measure_profile(burning, bundle, rounds=1).power
    assert power.watts == pytest.approx(Burning.watts)
    assert power.source.startswith("RAPL, processor packages: 12 W while 1.")


def test_gpus_meter_is_asked_where_it_is_given(bundle, clock, monkeypatch):
    monkeypatch.setattr("stretto.runtime.energy.monotonic", clock)
    begun_s = clock.now_s
    meter = EnergyMeter(lambda: (clock.now_s - begun_s) * 250e3, "NVML, total energy of GPU 0")
    power = measure_profile(SetPace(bundle, clock, stage_ms=10.0), bundle, rounds=1, meter=meter).power
    assert power.watts == pytest.approx(250.0)
    assert power.source.startswith("NVML, total energy of GPU 0: 250 W while 1.")


def test_without_a_meter_power_is_assumed_and_nothing_is_run_for_it(bundle, clock):
    engine = SetPace(bundle, clock, stage_ms=10.0)
    assert measure_profile(engine, bundle, rounds=1).power == Power(5.0, "model: busy time × 5 W")
    assert set(Counter(engine.runs).values()) == {1 + 10 + 5}


def test_warm_up_assumes_the_power_and_says_what_could_be_read(bundle, burning):
    power = warm_up_profile(burning, bundle).power
    assert power == Power(5.0, "model: busy time × 5 W; RAPL, processor packages is there and not read yet")


def test_kept_profile_is_the_one_that_was_measured_with_as_many_threads(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measure, "PAUSE_S", (0.0, 0.0))
    measured, _ = measure_and_keep(bundle, rounds=1)
    assert kept_profile(bundle) == measured
    assert kept_profile(bundle, threads=2) is None
