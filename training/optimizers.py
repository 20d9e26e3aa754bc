"""Optimizers, and how the learning rate goes over a run."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

Groups = list[dict[str, Any]]


def make_optimizer(name: str, net: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer `name`, a key of `OPTIMIZERS`, for a network; without weight decay on norms and biases."""
    return OPTIMIZERS[name](decay_groups(net.parameters(), weight_decay), lr, momentum)


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> Groups:
    """Parameters that decay, and vectors (norms, biases) and single numbers, which don't."""
    trained = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]


def one_cycle(done: float) -> float:
    """Factor of the learning rate at a share of all steps done, in [0, 1): up for 30 %, then down to zero."""
    rise = 0.3
    return 0.04 + 0.96 * done / rise if done < rise else _fall((done - rise) / (1 - rise))


def cosine(done: float) -> float:
    """Like `one_cycle`, with a short rise of 5 %."""
    rise = 0.05
    return (done + 1e-3) / (rise + 1e-3) if done < rise else _fall((done - rise) / (1 - rise))


def _fall(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _sgd(groups: Groups, lr: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def _adamw(groups: Groups, lr: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))


OPTIMIZERS: dict[str, Callable[[Groups, float, float], torch.optim.Optimizer]] = {"sgd": _sgd, "adamw": _adamw}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "one_cycle": one_cycle,
    "cosine": cosine,
    "constant": lambda done: 1.0,
}
