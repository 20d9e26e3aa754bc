"""What is offered, and what isn't worth it."""

from dataclasses import replace

import numpy as np
import pytest
from stretto.policies.situation import OperatingPoint, Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.outline import Outline

from .toy import toy_bundle

LEVELS = (0.5, 0.99)
DEPTHS = 3


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    path = tmp_path_factory.mktemp("menu") / "toy.stretto"
    return Bundle.open(toy_bundle(path, widths=(0.5, 1.0), depths=DEPTHS).path).manifest


def menus_of(manifest, accuracy, time_ms=None, failed=(), every=True):
    """Menus where each point has the given accuracy, and each step takes its number of stages times its width."""
    points = tuple(replace(point, accuracy=accuracy[point.width, point.depth]) for point in manifest.points)

    def idle_ms(step):
        usual = (step.depth - max(step.first - 1, 0)) * step.width
        return (time_ms or {}).get((step.width, step.depth), (usual, usual))

    outline = Outline(replace(manifest, points=points), failed)
    return outline.menus(np.array([idle_ms(step) for step in outline.steps]), LEVELS.index(0.5), every)


RISING = {(0.5, 1): 0.5, (0.5, 2): 0.6, (0.5, 3): 0.65, (1.0, 1): 0.55, (1.0, 2): 0.7, (1.0, 3): 0.8}


def offered(menu):
    return {(step.width, step.depth) for step in menu.steps}


def test_points_that_another_beats_are_not_offered_from_the_start(manifest):
    accuracy = RISING | {(0.5, 3): 0.6}  # no better than the exit before
    assert offered(menus_of(manifest, accuracy, every=False).start) == set(RISING) - {(0.5, 3)}


def test_point_that_is_beaten_stays_where_it_is_on_the_way(manifest):
    menus = menus_of(manifest, RISING, every=False)  # (1.0, 1) is as soon as (0.5, 2) and less accurate
    assert offered(menus.start) == set(RISING)


def test_width_that_is_beaten_everywhere_is_not_offered(manifest):
    accuracy = RISING | {(1.0, depth): 0.5 for depth in (1, 2, 3)}
    assert offered(menus_of(manifest, accuracy, every=False).start) == {(0.5, 1), (0.5, 2), (0.5, 3)}


def test_slower_median_is_forgiven_a_point_whose_top_quantile_is_sooner(manifest):
    accuracy = RISING | {(0.5, 3): 0.6}
    times = {(0.5, 3): (1.5, 1.5), (0.5, 2): (1.0, 2.0)}
    assert (0.5, 3) in offered(menus_of(manifest, accuracy, times, every=False).start)


def test_point_that_is_hardly_better_and_takes_longer_is_not_offered(manifest):
    times = {(1.0, 3): (3.0, 3.0), (0.5, 3): (1.5, 1.5)}
    hardly, clearly = RISING | {(1.0, 3): 0.6509}, RISING | {(1.0, 3): 0.6511}
    assert (1.0, 3) not in offered(menus_of(manifest, hardly | {(1.0, 2): 0.65}, times, every=False).start)
    assert (1.0, 3) in offered(menus_of(manifest, clearly | {(1.0, 2): 0.65}, times, every=False).start)


def test_equal_points_are_both_offered(manifest):
    accuracy = RISING | {(1.0, 3): 0.65}
    times = {(1.0, 3): (1.5, 1.5), (0.5, 3): (1.5, 1.5)}
    assert {(0.5, 3), (1.0, 3)} <= offered(menus_of(manifest, accuracy, times, every=False).start)


def test_whole_menus_offer_everything(manifest):
    accuracy = RISING | {(1.0, depth): 0.5 for depth in (1, 2, 3)}
    assert offered(menus_of(manifest, accuracy).start) == set(RISING)


def test_behind_an_exit_everything_on_the_way_is_offered(manifest):
    menus = menus_of(manifest, RISING | {(0.5, 3): 0.1}, every=False)
    assert menus.exits[OperatingPoint(0.5, 1)].menu.steps == (Step(2, 2, 0.5), Step(2, 3, 0.5))


def test_what_failed_is_offered_nowhere_and_what_it_beat_comes_back(manifest):
    accuracy = RISING | {(0.5, 3): 0.6}
    menus = menus_of(manifest, accuracy, failed={OperatingPoint(0.5, 2)}, every=False)
    assert offered(menus.start) == set(RISING) - {(0.5, 2)}
    assert menus.exits[OperatingPoint(0.5, 1)].menu.steps == (Step(2, 3, 0.5),)


def test_rows_are_the_places_of_the_steps(manifest):
    menu = menus_of(manifest, RISING).start
    for step in menu.steps:
        assert menu.idle_ms[menu.rows[step]] == pytest.approx(step.depth * step.width)
        assert menu.accuracy[menu.rows[step]] == RISING[step.width, step.depth]


def test_legs_go_from_exit_to_exit_as_far_as_the_step(manifest):
    menus = menus_of(manifest, RISING)
    assert menus.start.legs[Step(0, 3, 0.5)] == (Step(0, 1, 0.5), Step(2, 2, 0.5), Step(3, 3, 0.5))
    assert menus.exits[OperatingPoint(1.0, 1)].menu.legs[Step(2, 2, 1.0)] == (Step(2, 2, 1.0),)


def test_legs_pass_over_an_exit_that_failed(manifest):
    menus = menus_of(manifest, RISING, failed={OperatingPoint(0.5, 2)})
    assert menus.start.legs[Step(0, 3, 0.5)] == (Step(0, 1, 0.5), Step(2, 3, 0.5))


def test_numbers_of_samples_differ_in_times_alone(manifest):
    outline = Outline(manifest)
    few, many = (outline.menus(np.full((len(outline.steps), 2), time_ms), 0) for time_ms in (1.0, 5.0))
    assert (few.start.idle_ms.max(), many.start.idle_ms.min()) == (1.0, 5.0)
    assert (few.exits[OperatingPoint(0.5, 1)].expected_ms, many.exits[OperatingPoint(0.5, 1)].expected_ms) == (1.0, 5.0)
    for shared in ("steps", "accuracy", "legs", "rows"):
        assert getattr(few.start, shared) is getattr(many.start, shared)
    assert few.start.after[Step(0, 1, 0.5)].menu is not many.start.after[Step(0, 1, 0.5)].menu


def test_what_is_worth_offering_is_decided_for_each_number_of_samples(manifest):
    points = tuple(replace(point, accuracy=RISING[point.width, point.depth]) for point in manifest.points)
    outline = Outline(replace(manifest, points=points))

    def menus(slow):
        return outline.menus(np.array([[1.0 + slow * step.width] * 2 for step in outline.steps]), 0, every=False)

    few, many = menus(0.0), menus(1.0)
    assert offered(few.start) == {(1.0, depth) for depth in (1, 2, 3)}  # all take as long, so the best beats the rest
    assert offered(many.start) == set(RISING)
    assert offered(menus(0.0).start) == offered(few.start)
