from math import inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretto.policies import EXIT_RULES, make_exit_rule
from stretto.policies.deadline import Deadline
from stretto.policies.exits import (
    CertifiedRule,
    EntropyRule,
    ExitRule,
    MarginRule,
    PatienceRule,
    RulePerWay,
    as_rule,
    rule_of,
)
from stretto.policies.fixed import Fixed
from stretto.policies.scores import calibrated_scores, highest_score
from stretto.policies.situation import Evidence, OperatingPoint, Stop

from .situations import offered_after, seen, situation

every_rule = pytest.mark.parametrize("name", EXIT_RULES)
LOGITS = st.lists(st.floats(-30, 30), min_size=2, max_size=6) | st.lists(st.floats(-30, 30), min_size=65, max_size=80)


def said(*logits: float, depth: int = 1, temperature: float = 1.0) -> Evidence:
    """An exit's evidence, read as the runtime reads it."""
    array = np.array(logits, dtype=np.float32)
    top, confidence = highest_score(array, temperature)
    return Evidence(OperatingPoint(0.5, depth), array, temperature, top, confidence, 0.5)


def labels(*tops: int) -> tuple[Evidence, ...]:
    """Exits, oldest first, with these labels among three."""
    return tuple(said(*(2.0 * np.eye(3)[top]), depth=depth) for depth, top in enumerate(tops, start=1))


def test_rule_looks_at_the_latest_exit():
    rule = ExitRule(0.8)
    assert rule.is_sure((seen(1, 0.5, confidence=0.3), seen(2, 0.5, confidence=0.8)))
    assert not rule.is_sure((seen(1, 0.5, confidence=0.9), seen(2, 0.5, confidence=0.79)))
    assert not rule.is_sure(())


@pytest.mark.parametrize("rule", [ExitRule, MarginRule, EntropyRule])
@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan"), -inf])
def test_threshold_outside_its_range_is_refused(rule, threshold):
    with pytest.raises(ValueError, match=rf"threshold is {threshold}; give a (probability|number) in \(0, 1\]"):
        rule(threshold)
    with pytest.raises(ValueError, match=rf"threshold is {threshold}"):
        rule((0.5, threshold))


@pytest.mark.parametrize("exits", [0, -1, 1.5, float("nan")])
def test_patience_that_is_no_number_of_exits_is_refused(exits):
    with pytest.raises(ValueError, match=rf"threshold is {exits}; give a whole number of exits, 1 or more"):
        PatienceRule(exits)


def test_no_thresholds_at_all_are_refused():
    with pytest.raises(ValueError, match="threshold is an empty tuple"):
        ExitRule(())


@given(logits=LOGITS, temperature=st.floats(0.05, 20))
def test_margin_is_that_of_the_calibrated_scores(logits, temperature):
    latest = said(*logits, temperature=temperature)
    second, first = np.sort(calibrated_scores(latest.logits.astype(float), temperature))[-2:]
    assert MarginRule(0.5).certainty((latest,)) == pytest.approx(first - second, abs=1e-5)


@given(logits=LOGITS, temperature=st.floats(0.05, 20))
def test_entropy_is_that_of_the_calibrated_scores(logits, temperature):
    latest = said(*logits, temperature=temperature)
    scores = calibrated_scores(latest.logits.astype(float), temperature)
    in_nats = -sum(score * log(score) for score in scores if score > 0)
    assert EntropyRule(0.5).certainty((latest,)) == pytest.approx(1 - in_nats / log(len(logits)), abs=1e-5)


@pytest.mark.parametrize("classes", [3, 100])
@pytest.mark.parametrize("rule", [MarginRule(0.5), EntropyRule(0.5)])
def test_alike_scores_are_not_sure_at_all_and_a_single_one_is_fully(classes, rule):
    assert rule.certainty((said(*[1.0] * classes),)) == pytest.approx(0.0, abs=1e-6)
    assert rule.certainty((said(*[-inf] * (classes - 1), 1.0),)) == pytest.approx(1.0)
    assert rule.certainty((said(1.0),)) == 1.0


@pytest.mark.parametrize("rule", [ExitRule(0.6), MarginRule(0.4), EntropyRule(0.4)])
def test_temperature_counts(rule):
    assert rule.is_sure((said(2.0, 0.0, -1.0),))
    assert not rule.is_sure((said(2.0, 0.0, -1.0, temperature=3.0),))


@pytest.mark.parametrize(
    "tops, agreeing", [((1,), 1), ((0, 1), 1), ((1, 1), 2), ((1, 0, 1), 1), ((0, 1, 1), 2), ((2, 2, 2), 3)]
)
def test_patience_counts_the_last_exits_that_agree(tops, agreeing):
    assert PatienceRule(agreeing).is_sure(labels(*tops))
    assert not PatienceRule(agreeing + 1).is_sure(labels(*tops))


@pytest.mark.parametrize("rule", [ExitRule, MarginRule, EntropyRule])
def test_each_exit_can_have_its_own_threshold(rule):
    sure, unsure = (3.0, 0.0), (1.0, 0.0)
    certainty = rule(0.5).certainty((said(*unsure),))
    by_depth = rule((inf, certainty))
    assert not by_depth.is_sure((said(*sure, depth=1),))
    assert by_depth.is_sure((said(*unsure, depth=2),))
    assert not by_depth.is_sure((said(*sure, depth=3),)), "deeper than the thresholds"


@every_rule
def test_nothing_is_sure_before_the_first_exit(name):
    assert make_exit_rule(name, threshold=1).is_sure(()) is False


@every_rule
def test_infinity_is_never_reached(name):
    assert not make_exit_rule(name, threshold=inf).is_sure(labels(1, 1, 1))


@pytest.mark.parametrize("name", [name for name in EXIT_RULES if name != "patience"])
@pytest.mark.parametrize("classes", [3, 100])
def test_scores_that_are_no_numbers_are_never_sure(name, classes):
    broken = said(*[0.0] * (classes - 1), float("nan"))
    assert not make_exit_rule(name, threshold=0.01).is_sure((broken,))


@every_rule
@given(logits=LOGITS, low=st.integers(1, 4), more=st.integers(0, 4))
def test_higher_threshold_never_stops_where_a_lower_does_not(name, logits, low, more):
    scale = 1 if name == "patience" else 0.12
    lower, higher = (make_exit_rule(name, threshold=scale * count) for count in (low, low + more))
    evidence = (said(*logits, depth=1), said(*logits, depth=2))
    assert lower.is_sure(evidence) or not higher.is_sure(evidence)


@every_rule
def test_policies_stop_by_every_rule(name):
    now = situation(offered_after(2, 0.5), [1.0, 2.0], [0.8, 0.9], 50.0, labels(1, 1))
    for policy in (Deadline, lambda confidence: Fixed(OperatingPoint(0.5, 4), confidence)):
        assert policy(confidence=make_exit_rule(name, threshold=0.1 if name != "patience" else 2)).next(now) is (
            Stop.CONFIDENCE
        )
        assert policy(confidence=make_exit_rule(name, threshold=inf)).next(now) in now.steps


def test_thresholds_of_one_width_and_precision_stop_nothing_at_another():
    rule = RulePerWay({(0.5, "fp32"): ExitRule(0.8), (1.0, "fp32"): ExitRule(0.95)})
    assert rule.is_sure((seen(1, 0.5, confidence=0.9),))
    assert not rule.is_sure((seen(1, 1.0, confidence=0.9),))
    assert not rule.is_sure((seen(1, 0.25, confidence=0.99),))
    int8 = seen(1, 0.5, confidence=0.99)._replace(point=OperatingPoint(0.5, 1, "int8"))
    assert not rule.is_sure((int8,))
    assert not rule.is_sure(())


def test_certified_rule_covers_its_own_widths_and_precisions_alone():
    rule = CertifiedRule({(0.5, "fp32"): ExitRule(0.8), (1.0, "fp32"): ExitRule(inf)})
    assert rule.covers(OperatingPoint(0.5, 1)) and rule.covers(OperatingPoint(1.0, 4))
    assert not rule.covers(OperatingPoint(0.25, 1)) and not rule.covers(OperatingPoint(0.5, 1, "int8"))


def test_policy_says_which_rule_it_stops_by():
    assert rule_of(Deadline(confidence=0.9)) == rule_of(Fixed(OperatingPoint(0.5, 2), 0.9)) == ExitRule(0.9)
    assert rule_of(Deadline()) is rule_of(object()) is None


def test_number_becomes_a_rule_and_the_rest_stays():
    assert as_rule(0.9) == ExitRule(0.9)
    assert as_rule(np.float32(0.5)) == ExitRule(0.5)
    assert as_rule((0.9, 0.8)) == ExitRule((0.9, 0.8))
    assert as_rule(None) is None
    for rule in (ExitRule(0.7), PatienceRule(2), RulePerWay({})):
        assert as_rule(rule) is rule


def test_confidence_that_is_neither_a_number_nor_a_rule_is_refused():
    with pytest.raises(ValueError, match=r"confidence is '0.9'; give a probability in \(0, 1\], or a rule"):
        as_rule("0.9")


def test_unknown_exit_rule_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no exit rule 'certain'; name one of entropy, margin, patience, probability"):
        make_exit_rule("certain", threshold=0.9)
    with pytest.raises(ValueError, match="exit rule 'margin' needs 'threshold'"):
        make_exit_rule("margin")
