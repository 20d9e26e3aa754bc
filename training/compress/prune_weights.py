"""Weights that matter least become zero: no faster, but smaller once coded."""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..limits import Limit, changed, settle
from ..task import point_accuracies
from .importance import OF_WEIGHTS, Scores
from .layers import weight_name, weighted_layers
from .recipe import check_choice, check_options
from .subject import Subject
from .tuning import Workshop

SCOPES = ("network", "layer")


@dataclass(frozen=True, slots=True)
class PruneWeights:
    """Evaluate importance, remove, fine-tune, repeat (Han et al., NeurIPS 2015).

    share: of the weights of all convolutions and linear layers that are zero in the end, in [0, 1); exactly that many,
        rounded, those that are zero already among them. It rises with the cube of what is left (Zhu & Gupta, To Prune,
        or Not to Prune, 2017).
    steps: how often to remove and fine-tune, each time for `epochs`.
    importance: a key of `OF_WEIGHTS`; what needs data sees `samples` training images.
    scope: "network" compares weights of all layers, "layer" takes the share from each.
    most_lost: stop before the widest final exit loses more, in points of accuracy on the calibration split.
    skip: layers, or modules, to leave alone.
    """

    share: float = 0.0
    steps: int = 1
    importance: str = "magnitude"
    scope: str = "network"
    samples: int = 512
    most_lost: float | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_options(self, share=self.share)
        check_choice("importance", self.importance, OF_WEIGHTS)
        check_choice("scope", self.scope, SCOPES)
        for name in ("steps", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be 1 or more")

    def run(self, subject: Subject, shop: Workshop) -> tuple[Subject, dict[str, Any]]:
        """Prune in steps; the subject's own network is changed."""
        names = [weight_name(layer) for layer in weighted_layers(subject.net, self.skip)]
        start = 0.0 if self.most_lost is None else _accuracy(subject)
        for step in range(1, self.steps + 1):
            done = step / self.steps
            before = None if self.most_lost is None else (copy.deepcopy(subject.net.state_dict()), subject.limits)
            limits = self._pruned(subject, names, self.share * (1 - (1 - done) ** 3))
            subject = replace(subject, limits=limits)
            settle(subject.net, limits)
            subject = shop.tune(subject)
            if before is not None and 100 * (start - _accuracy(subject)) > (self.most_lost or 0.0):
                subject.net.load_state_dict(before[0])
                subject = replace(subject, limits=before[1])
                break
        return subject, _found(subject, names)

    def _pruned(self, subject: Subject, names: list[str], share: float) -> dict[str, Limit]:
        scores = OF_WEIGHTS[self.importance](subject.net, names, subject.batches("train", most=self.samples))
        kept = {name: _kept(subject, name) for name in names}
        groups = [names] if self.scope == "network" else [[name] for name in names]
        limits = dict(subject.limits)
        for group in groups:
            for name, stays in most_important(scores, kept, group, share).items():
                limits = changed(limits, name, kept=stays)
        return limits


def most_important(scores: Scores, kept: Scores, names: list[str], share: float) -> Scores:
    """What stays, by name, where a share of all these weights together goes: exactly `round(share · count)` of them,
    and more only where more are gone already. Of equal ones the earlier stay."""
    counts = [scores[name].numel() for name in names]
    flat = torch.cat([scores[name].double().flatten() for name in names])
    flat[~torch.cat([kept[name].flatten() for name in names])] = -math.inf
    stays = torch.zeros(len(flat), dtype=torch.bool)
    stays[flat.argsort(descending=True, stable=True)[: len(flat) - round(share * len(flat))]] = True
    stays &= flat > -math.inf
    return {name: part.view_as(scores[name]) for name, part in zip(names, stays.split(counts), strict=True)}


def _kept(subject: Subject, name: str) -> Tensor:
    limit = subject.limits.get(name)
    if limit is not None and limit.kept is not None:
        return limit.kept
    return torch.ones_like(subject.net.shared.get_parameter(name), dtype=torch.bool)


def _found(subject: Subject, names: list[str]) -> dict[str, Any]:
    weights = {name: subject.net.shared.get_parameter(name) for name in names}
    left = {name: int(_kept(subject, name).sum()) for name in names}
    total = sum(weight.numel() for weight in weights.values())
    shares = {name: left[name] / weight.numel() for name, weight in weights.items()}
    return {"weights": total, "left": sum(left.values()), "share_left": sum(left.values()) / total, "layers": shares}


def _accuracy(subject: Subject) -> float:
    """Of the widest final exit on the calibration split."""
    points = point_accuracies(subject.net, subject.batches("calibration"))
    return float(max(points, key=lambda point: (point["width"], point["depth"]))["accuracy"])
