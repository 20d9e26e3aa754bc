"""Batch norms: their statistics, settled for every width."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.nn.modules import batchnorm

from .supernet import Supernet


def recalibrate_bn(net: Supernet, inputs: Iterable[torch.Tensor], batches: int = 50) -> None:
    """Replace the running statistics of every width's batch norms by plain averages over some batches.

    Needed wherever weights changed without them, and better than the moving averages of training, most of all for
    widths that a sandwich seldom draws (post-statistics; Yu & Huang, Universally Slimmable Networks, ICCV 2019).

    `inputs`: (batch, …) each; the first `batches` of them are used.
    """
    norms = list(_statistics(net))
    means = [(torch.zeros_like(layer.running_mean), torch.zeros_like(layer.running_var)) for layer, _ in norms]
    was_training, count = net.training, 0
    net.train()
    for count, x in enumerate(islice(inputs, batches), start=1):
        for layer, _ in norms:
            layer.running_mean.zero_(), layer.running_var.zero_(), layer.num_batches_tracked.zero_()
        with torch.no_grad():
            features = net.stem(x)
            for width in net.widths:
                net.from_stem(features, width)
        for (layer, momentum), (mean, var) in zip(norms, means, strict=True):
            mean.lerp_(layer.running_mean / momentum, 1 / count)
            var.lerp_(layer.running_var / momentum, 1 / count)
    if count:
        for (layer, _), (mean, var) in zip(norms, means, strict=True):
            layer.running_mean.copy_(mean), layer.running_var.copy_(var), layer.num_batches_tracked.fill_(count)
    net.train(was_training)


def _statistics(net: Supernet) -> Iterator[tuple[Any, float]]:
    """Whatever holds running statistics, with the share of one batch in them after a reset."""
    for name, layer in net.shared.named_modules():
        if isinstance(layer, batchnorm._BatchNorm) and layer.track_running_stats:
            share = 1.0 if layer.momentum is None else layer.momentum
            key = name.replace(".", "/")
            yield layer, share
            yield from ((own[key], share) for own in net.norms.values() if key in own)  # type: ignore[operator,index]
