"""The supernet: one set of parameters, run at any of its widths, answering at every exit."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import batchnorm

from .channels import Channels
from .cuts import Cut, macs
from .skeleton import Part, Skeleton, ancestors, build_skeleton, build_stem, plain, take
from .trace import Traced


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a network: its graph with exit heads, channel groups, and where stem and stages end; `narrow`:
    the whole network at every width."""

    traced: Traced
    channels: Channels
    cuts: tuple[Cut, ...]
    stem: Cut
    exits: tuple[Cut, ...]
    head: str
    narrow: dict[float, Traced]


class Supernet(nn.Module):
    """A classifier at several widths and depths on one set of weights (Yu et al., Slimmable Neural Networks, 2019).

    `shared`: the network itself with its exit heads, full width. `norms`: batch norms of the narrower widths, each with
    its own statistics and affine, by width and layer. Widths are asked for per call and nothing is set on the module,
    so calls from several threads are safe.
    """

    def __init__(self, plan: Plan, widths: Sequence[float]) -> None:
        super().__init__()
        self.plan, self.widths = plan, tuple(widths)
        self.shared = plan.traced.module
        self._stem = build_stem(plan.traced, plan.narrow[1.0], plan.stem)
        self._skeletons = {
            w: build_skeleton(plan.traced, plan.narrow[w], plan.channels, plan.stem, plan.exits, w) for w in self.widths
        }
        self._macs = {w: macs(plan.narrow[w]) for w in self.widths}
        self.norms = nn.ModuleDict({_key(w): self._begin_norms(w) for w in self.widths[:-1]})
        self._own: dict[float | None, dict[str, Any]] = {w: self._norms_by_layer(w) for w in self.widths[:-1]}

    @property
    def depths(self) -> int:
        """How many exits there are; depth 1 is the first, depth `depths` the final one."""
        return len(self.plan.exits) + 1

    def forward(self, x: torch.Tensor, width: float = 1.0, equilibrium: bool = False) -> list[torch.Tensor]:
        """Every exit's logits at one width, each (batch, classes).

        `equilibrium`: scale gradients so that each stage gets them in equal parts from its own and all later exits
        (gradient equilibrium; Li et al., Improved Techniques for Training Adaptive Deep Networks, ICCV 2019).

        Raises:
            ValueError: the width isn't one of `widths`.
        """
        return self.from_stem(self.stem(x), width, equilibrium)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """The stem's tensor, full width: the same for every width."""
        return self._stem.run(self._tensors_of(self._stem, None), x, self.training)

    def from_stem(self, features: torch.Tensor, width: float, equilibrium: bool = False) -> list[torch.Tensor]:
        """Every exit's logits, going on from the stem's tensor."""
        skeleton = self._skeleton(width)
        answers = []
        for depth, body in enumerate(skeleton.bodies, start=1):
            features = self._run(body, features, width)
            later = self.depths - depth
            own = _scale_gradient(features, 1 / (later + 1)) if equilibrium else features
            answers.append(self._run(skeleton.heads[depth - 1], own, width))
            features = _scale_gradient(features, later / (later + 1)) if equilibrium else features
        return [*answers, self._run(skeleton.heads[-1], features, width)]

    def part(self, width: float | None, stage: int, kind: str) -> tuple[Part, dict[str, torch.Tensor]]:
        """A stage's "body" or "head" and its tensors by name; width None is the stem's body."""
        if width is None:
            return self._stem, self._tensors_of(self._stem, None)
        skeleton = self._skeleton(width)
        part = skeleton.bodies[stage - 1] if kind == "body" else skeleton.heads[stage - 1]
        return part, self._tensors_of(part, width)

    def subnet(self, width: float, depth: int) -> nn.Sequential:
        """A plain static module that equals this network at one width and depth, with its own copy of the numbers.

        Raises:
            ValueError: no such width or depth.
        """
        parts = [self._stem, *self._path(width, depth)]
        tensors = [self._tensors_of(part, None if part is self._stem else width) for part in parts]
        modules = [plain(with_numbers(part, numbers)) for part, numbers in zip(parts, tensors, strict=True)]
        return nn.Sequential(*modules).train(self.training)

    def macs(self, width: float, depth: int) -> int:
        """Multiply-accumulates for one sample from the input to that exit, its head included."""
        self._path(width, depth)
        traced = self.plan.traced
        stem = next(node for node in traced.graph.nodes if node.name == self.plan.stem.node)
        used, in_stem = ancestors(traced.answers[depth - 1]), ancestors(stem)
        full, narrow = self._macs[1.0], self._macs[width]
        return sum((full if node in in_stem else narrow).get(node.name, 0) for node in used)

    def parameters_at(self, width: float, depth: int) -> int:
        """Parameters in use from the input to that exit, its head included."""
        parts = [self._stem, *self._path(width, depth)]
        return sum(p.numel() for part in parts for p in part.module.parameters())

    def _path(self, width: float, depth: int) -> list[Part]:
        """Bodies and head past the stem that lead to an exit."""
        skeleton = self._skeleton(width)
        if depth not in range(1, self.depths + 1):
            raise ValueError(f"depth {depth} isn't in this supernet; depths are 1 … {self.depths}")
        return [*skeleton.bodies[:depth], skeleton.heads[depth - 1]]

    def _skeleton(self, width: float) -> Skeleton:
        skeleton = self._skeletons.get(width)
        if skeleton is None:
            raise ValueError(f"width {width} isn't in this supernet; widths are {', '.join(map(str, self.widths))}")
        return skeleton

    def _run(self, part: Part, x: torch.Tensor, width: float) -> torch.Tensor:
        return part.run(self._tensors_of(part, width), x, self.training)

    def _tensors_of(self, part: Part, width: float | None) -> dict[str, torch.Tensor]:
        """Views of the shared tensors; batch norms of a narrower width are its own."""
        norms = self._own.get(width, {})
        tensors = {}
        for source in part.sources:
            own = norms.get(source.layer)
            layer = _submodule(self.shared, source.path) if own is None else own
            value = getattr(layer, source.attribute)
            tensors[source.name] = take(value, source.slices) if own is None else value
        return tensors

    def _norms_by_layer(self, width: float) -> dict[str, Any]:
        norms: Any = self.norms[_key(width)]
        return {key.replace("/", "."): layer for key, layer in norms.items()}

    def _begin_norms(self, width: float) -> nn.ModuleDict:
        """Batch norms past the stem at a narrower width, begun as the leading channels of the network's own."""
        norms = nn.ModuleDict()
        skeleton = self._skeletons[width]
        for source in (source for part in (*skeleton.bodies, *skeleton.heads) for source in part.sources):
            layer = self.shared.get_submodule(source.layer)
            if isinstance(layer, batchnorm._BatchNorm):
                key = source.layer.replace(".", "/")
                if key not in norms:
                    norms[key] = nn.Module()
                value = take(getattr(layer, source.attribute).detach(), source.slices).clone()
                if source.attribute in layer._parameters:
                    norms[key].register_parameter(source.attribute, nn.Parameter(value))
                else:
                    norms[key].register_buffer(source.attribute, value)
        return norms


def _submodule(module: nn.Module, path: tuple[str, ...]) -> nn.Module:
    """`get_submodule` without its checks: this is on the way of every call."""
    for name in path:
        module = module._modules[name]  # type: ignore[assignment]
    return module


def with_numbers(part: Part, tensors: dict[str, torch.Tensor]) -> fx.GraphModule:
    """The part as a module that owns a copy of its tensors."""
    module = copy.deepcopy(part.module)
    for name, value in tensors.items():
        owner, _, attribute = name.rpartition(".")
        layer = module.get_submodule(owner)
        copied = value.detach().clone().contiguous()
        setattr(layer, attribute, nn.Parameter(copied) if attribute in layer._parameters else copied)
    return module


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0] * ctx.factor, None


def _scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """The same tensor; its gradient comes back times `factor`."""
    return _ScaleGradient.apply(x, factor)


def _key(width: float) -> str:
    """A width as a name without a dot, which module names can't have."""
    return f"w{width:g}".replace(".", "_")
