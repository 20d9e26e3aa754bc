"""Exactly what was asked for is removed, and it is what matters least."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stretto.training.compress.importance import OF_CHANNELS, channel_activity, fisher
from stretto.training.compress.prune_weights import most_important
from stretto.training.compress.subject import open_subject
from stretto.training.losses import supernet_loss

from ..small import small_net
from .trained import digits, run, subject

NAME = "layer1.0.conv1.weight"


@given(seed=st.integers(0, 100), share=st.floats(0, 0.99), ties=st.booleans())
def test_exactly_the_share_goes_and_never_a_higher_score_before_a_lower_one(
    seed: int, share: float, ties: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(count, generator=generator) for name, count in (("a", 7), ("b", 13))}
    if ties:
        scores = {name: score.round(decimals=1) for name, score in scores.items()}
    kept = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    stays = most_important(scores, kept, ["a", "b"], share)
    assert sum(int((~of).sum()) for of in stays.values()) == round(share * 20)
    left = torch.cat([scores[name][stays[name]] for name in scores])
    gone = torch.cat([scores[name][~stays[name]] for name in scores])
    assert not len(left) or not len(gone) or left.min() >= gone.max()


def test_what_is_gone_stays_gone_and_counts() -> None:
    scores = {"a": torch.tensor([5.0, 4.0, 3.0, 2.0])}
    kept = {"a": torch.tensor([False, True, True, True])}
    assert most_important(scores, kept, ["a"], 0.5)["a"].tolist() == [False, True, True, False]
    assert most_important(scores, kept, ["a"], 0.0)["a"].tolist() == [False, True, True, True]


@pytest.mark.parametrize("scope", ["network", "layer"])
def test_pruned_weights_are_zero_in_the_checkpoint_exactly_as_many_as_asked(scope: str, tmp_path: Path) -> None:
    _, (report,) = run(tmp_path, {"name": "prune_weights", "share": 0.7, "scope": scope, "epochs": 1}, lr=0.02)
    found, sizes = report["found"], {}
    made = open_subject(tmp_path / "small.pt", "digits", digits())
    for name, limit in made.limits.items():
        weight = made.net.shared.get_parameter(name)
        sizes[name] = (int((weight != 0).sum()), weight.numel())
        assert limit.kept is not None
        assert not weight[~limit.kept].any()
    parts = [found["weights"]] if scope == "network" else [total for _, total in sizes.values()]
    assert found["left"] == sum(total - round(0.7 * total) for total in parts)
    assert found["left"] >= sum(left for left, _ in sizes.values())


def test_pruning_stops_before_more_accuracy_is_lost_than_allowed(tmp_path: Path) -> None:
    whole = {"name": "prune_weights", "share": 0.99, "steps": 4}
    _, (report,) = run(tmp_path, whole | {"most_lost": 3.0}, recalibrate=2)
    assert report["found"]["share_left"] > 0.02
    final = [max(r["points"], key=lambda p: (p["width"], p["depth"]))["accuracy"] for r in
             (report["before"], report["after"])]  # fmt: skip
    assert 100 * (final[0] - final[1]) <= 3.0


def test_fisher_over_samples_is_the_mean_over_single_ones() -> None:
    made = subject()
    batches = made.batches("train", size=3, most=3)
    together = fisher(made.net, [NAME], batches)[NAME]
    ((x, _),) = list(batches)
    with torch.no_grad():
        chances = torch.softmax(made.net(x)[-1], dim=1)
    labels = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(0)).flatten()
    weight, total = made.net.shared.get_parameter(NAME), 0.0
    for one, label in zip(x, labels, strict=True):
        loss = supernet_loss(made.net, one[None], label[None])
        total = total + torch.autograd.grad(loss, weight)[0].square() / 3
    assert torch.allclose(together, total * weight.detach().square(), rtol=1e-4)


def test_activity_is_the_share_that_is_not_zero() -> None:
    net = small_net(widths=(0.5, 1.0), shared_stem=False).eval()
    with torch.no_grad():
        for norm in (net.shared.get_submodule(f"norm{n}") for n in range(4)):
            norm.weight.fill_(0.0)
            norm.bias.fill_(1.0)
            norm.bias[1] = -1.0  # never above zero
    batches = [(torch.randn(4, 1, 6, 6), torch.zeros(4, dtype=torch.long))]
    for scores in channel_activity(net, batches):  # type: ignore[arg-type]
        assert scores[1] == 0
        assert (scores[[0, 2, 3]] == 1).all()


@pytest.mark.parametrize("importance", OF_CHANNELS)
def test_exactly_the_asked_number_of_channels_is_removed(importance: str, tmp_path: Path) -> None:
    asked = {"name": "prune_channels", "share": 0.23, "importance": importance, "steps": 2}
    out, (report,) = run(tmp_path, asked, recalibrate=2)
    found = report["found"]
    assert found["removed"] == round(0.23 * found["channels"])
    groups = open_subject(out, "digits", digits()).net.plan.channels.groups
    assert sum(group.size for group in groups) == found["channels"] - found["removed"]


def test_channels_go_until_the_macs_are_reached_in_blocks(tmp_path: Path) -> None:
    out, (report,) = run(tmp_path, {"name": "prune_channels", "macs": 0.5, "multiple": 8, "steps": 2}, recalibrate=2)
    macs = [max(r["points"], key=lambda p: p["macs"])["macs"] for r in (report["before"], report["after"])]
    assert 0.3 < macs[1] / macs[0] <= 0.5
    assert math.isclose(report["found"]["macs_left"], macs[1] / macs[0], rel_tol=0.02)
    sizes = [group.size for group in open_subject(out, "digits", digits()).net.plan.channels.groups]
    assert all(size % 8 == 0 for size in sizes)


def test_asking_for_more_than_can_go_says_what_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pass 1 \(prune_channels\): no more channels can go"):
        run(tmp_path, {"name": "prune_channels", "share": 0.95})
