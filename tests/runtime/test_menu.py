"""What is offered, and what isn't worth it."""

from dataclasses import replace

import pytest
from stretto.policies.situation import OperatingPoint, Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.menu import make_menus

from .toy import toy_bundle

LEVELS = (0.5, 0.99)
DEPTHS = 3


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    path = tmp_path_factory.mktemp("menu") / "toy.stretto"
    return Bundle.open(toy_bundle(path, widths=(0.5, 1.0), depths=DEPTHS).path).manifest


def menus_of(manifest, accuracy, time_ms=None, **options):
    """Menus where each point has the given accuracy, and each step takes its number of stages times its width."""
    points = tuple(replace(point, accuracy=accuracy[point.width, point.depth]) for point in manifest.points)

    def idle_ms(step):
        usual = (step.depth - max(step.first - 1, 0)) * step.width
        return (time_ms or {}).get((step.width, step.depth), (usual, usual))

    return make_menus(replace(manifest, points=points), LEVELS, idle_ms, **options)


RISING = {(0.5, 1): 0.5, (0.5, 2): 0.6, (0.5, 3): 0.65, (1.0, 1): 0.55, (1.0, 2): 0.7, (1.0, 3): 0.8}


def offered(menu):
    return {(step.width, step.depth) for step in menu.steps}


def test_points_that_another_beats_are_not_offered_from_the_start(manifest):
    accuracy = RISING | {(0.5, 3): 0.6}  # no better than the exit before
    assert offered(menus_of(manifest, accuracy, whole=False).start) == set(RISING) - {(0.5, 3)}


def test_point_that_is_beaten_stays_where_it_is_on_the_way(manifest):
    menus = menus_of(manifest, RISING, whole=False)  # (1.0, 1) is as soon as (0.5, 2) and less accurate
    assert offered(menus.start) == set(RISING)


def test_width_that_is_beaten_everywhere_is_not_offered(manifest):
    accuracy = RISING | {(1.0, depth): 0.5 for depth in (1, 2, 3)}
    assert offered(menus_of(manifest, accuracy, whole=False).start) == {(0.5, 1), (0.5, 2), (0.5, 3)}


def test_slower_median_is_forgiven_a_point_whose_top_quantile_is_sooner(manifest):
    accuracy = RISING | {(0.5, 3): 0.6}
    times = {(0.5, 3): (1.5, 1.5), (0.5, 2): (1.0, 2.0)}
    assert (0.5, 3) in offered(menus_of(manifest, accuracy, times, whole=False).start)


def test_equal_points_are_both_offered(manifest):
    accuracy = RISING | {(1.0, 3): 0.65}
    times = {(1.0, 3): (1.5, 1.5), (0.5, 3): (1.5, 1.5)}
    assert {(0.5, 3), (1.0, 3)} <= offered(menus_of(manifest, accuracy, times, whole=False).start)


def test_whole_menus_offer_everything(manifest):
    accuracy = RISING | {(1.0, depth): 0.5 for depth in (1, 2, 3)}
    assert offered(menus_of(manifest, accuracy).start) == set(RISING)


def test_behind_an_exit_everything_on_the_way_is_offered(manifest):
    menus = menus_of(manifest, RISING | {(0.5, 3): 0.1}, whole=False)
    assert menus.exits[OperatingPoint(0.5, 1)].menu.steps == (Step(2, 2, 0.5), Step(2, 3, 0.5))


def test_what_failed_is_offered_nowhere_and_what_it_beat_comes_back(manifest):
    accuracy = RISING | {(0.5, 3): 0.6}
    menus = menus_of(manifest, accuracy, failed={OperatingPoint(0.5, 2)}, whole=False)
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
