"""Anyone's classifier becomes a supernet."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..errors import TraceError
from .check import checked_channels
from .cuts import choose_exits, find_cuts, stem_end
from .exits import graft_exits
from .function_rules import FUNCTIONS
from .importance import sort_channels
from .layer_rules import rule_of
from .meta import BATCHES
from .supernet import Plan, Supernet
from .trace import trace
from .walk import Walk

WIDTHS = (0.25, 0.5, 0.75, 1.0)
HEAD = "linear"  # "conv" gains more (bench/results/switches.json), but not known on maps too wide for its convolutions
TOLERANCE = 1e-3  # relative; a trace that misses something is wrong by far more, rounding by far less, unless
NEARBY = 2**-22  # an input that differs by this share is answered differently too (no training yet, or random):
NOISE = 100.0  # then up to this many times that difference is rounding


def make_supernet(
    model: nn.Module,
    example: torch.Tensor,
    widths: Sequence[float] = WIDTHS,
    exits: int | Sequence[float] | Sequence[str] = 4,
    head: str = HEAD,
    sort: bool = True,
    shared_stem: bool = True,
) -> Supernet:
    """A supernet from a plain classifier; the model itself is left as it is.

    Right after this the full width's final exit answers what the model answers; that is tried on random numbers.

    Args:
        example: (batch, …) an input; of floating-point ones only shape and type matter.
        widths: ascending or not, each in (0, 1]; 1.0, the network itself, must be among them.
        exits: how many in all, or their shares of the MACs, or names of layers (see `stretto trace`).
        head: which classifier the early exits get, a key of `exits.HEADS`.
        sort: put each group's most important channels first.
        shared_stem: run the first layers at full width, once for all widths; else each width narrows them too.

    Raises:
        TraceError: the network can't be traced or cut, or its graph answers something else.
        ValueError: widths, exits or head that this network can't have; names what is allowed.
    """
    plan = make_plan(model, example, widths, exits, head, shared_stem)
    with_numbers = not any(tensor.is_meta for tensor in [example, *model.parameters(), *model.buffers()])
    if sort and with_numbers:
        sort_channels(plan.traced.module, plan.channels)
    net = Supernet(plan, sorted(widths))
    if with_numbers:
        _check_equal(model, net, example)
    return net


def make_control(net: Supernet, example: torch.Tensor, width: float) -> Supernet:
    """One width of a supernet as a network of its own, with the final exit alone and a copy of the numbers.

    Training it is what the supernet's training is compared with: taken right after conversion, both begin the same.
    Its own width is 1.0, since nothing narrower is left in it. `net` has no shared stem: at a narrower width a stem of
    full width would compute channels that nothing reads, which nobody who trains that width alone would do.

    Raises:
        ValueError: the supernet doesn't have this width, or it has a shared stem.
    """
    if net.plan.stem.share > 0:
        raise ValueError("a control comes from a supernet without a shared stem; give make_supernet shared_stem=False")
    return make_supernet(net.subnet(width, net.depths), example, (1.0,), exits=1, sort=False)


def make_plan(
    model: nn.Module,
    example: torch.Tensor,
    widths: Sequence[float] = WIDTHS,
    exits: int | Sequence[float] | Sequence[str] = 4,
    head: str = HEAD,
    shared_stem: bool = True,
) -> Plan:
    """What would become of a network; see `make_supernet`."""
    _check_widths(widths)
    traced = trace(model, example)
    cuts = find_cuts(traced)
    stem = stem_end(traced, cuts, shared_stem)
    early = choose_exits(cuts, exits, stem)
    graft_exits(traced, early, Walk(traced).run(rule_of, FUNCTIONS).layouts, head)
    channels, narrow = checked_channels(traced, widths)
    return Plan(traced, channels, tuple(cuts), stem, tuple(early), head, narrow)


def _check_widths(widths: Sequence[float]) -> None:
    wrong = [w for w in widths if not 0 < w <= 1]
    if wrong or len(set(widths)) != len(widths) or 1.0 not in widths:
        raise ValueError(
            f"widths {list(widths)}: they must be distinct, in (0, 1], and include 1.0 (the network itself)"
        )


def _check_equal(model: nn.Module, net: Supernet, example: torch.Tensor) -> None:
    """The full width's final exit against the model, in evaluation."""
    x = example
    if example.is_floating_point():
        numbers = torch.randn(BATCHES[0], *example.shape[1:], generator=torch.Generator().manual_seed(0))
        x = numbers.to(example.device, example.dtype)
    modes: Mapping[nn.Module, bool] = {module: module.training for module in [*model.modules(), *net.modules()]}
    try:
        model.eval(), net.eval()
        with torch.no_grad():
            expected, near, found = model(x), model(x * (1 + NEARBY) if x.is_floating_point() else x), net(x)[-1]
    finally:
        for module, training in modes.items():
            module.training = training
    scale = expected.abs().max().clamp_min(1e-30)
    error, noise = (float((other - expected).abs().max() / scale) for other in (found, near))
    if not error <= max(TOLERANCE, NOISE * noise) and bool(expected.isfinite().all()):
        raise TraceError(
            f"{type(model).__name__}: the traced graph doesn't answer what the network answers (off by {error:.1g} of "
            "the largest logit); it may depend on numbers that tracing doesn't see, or on its channels' order: try "
            "sort=False, and let forward() depend on nothing but its input and the parameters"
        )
