"""What tracing sees of a network, and what it says about what it can't."""

import re
from typing import Any

import pytest
import torch
from stretto.training.errors import TraceError
from stretto.training.supernet.trace import Traced, trace
from torch import Tensor, nn
from torch.nn import functional as F

from .toy_nets import CLASSES, IMAGE, TOYS, OwnFunction, Squeeze, conv


class Small(nn.Module):
    """A convolution, whatever `way` does, mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.last = conv(3, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.way(self.a(x)).mean((2, 3)))

    def way(self, x: Tensor) -> Tensor:
        return x


def traced(model: nn.Module) -> Traced:
    return trace(model, torch.zeros(1, *IMAGE))


def calls(found: Traced) -> list[str]:
    return [str(getattr(n.target, "__name__", n.target)) for n in found.graph.nodes if n.op.startswith("call")]


class DecidesBySize(Small):
    def way(self, x: Tensor) -> Tensor:
        batch, channels, *size = x.shape
        assert channels == 16 and len(x.shape) == x.dim() == 4
        for _ in range(size[0] // 4):
            x = torch.relu(x)
        return x if max(size) > 100 or x.size(-1) != x.shape[2] else x.view(batch, -1, *size)


def test_sizes_are_numbers_that_a_network_may_decide_by() -> None:
    found = traced(DecidesBySize())
    assert calls(found).count("relu") == 2
    assert len(found.batch_sizes) == 1


def test_shapes_and_batch_sizes_are_those_of_two_samples() -> None:
    found = traced(Squeeze())
    assert found.shapes["a"] == (2, 32, 8, 8)
    assert {found.scalars[name] for name in found.batch_sizes} == {2}
    assert "a" in found.batched and "up" in found.batched


class DecidesByValue(Small):
    def way(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return x
        return -x


class CountsByValue(Small):
    def way(self, x: Tensor) -> Tensor:
        return x * int(x.sum())


class DecidesByBatch(Small):
    def way(self, x: Tensor) -> Tensor:
        return x if x.shape[0] > 2 else -x


class LoopsOverBatch(Small):
    def way(self, x: Tensor) -> Tensor:
        return torch.stack(list(x))


@pytest.mark.parametrize(
    ("kind", "line", "reason"),
    [
        (DecidesByValue, "if x.mean() > 0:", "depends on the values in a tensor"),
        (CountsByValue, "return x * int(x.sum())", "int()"),
        (DecidesByBatch, "return x if x.shape[0] > 2 else -x", "depends on the batch size"),
        (LoopsOverBatch, "return torch.stack(list(x))", "loop runs over the values"),
    ],
)
def test_what_cannot_be_traced_is_named_with_file_line_and_what_to_do(
    kind: type[nn.Module], line: str, reason: str
) -> None:
    with pytest.raises(TraceError, match=rf"{kind.__name__} can't be traced: .*test_trace.py:\d+: `") as caught:
        traced(kind())
    assert line in str(caught.value) and reason in str(caught.value)
    assert "decide it in __init__" in str(caught.value)


class WritesThroughView(Small):
    def way(self, x: Tensor) -> Tensor:
        x.view(-1).add_(1)
        return x


class WritesPartThroughView(Small):
    def way(self, x: Tensor) -> Tensor:
        x.view(-1)[0] = 1
        return x


class WritesWhatAViewReads(Small):
    def way(self, x: Tensor) -> Tensor:
        part = x[:, :8]
        x += 1
        return torch.cat([part, part], 1)


@pytest.mark.parametrize("kind", [WritesThroughView, WritesPartThroughView, WritesWhatAViewReads])
def test_a_write_in_place_that_a_view_sees_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(
        TraceError, match=r"(add|setitem).* writes in place .* read through a view of it; make it give a new"
    ):
        traced(kind())


def test_writes_in_place_become_new_tensors() -> None:
    names = calls(traced(TOYS["InPlace"].make()))
    assert not {name for name in names if name.endswith("_") or name == "iadd"}
    assert {"add", "mul", "relu"} <= set(names)


class AnswersTwo(Small):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class AnswersImage(Small):
    def forward(self, x: Tensor) -> Any:
        return self.a(x)


class TakesTwo(Small):
    def forward(self, x: Tensor, mask: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x * mask)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (AnswersTwo, "AnswersTwo answers a tuple for 2 inputs of (3, 8, 8); a classifier must answer one"),
        (AnswersImage, "AnswersImage answers (2, 16, 8, 8) for 2 inputs of (3, 8, 8)"),
        (TakesTwo, "TakesTwo.forward also needs mask; a classifier takes one tensor"),
    ],
)  # fmt: skip
def test_what_is_no_classifier_is_refused(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(TraceError, match=re.escape(message)):
        traced(kind())


class Optional(Small):
    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None, *, deep: bool = True) -> Any:
        x = x if mask is None else x * mask
        return super().forward(x * scale) if deep else x


def test_further_arguments_keep_their_defaults() -> None:
    found = traced(Optional())
    assert [node.op for node in found.graph.nodes].count("placeholder") == 1
    assert "mul" in calls(found)


class Helper(Small):
    """An exit that only training takes."""

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        if self.training:
            x = x + torch.randn_like(x)
        return self.last(F.dropout(x, 0.3, self.training).mean((2, 3)))


def test_what_only_training_does_is_listed_and_dropout_follows_the_mode_all_the_same() -> None:
    found = traced(Helper())
    assert found.notes == ["only training takes a branch with randn_like, add; the supernet is what runs in evaluation"]
    layer = found.module.get_submodule("dropout_layer")
    assert isinstance(layer, nn.Dropout) and layer.p == 0.3


class Always(Small):
    def way(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, True)


def test_dropout_that_ignores_the_mode_stays_as_it_is() -> None:
    assert "dropout" in calls(traced(Always()))


def test_a_functions_own_backward_is_said_to_be_left_out() -> None:
    (note,) = traced(OwnFunction()).notes
    assert note.startswith("SwishFunction: gradients are those of its forward")


def test_functions_on_parameters_become_layers() -> None:
    kinds = {type(layer) for layer in traced(TOYS["Functional"].make()).module.children()}
    assert {nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.PReLU, nn.Dropout, nn.LayerNorm, nn.Linear} <= kinds


class Rest(Small):
    """Whole shapes, named answers and tuples that something else than an item is taken of."""

    def way(self, x: Tensor) -> Tensor:
        values, places = torch.max(x, dim=1, keepdim=True)
        first, *others = x.split(4, dim=1)
        parts = first.sum(1, keepdim=True) + others[-1] * values + places + x.new_zeros(x.shape[0], 4, 1, 1)
        return parts.mean(1, keepdim=True) + x


def test_pieces_become_parts_of_their_own() -> None:
    names = calls(traced(Rest()))
    assert "split" not in names and names.count("narrow") == 2
    assert "max" in names, "its places are used, so it stays"


def test_tracing_leaves_torch_as_it_was() -> None:
    before = torch.zeros, torch.autograd.Function.__dict__["apply"], nn.Module.__call__
    with pytest.raises(TraceError):
        traced(DecidesByValue())
    assert before == (torch.zeros, torch.autograd.Function.__dict__["apply"], nn.Module.__call__)
