"""Batch norms: their statistics, settled for every width."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.nn.modules import batchnorm

from .supernet import Supernet


def recalibrate_bn(net: Supernet, inputs: Iterable[torch.Tensor], batches: int = 50) -> None:
    """Replace the running statistics of every width's batch norms by plain averages over some batches.

    Needed wherever weights changed without them, and better than the moving averages of training, most of all for
    widths that a sandwich seldom draws (post-statistics; Yu & Huang, Universally Slimmable Networks, ICCV 2019).

    `inputs`: (batch, …) each; the first `batches` of them are used, none leaves everything as it is.
    """
    norms = [_Average(layer, momentum) for layer, momentum in _statistics(net) if momentum != 0]
    if not norms or batches == 0:
        return
    was_training, count = net.training, 0
    net.train()
    for count, x in enumerate(islice(inputs, batches), start=1):
        for norm in norms:
            norm.reset()
        with torch.no_grad():
            features = net.stem(x)
            for width in net.widths:
                net.from_stem(features, width)
        for norm in norms:
            norm.add(count)
    if count:
        for norm in norms:
            norm.settle(count)
    net.train(was_training)


@dataclass(slots=True)
class _Average:
    """One norm's statistics, averaged over batches."""

    layer: Any
    momentum: float | None
    mean: Any = 0.0
    var: Any = 0.0

    def reset(self) -> None:
        for statistic in (self.layer.running_mean, self.layer.running_var, self.layer.num_batches_tracked):
            statistic.zero_()

    def add(self, count: int) -> None:
        """Take in the batch since the reset, the `count`-th."""
        share = self._share()
        self.mean = self.mean + (self.layer.running_mean / share - self.mean) / count
        self.var = self.var + (self.layer.running_var / share - self.var) / count

    def settle(self, count: int) -> None:
        self.layer.running_mean.copy_(self.mean)
        self.layer.running_var.copy_(self.var)
        self.layer.num_batches_tracked.fill_(count)

    def _share(self) -> float:
        """Of the batch in the running statistics, which began at 0: a norm may be called several times in a batch."""
        if self.momentum is None:  # the plain mean over calls
            return 1.0
        calls = max(1, int(self.layer.num_batches_tracked))
        return 1.0 - (1.0 - self.momentum) ** calls


def _statistics(net: Supernet) -> Iterator[tuple[Any, float | None]]:
    """Whatever holds running statistics, with its momentum."""
    for name, layer in net.shared.named_modules():
        if isinstance(layer, batchnorm._BatchNorm) and layer.running_mean is not None:
            key = name.replace(".", "/")
            yield layer, layer.momentum
            yield from ((own[key], layer.momentum) for own in net.norms.values() if key in own)  # type: ignore[operator,index]
