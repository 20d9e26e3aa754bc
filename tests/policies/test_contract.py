"""What every policy promises, whatever it decides by. A new policy is one line in `POLICIES_UNDER_TEST`."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers
from stretto.policies import POLICIES, looks_at_answers, make_policy
from stretto.policies.situation import OperatingPoint, Policy, Situation, Step, Stop

from .situations import WIDTHS, offered_after, situations

EVERY_STEP = [step for depth in range(5) for width in WIDTHS for step in offered_after(depth, width)]
POLICIES_UNDER_TEST = [
    make_policy("alert"),
    make_policy("alert", q_fail=0.1, interruptible=True, confidence=0.8, margin_ms=1.0),
    make_policy("conformal"),
    make_policy("conformal", rate=0.6, confidence=0.8, margin_ms=1.0),
    make_policy("deadline"),
    make_policy("deadline", level=0.5, confidence=0.8, margin_ms=1.0),
    make_policy("escalate", first=OperatingPoint(WIDTHS[0], 4), confidence=0.8),
    make_policy("fixed", point=OperatingPoint(1.0, 4)),
    make_policy("fixed", point=OperatingPoint(0.5, 2), confidence=0.8),
    make_policy("route"),
    make_policy("route", enough=0.5, then=make_policy("deadline", confidence=0.8)),
    make_policy("oracle", finish_ms={step: 5.0 * step.depth for step in EVERY_STEP}),
]
every_policy = pytest.mark.parametrize("policy", POLICIES_UNDER_TEST, ids=lambda policy: type(policy).__name__)


def test_every_named_policy_is_under_test():
    tested = {type(policy).__name__.lower() for policy in POLICIES_UNDER_TEST}
    assert tested == set(POLICIES)


@every_policy
@given(situation=situations())
def test_choice_is_an_offered_step_or_a_reason_to_stop(policy: Policy, situation: Situation):
    choice = policy.next(situation)
    assert isinstance(choice, Stop) or choice in situation.steps


@every_policy
@given(situation=situations())
def test_nothing_stops_before_the_first_exit(policy: Policy, situation: Situation):
    if not situation.evidence:
        assert isinstance(policy.next(situation), Step)


@every_policy
@given(situation=situations())
def test_end_of_the_network_is_final(policy: Policy, situation: Situation):
    if not situation.steps:
        assert policy.next(situation) is Stop.FINAL


@every_policy
@given(situation=situations(), share=floats(0, 1))
def test_one_that_does_not_look_at_answers_never_goes_on_with_less_time_left(policy, situation, share):
    if looks_at_answers(policy) or not situation.evidence or situation.budget.energy_mj is not None:
        return
    if isinstance(policy.next(situation), Stop):
        assert isinstance(policy.next(replace(situation, slack_ms=situation.slack_ms - 30 * share)), Stop)


@every_policy
@given(situation=situations(), top=integers(0, 3), confidence=floats(0.01, 1))
def test_one_that_does_not_look_at_answers_decides_the_same_whatever_they_are(policy, situation, top, confidence):
    if not looks_at_answers(policy):
        seen = tuple([exit._replace(top=top, confidence=confidence) for exit in situation.evidence])
        assert policy.next(replace(situation, evidence=seen)) == policy.next(situation)


@every_policy
@given(situation=situations())
def test_same_situation_gives_same_choice(policy: Policy, situation: Situation):
    assert policy.next(situation) == policy.next(situation)


@every_policy
def test_policies_are_frozen(policy: Policy):
    with pytest.raises(FrozenInstanceError):
        setattr(policy, fields(policy)[0].name, None)


def test_unknown_policy_is_refused_with_the_names_there_are():
    with pytest.raises(
        ValueError, match=r"no policy 'fastest'; name one of alert, conformal, deadline, escalate, fixed, oracle, route"
    ):
        make_policy("fastest")


def test_unknown_parameter_is_refused_with_the_names_there_are():
    with pytest.raises(
        ValueError, match=r"'deadline' has no parameter 'quantile'; it has level, confidence, margin_ms"
    ):
        make_policy("deadline", quantile=0.9)


def test_importing_every_policy_leaves_engines_and_torch_unimported():
    modules = [f"stretto.policies{place.split(':')[0]}" for place in POLICIES.values()]
    unwanted = "{'torch', 'onnxruntime', 'stretto.runtime'}"
    code = f"import {', '.join(modules)}, sys; print(sorted({unwanted} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
