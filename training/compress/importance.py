"""How much the weights, and the channels, of a network matter; the higher the more."""

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..augment import Batches
from ..losses import LossOptions, supernet_loss
from ..supernet import Supernet
from ..supernet.channels import Channels, Ids
from ..supernet.importance import importance as l1_importance

Scores = dict[str, Tensor]  # by parameter
AtomScores = list[Tensor]  # (atoms,) of each channel group


def magnitude(net: Supernet, names: Iterable[str], batches: Batches) -> Scores:
    """The absolute value (Han et al., Learning Both Weights and Connections, NeurIPS 2015)."""
    return {name: net.shared.get_parameter(name).detach().abs() for name in names}


def fisher(net: Supernet, names: Iterable[str], batches: Batches) -> Scores:
    """What the loss would rise by without a weight: the expected squared gradient of one sample's loss, times the
    squared weight.

    The same sensitivity protects weights from being overwritten by a later task in elastic weight consolidation
    (Kirkpatrick et al., PNAS 2017); times the squared weight it is the saliency of Optimal Brain Damage (LeCun et al.,
    NeurIPS 1989) with the Fisher information for the Hessian's diagonal. The loss is that of all widths and exits;
    labels are drawn from what the widest final exit answers, as the Fisher information asks for: at labels that a
    trained network gets right, gradients vanish.
    """
    wanted = {name: net.shared.get_parameter(name) for name in names}
    squares = {name: torch.zeros_like(parameter) for name, parameter in wanted.items()}
    generator, count = torch.Generator().manual_seed(0), 0
    for x, _ in batches:
        with torch.no_grad():
            chances = F.softmax(net(x)[-1], dim=1)
        labels = torch.multinomial(chances, 1, generator=generator).flatten()
        for one, label in zip(x.split(1), labels.split(1), strict=True):
            loss = supernet_loss(net, one, label, LossOptions())
            gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            for square, gradient in zip(squares.values(), gradients, strict=True):
                if gradient is not None:
                    square.add_(gradient.square())
        count += len(x)
    return {name: squares[name] / count * parameter.detach().square() for name, parameter in wanted.items()}


def channel_l1(net: Supernet, batches: Batches) -> AtomScores:
    """Sum of absolute weights, as channels are sorted by before training (Li et al., ICLR 2017)."""
    return l1_importance(net.shared, net.plan.channels)


def channel_l2(net: Supernet, batches: Batches) -> AtomScores:
    """Root of the sum of squared weights that write a channel, each layer's share scaled to sum to one."""
    return [score.sqrt() for score in _by_atom(net, lambda value: value.detach().square(), normed=True)]


def channel_taylor(net: Supernet, batches: Batches) -> AtomScores:
    """The squared change of the loss of all widths and exits that removing a channel makes to first order, averaged
    over batches (Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019)."""
    totals = [torch.zeros(group.atoms, dtype=torch.float64) for group in net.plan.channels.groups]
    for x, y in batches:
        net.zero_grad(set_to_none=True)
        supernet_loss(net, x, y, LossOptions()).backward()
        changes = _by_atom(net, lambda value: torch.zeros_like(value) if value.grad is None else value * value.grad)
        for total, change in zip(totals, changes, strict=True):
            total += change.square()
    net.zero_grad(set_to_none=True)
    return [total / len(batches) for total in totals]


def channel_activity(net: Supernet, batches: Batches) -> AtomScores:
    """How often a channel isn't zero behind an activation, over samples and places: one minus the average percentage of
    zeros (Hu et al., Network Trimming, 2016). Groups without such an activation score 1 throughout."""
    watcher = _Watcher(net)
    for x, _ in batches:
        with torch.no_grad():
            watcher.run(x)
    return watcher.activity()


class _Watcher(fx.Interpreter):
    """Runs the full width and counts what isn't zero behind every ReLU."""

    def __init__(self, net: Supernet) -> None:
        super().__init__(cast(fx.GraphModule, net.shared))
        self._channels, groups = net.plan.channels, net.plan.channels.groups
        self._active = [torch.zeros(group.atoms, dtype=torch.float64) for group in groups]
        self._seen = [torch.zeros(group.atoms, dtype=torch.float64) for group in groups]

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        layer = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        cuts = isinstance(layer, (nn.ReLU, nn.ReLU6)) or "relu" in str(getattr(n.target, "__name__", n.target))
        layout = self._channels.layouts.get(n.name)
        if cuts and layout is not None and isinstance(value, Tensor):
            others = [axis for axis in range(value.dim()) if axis != layout.axis]
            active = (value != 0).double().mean(others)
            _add_by_atom(self._active, self._channels, layout.ids, active)
            _add_by_atom(self._seen, self._channels, layout.ids, torch.ones_like(active))
        return value

    def activity(self) -> AtomScores:
        return [
            torch.where(seen > 0, active / seen.clamp_min(1), 1.0)
            for active, seen in zip(self._active, self._seen, strict=True)
        ]


def _by_atom(net: Supernet, of: Callable[[Tensor], Tensor], normed: bool = False) -> AtomScores:
    """Sums, over what writes a channel (weights by their outputs, biases and norms), of a number for each parameter."""
    channels = net.plan.channels
    totals = [torch.zeros(group.atoms, dtype=torch.float64) for group in channels.groups]
    parameters = dict(net.shared.named_parameters())
    for name, axes in channels.parameters.items():
        value, ids = parameters.get(name), axes[0] if axes else None
        if value is None or ids is None or (normed and value.dim() < 2):
            continue
        sums = of(value).detach().double().flatten(1).sum(1) if value.dim() > 1 else of(value).detach().double()
        _add_by_atom(totals, channels, ids, sums / sums.sum().clamp_min(1e-30) if normed else sums)
    return totals


def _add_by_atom(totals: AtomScores, channels: Channels, ids: Ids, values: Tensor) -> None:
    """Add a number for each channel to its atom's total."""
    groups, ranks = torch.from_numpy(channels.group_of(ids)), torch.from_numpy(channels.rank(ids))
    for number in groups.unique().tolist():
        if number >= 0:
            here = groups == number
            totals[number].index_add_(0, ranks[here], values[here].cpu().double())


OF_WEIGHTS: dict[str, Callable[[Supernet, Iterable[str], Batches], Scores]] = {"magnitude": magnitude, "fisher": fisher}
OF_CHANNELS: dict[str, Callable[[Supernet, Batches], AtomScores]] = {
    "taylor": channel_taylor,
    "l1": channel_l1,
    "l2": channel_l2,
    "activity": channel_activity,
}
