"""The joint loss is what it says, written out by hand, and each switch changes exactly what it should."""

import math
import random

import pytest
import torch
from stretto.training.losses import (
    LossOptions,
    _exit_loss,
    accumulate_gradients,
    count_drawn,
    draw_widths,
    supernet_loss,
    width_losses,
)
from torch.nn import functional as F

from .small import WIDTHS, small_data, small_net

X, Y = small_data(12).tensors


def double_net(seed: int = 0):
    return small_net(seed=seed).double().eval(), X.double()


def gradients(net) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> float:
    """Mean of log-sum-exp minus the label's logit."""
    return sum(
        math.log(sum(math.exp(v) for v in row)) - row[k] for row, k in zip(logits.tolist(), y, strict=True)
    ) / len(y)


def test_summed_loss_equals_sum_over_widths_and_exits():
    net, x = double_net()
    by_hand = sum(cross_entropy(logits, Y.tolist()) for width in WIDTHS for logits in net(x, width))
    assert supernet_loss(net, x, Y).item() == pytest.approx(by_hand, rel=1e-12)


def test_summed_loss_with_plain_subnets_gives_the_same_gradient_of_the_stem():
    """The subnets have copies of the numbers: their stems' gradients add up to the shared one's."""
    net, x = double_net()
    supernet_loss(net, x, Y).backward()
    expected = torch.zeros_like(net.shared.get_submodule("conv0").weight)
    for width in WIDTHS:
        for depth in range(1, net.depths + 1):
            subnet = net.subnet(width, depth)
            F.cross_entropy(subnet(x), Y).backward()
            expected += dict(subnet.named_parameters())["0.conv0.weight"].grad
    torch.testing.assert_close(net.shared.get_submodule("conv0").weight.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        LossOptions(),
        LossOptions(sandwich=1),
        LossOptions(inplace_distillation=0.7, temperature=3.0),
        LossOptions(equilibrium=True, depth_weights=(0.5, 1.0, 2.0), label_smoothing=0.1),
    ],
)
def test_gradients_added_up_width_by_width_are_those_of_the_joint_loss(options):
    net, x = double_net()
    loss = supernet_loss(net, x, Y, options, random.Random(3))
    loss.backward()
    expected = gradients(net)
    net.zero_grad()
    total, right = accumulate_gradients(net, x, Y, options, random.Random(3))
    assert total == pytest.approx(loss.item(), rel=1e-12)
    assert right == int((net(x)[-1].argmax(1) == Y).sum())
    found = gradients(net)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_bf16_gradients_are_near_those_of_float32():
    net = small_net().eval()
    accumulate_gradients(net, X, Y)
    exact = gradients(net)
    net.zero_grad()
    accumulate_gradients(net, X, Y, autocast=torch.bfloat16)
    for name, gradient in gradients(net).items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact[name]).norm() <= 0.1 * exact[name].norm() + 1e-3


@pytest.mark.parametrize("sandwich", [None, 0, 1, 2, 5])
def test_sandwich_draws_the_widest_the_narrowest_and_as_many_as_asked_between(sandwich):
    drawn = [draw_widths(WIDTHS, sandwich, random.Random(seed)) for seed in range(50)]
    count = 4 if sandwich is None else min(4, 2 + sandwich)
    for widths in drawn:
        assert widths[0] == 1.0 and 0.25 in widths
        assert len(set(widths)) == len(widths) == count == count_drawn(WIDTHS, sandwich)
    assert set.union(*map(set, drawn)) == ({1.0, 0.25} if sandwich == 0 else set(WIDTHS))


def test_sandwich_of_one_width_is_that_width():
    assert draw_widths((1.0,), 3) == [1.0] and count_drawn((1.0,), 3) == 1


def test_sandwich_draws_the_same_from_the_same_seed():
    draws = [[draw_widths(WIDTHS, 1, rng) for _ in range(8)] for rng in (random.Random(5), random.Random(5))]
    assert draws[0] == draws[1]


def test_distillation_leaves_the_widest_final_exit_to_the_labels():
    net, x = double_net()
    plain, taught = (next(width_losses(net, net.stem(x), Y, LossOptions(inplace_distillation=d))) for d in (0, 1.0))
    assert taught.width == 1.0
    head = net.shared.get_submodule("head").weight
    by_plain, by_taught = (torch.autograd.grad(part.loss, head)[0] for part in (plain, taught))
    torch.testing.assert_close(by_plain, by_taught)
    assert taught.loss.item() != pytest.approx(plain.loss.item())


def test_distillation_is_the_divergence_from_the_widest_final_exit_per_sample_times_squared_temperature():
    net, x = double_net()
    share, t = 0.6, 2.5
    teacher = F.softmax(net(x)[-1] / t, dim=1)
    parts = list(width_losses(net, net.stem(x), Y, LossOptions(inplace_distillation=share, temperature=t)))
    for part in parts[1:]:
        expected = 0.0
        for logits in net(x, part.width):
            student = F.softmax(logits / t, dim=1)
            divergence = (teacher * (teacher / student).log()).sum() / len(x)
            expected += (1 - share) * cross_entropy(logits, Y.tolist()) + share * t * t * divergence.item()
        assert part.loss.item() == pytest.approx(expected, rel=1e-9)


def test_divergence_is_summed_over_classes_not_averaged():
    """Splitting every class in two equal halves changes no divergence; an average over classes would halve it."""
    student, teacher = torch.randn(2, 6, 5, dtype=torch.double)
    options, y = LossOptions(inplace_distillation=1.0), torch.zeros(6, dtype=torch.long)
    once = _exit_loss(student, y, teacher, options)
    halves = _exit_loss(student.repeat(1, 2), y, teacher.repeat(1, 2), options)
    assert halves.item() == pytest.approx(once.item(), rel=1e-9)


def test_no_gradient_flows_through_the_teacher():
    """Norms of the full width are its own, so another width's loss could reach them only through the teacher."""
    net, x = double_net()
    narrower = list(width_losses(net, net.stem(x), Y, LossOptions(inplace_distillation=1.0)))[1:]
    sum(part.loss for part in narrower).backward()
    assert net.shared.get_submodule("conv3").weight.grad is not None
    assert net.shared.get_submodule("norm3").weight.grad is None


def test_depth_weights_multiply_each_exits_loss():
    net, x = double_net()
    weights = (0.5, 0.0, 3.0)
    by_hand = sum(
        w * cross_entropy(logits, Y.tolist())
        for width in WIDTHS
        for w, logits in zip(weights, net(x, width), strict=True)
    )
    assert supernet_loss(net, x, Y, LossOptions(depth_weights=weights)).item() == pytest.approx(by_hand, rel=1e-12)


def test_label_smoothing_mixes_in_the_mean_over_classes():
    net, x = double_net()
    smooth = 0.2
    by_hand = 0.0
    for width in WIDTHS:
        for logits in net(x, width):
            logs = F.log_softmax(logits, dim=1)
            by_hand -= ((1 - smooth) * logs[torch.arange(len(Y)), Y].mean() + smooth * logs.mean()).item()
    assert supernet_loss(net, x, Y, LossOptions(label_smoothing=smooth)).item() == pytest.approx(by_hand, rel=1e-9)


def test_equilibrium_gives_each_stage_equal_parts_of_its_own_and_all_later_exits():
    """A stage before D − d + 1 exits gets the mean of what each of them alone would send back."""
    net, x = double_net()
    stages = {1: "conv1", 2: "conv2", 3: "conv3"}
    for depth, layer in stages.items():
        weight = net.shared.get_submodule(layer).weight
        alone = []
        for exit_depth in range(depth, net.depths + 1):
            loss = F.cross_entropy(net(x, 1.0)[exit_depth - 1], Y)
            alone.append(torch.autograd.grad(loss, weight)[0])
        losses = sum(F.cross_entropy(z, Y) for z in net(x, 1.0, equilibrium=True))
        found = torch.autograd.grad(losses, weight)[0]
        torch.testing.assert_close(found, torch.stack(alone).mean(0), rtol=1e-9, atol=1e-12)


def test_equilibrium_leaves_values_and_heads_alone():
    net, x = double_net()
    for a, b in zip(net(x, 0.5), net(x, 0.5, equilibrium=True), strict=True):
        assert torch.equal(a, b)
    head = net.shared.get_submodule("exits.1.linear").weight
    plain, balanced = (
        torch.autograd.grad(F.cross_entropy(net(x, 1.0, equilibrium=e)[0], Y), head)[0] for e in (False, True)
    )
    assert torch.equal(plain, balanced)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sandwich": -1}, "sandwich -1: .* 0 or more"),
        ({"inplace_distillation": 1.5}, r"inplace_distillation 1.5: must be in \[0, 1\]"),
        ({"temperature": 0}, "temperature 0: must be above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing 1.0: must be in \[0, 1\)"),
        ({"depth_weights": (1.0, -1.0)}, r"depth_weights \(1.0, -1.0\): none may be below 0"),
    ],
)
def test_impossible_options_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        LossOptions(**given)


def test_depth_weights_given_as_a_list_are_the_same():
    assert LossOptions(depth_weights=[1.0, 2.0]) == LossOptions(depth_weights=(1.0, 2.0))


def test_depth_weights_must_be_one_for_each_exit():
    net, x = double_net()
    with pytest.raises(ValueError, match="one for each of the 3 exits"):
        supernet_loss(net, x, Y, LossOptions(depth_weights=(1.0, 2.0)))


def test_own_loop_with_own_optimizer_learns_at_every_width():
    net = small_net().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = supernet_loss(net, X, Y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
