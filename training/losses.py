"""What joint training minimises: cross-entropy summed over widths and exits, and the switches known to matter."""

import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from .depthwise import QuickDepthwise, has_depthwise
from .option_types import check_types
from .supernet import Supernet


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Switches of the joint loss; the defaults are the plain sum.

    sandwich: how many widths between the widest and the narrowest a step draws; None takes all of them each time
        (sandwich rule; Yu & Huang, Universally Slimmable Networks, ICCV 2019).
    inplace_distillation: share in [0, 1] of each loss that is learnt from the widest final exit of the same step
        instead of the labels; that exit itself learns from the labels (same source), or a `Lesson`.
    temperature: of that teacher; its term is scaled by temperature² (Hinton et al. 2015) and averaged per sample.
    equilibrium: gradient equilibrium between exits, see `Supernet.forward`.
    depth_weights: factor of each exit's loss, first exit first; None weighs all alike.
    label_smoothing: in [0, 1).
    """

    sandwich: int | None = None
    inplace_distillation: float = 0.0
    temperature: float = 2.0
    equilibrium: bool = False
    depth_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        if self.depth_weights is not None:
            object.__setattr__(self, "depth_weights", tuple(self.depth_weights))  # a list, as YAML or JSON has it
        if self.sandwich is not None and self.sandwich < 0:
            raise ValueError(f"sandwich {self.sandwich}: the number of widths drawn must be 0 or more, or None for all")
        if not 0 <= self.inplace_distillation <= 1:
            raise ValueError(f"inplace_distillation {self.inplace_distillation}: must be in [0, 1]")
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature}: must be above 0")
        if self.depth_weights is not None and min(self.depth_weights, default=0.0) < 0:
            raise ValueError(f"depth_weights {self.depth_weights}: none may be below 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing {self.label_smoothing}: must be in [0, 1)")

    def of_one(self) -> "LossOptions":
        """Those of one width with one exit: what is between widths or exits is left out."""
        return LossOptions(label_smoothing=self.label_smoothing)


PLAIN = LossOptions()


class Lesson(NamedTuple):
    """What teachers say of a batch, which a loader gives beside x and y.

    scores: (teachers, batch, classes) logits; what is learnt is the mean of the teachers' probabilities.
    share: in [0, 1], of each loss that is learnt from them instead of the labels. temperature: as in `LossOptions`.
    widest_only: only the widest final exit learns from them, the others from it, as far as in-place distillation lets
        them: its scores are nearer to theirs (Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant,
        AAAI 2020).

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.
    """

    scores: torch.Tensor
    share: float = 0.5
    temperature: float = 2.0
    widest_only: bool = False

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Divergence from the teachers at the temperature, averaged over the batch, times temperature²."""
        said = F.softmax(self.scores.float() / self.temperature, dim=2).mean(0)
        return _divergence(logits, said.clamp_min(1e-12).log(), self.temperature)


@dataclass(frozen=True, slots=True)
class WidthLoss:
    """One width's part of the joint loss: `loss`, summed over exits, and `logits` of every exit."""

    width: float
    loss: torch.Tensor
    logits: list[torch.Tensor]


def supernet_loss(
    net: Supernet,
    x: torch.Tensor,
    y: torch.Tensor,
    options: LossOptions = PLAIN,
    rng: random.Random | None = None,
    lesson: Lesson | None = None,
) -> torch.Tensor:
    """The joint loss of a batch, to call `backward()` on in one's own loop; a scalar.

    `x`: (batch, …); `y`: (batch,) class numbers; `rng` draws the sandwich's widths, Python's own where it is None;
    `lesson`: what teachers say of it, where there are any.
    """
    losses = [part.loss for part in width_losses(net, net.stem(x), y, options, rng, lesson=lesson)]
    return torch.stack(losses).sum()


def accumulate_gradients(
    net: Supernet,
    x: torch.Tensor,
    y: torch.Tensor,
    options: LossOptions = PLAIN,
    rng: random.Random | None = None,
    autocast: torch.dtype | None = None,
    lesson: Lesson | None = None,
) -> tuple[float, int]:
    """The gradients of `supernet_loss`, added up width by width so that only one width's activations are alive.

    Returns the loss and how many of the batch the widest final exit got right.
    """
    with QuickDepthwise() if autocast is torch.bfloat16 and has_depthwise(net) else nullcontext():
        with _autocast(x, autocast):
            stem = net.stem(x)
        features = stem.detach().requires_grad_(stem.requires_grad)
        total, right = 0.0, 0
        for part in width_losses(net, features, y, options, rng, autocast, lesson):
            part.loss.backward()
            total += part.loss.item()
            if part.width == net.widths[-1]:
                right = int((part.logits[-1].detach().argmax(1) == y).sum())
    if stem.requires_grad:
        stem.backward(features.grad)
    return total, right


def width_losses(
    net: Supernet,
    features: torch.Tensor,
    y: torch.Tensor,
    options: LossOptions = PLAIN,
    rng: random.Random | None = None,
    autocast: torch.dtype | None = None,
    lesson: Lesson | None = None,
) -> Iterator[WidthLoss]:
    """Each width's loss in turn, the widest first, from the stem's tensor.

    Raises:
        ValueError: `depth_weights` doesn't have one factor for each exit.
    """
    weights = options.depth_weights or (1.0,) * net.depths
    if len(weights) != net.depths:
        raise ValueError(f"depth_weights {weights}: one for each of the {net.depths} exits is needed")
    teacher: torch.Tensor | None = None
    for width in draw_widths(net.widths, options.sandwich, rng):
        with _autocast(features, autocast):
            logits = net.from_stem(features, width, options.equilibrium)
        if autocast is not None:
            logits = [z.float() for z in logits]
        teachers = [teacher] * net.depths
        lessons = [None if lesson is None or lesson.widest_only else lesson] * net.depths
        if teacher is None:  # the widest final exit teaches all others, and itself learns from labels or lessons
            teacher = logits[-1].detach()
            teachers, lessons[-1] = [*[teacher] * (net.depths - 1), None], lesson
        terms = [_exit_loss(z, y, t, options, said) for z, t, said in zip(logits, teachers, lessons, strict=True)]
        yield WidthLoss(width, torch.stack([w * t for w, t in zip(weights, terms, strict=True)]).sum(), logits)


def draw_widths(widths: Sequence[float], sandwich: int | None, rng: random.Random | None = None) -> list[float]:
    """The widths of one step, the widest first; with a sandwich always the widest and the narrowest.

    `rng`: Python's own where it is None.
    """
    widest, *others = sorted(widths, reverse=True)
    if sandwich is None or sandwich >= len(others):
        return [widest, *others]
    sample = random.sample if rng is None else rng.sample
    return [widest, *sample(others[:-1], sandwich), others[-1]]


def count_drawn(widths: Sequence[float], sandwich: int | None) -> int:
    """How many widths `draw_widths` gives."""
    return len(widths) if sandwich is None else min(len(widths), 2 + sandwich)


def _exit_loss(
    logits: torch.Tensor,
    y: torch.Tensor,
    teacher: torch.Tensor | None,
    options: LossOptions,
    lesson: Lesson | None = None,
) -> torch.Tensor:
    """The labels' loss, of which teachers take their shares: first those of the lesson, of what is left the own one."""
    loss = F.cross_entropy(logits, y, label_smoothing=options.label_smoothing)
    if teacher is not None and options.inplace_distillation > 0:
        t, share = options.temperature, options.inplace_distillation
        loss = (1 - share) * loss + share * _divergence(logits, F.log_softmax(teacher / t, dim=1), t)
    if lesson is not None:
        loss = (1 - lesson.share) * loss + lesson.share * lesson.loss(logits)
    return loss


def _divergence(logits: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """Kullback-Leibler divergence from log-probabilities, averaged over the batch, times temperature²: gradients then
    are of the same size at every temperature."""
    found = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(found, target, reduction="batchmean", log_target=True) * temperature**2


def _autocast(like: torch.Tensor, dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast(like.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
