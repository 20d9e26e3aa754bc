"""Small classifiers, each odd in one way, and which of their layers a width must reach."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

IMAGE = (3, 8, 8)
CLASSES = 5


@dataclass(frozen=True)
class Toy:
    """A network with the shape of one input. `narrow`: layers that must narrow on both sides, `full`: on neither."""

    make: Callable[[], nn.Module]
    narrow: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    shape: tuple[int, ...] = IMAGE
    tokens: bool = False  # the input is numbers of words


TOYS: dict[str, Toy] = {}


def toy(*narrow: str, full: tuple[str, ...] = (), shape: tuple[int, ...] = IMAGE, tokens: bool = False) -> Any:
    """Register a network under its own name."""

    def register(kind: type[nn.Module]) -> type[nn.Module]:
        TOYS[kind.__name__] = Toy(kind, narrow, full, shape, tokens)
        return kind

    return register


class Framed(nn.Module):
    """Begins with a convolution to 16 channels and ends with mean and linear layer; `body` is the odd part."""

    rank = 2
    inputs, channels = 3, 16

    def __init__(self) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[self.rank]
        self.first = conv(self.inputs, 16, 3, padding=1)
        self.build()
        self.last = nn.Linear(self.channels, CLASSES)

    def build(self) -> None:
        raise NotImplementedError

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(torch.relu(self.first(x)))
        return self.last(x.flatten(2).mean(2))


def conv(ins: int, outs: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, 3, padding=1, **options)


@toy("a", "b", "c")
class Residual(Framed):
    def build(self) -> None:
        self.a, self.norm, self.b, self.c = conv(16, 24), nn.BatchNorm2d(24), conv(24, 16), conv(16, 16)

    def body(self, x: Tensor) -> Tensor:
        x = x + self.b(torch.relu(self.norm(self.a(x))))
        return x + self.c(x)


@toy("a", "b")
class InPlace(Framed):
    """The ReLU overwrites what the shortcut reads, so that the shortcut is rectified too."""

    def build(self) -> None:
        self.a, self.b, self.relu = conv(16, 16), conv(16, 16), nn.ReLU(inplace=True)

    def body(self, x: Tensor) -> Tensor:
        x = self.a(x)
        identity = x
        y = self.b(self.relu(x))
        y += identity
        F.relu(y, True)
        y.mul_(2).add_(identity)
        return y


@toy("depthwise", "pointwise", "multiplied")
class Depthwise(Framed):
    def build(self) -> None:
        self.depthwise, self.multiplied = conv(16, 16, groups=16), conv(16, 32, groups=16)
        self.pointwise, self.norm = nn.Conv2d(32, 16, 1), nn.BatchNorm2d(32)

    def body(self, x: Tensor) -> Tensor:
        return self.pointwise(self.norm(self.multiplied(self.depthwise(x))))


@toy("grouped", "a")
class Grouped(Framed):
    def build(self) -> None:
        self.a, self.grouped = conv(16, 32), conv(32, 32, groups=8)
        self.b = conv(32, 16)

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.grouped(self.a(x)))


@toy("a", "grouped", "b")
class FewGroups(Framed):
    """Two groups, of which none can be lost without losing half: channels go in both."""

    def build(self) -> None:
        self.a, self.grouped, self.b = conv(16, 32), conv(32, 64, groups=2), conv(64, 16)

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.grouped(self.a(x)))


@toy("a", "b")
class GroupedOnImage(Framed):
    """Its input can't be narrowed, its output can, within each group."""

    def build(self) -> None:
        self.eye, self.a, self.b = nn.Conv2d(3, 48, 1, groups=3), conv(48, 16), conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.b(self.a(self.eye(x))).mean((2, 3)))


@toy("up", "grouped", "b")
class Transposed(Framed):
    def build(self) -> None:
        self.up = nn.ConvTranspose2d(16, 32, 2, stride=2)
        self.grouped, self.b = nn.ConvTranspose2d(32, 32, 3, groups=8), conv(32, 16)

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.grouped(self.up(x)))


@toy("up", "b")
class TransposedFewGroups(Framed):
    def build(self) -> None:
        self.up, self.b = nn.ConvTranspose2d(16, 64, 3, groups=2), conv(64, 16)

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.up(x))


@toy("a", "b", shape=(3, 32))
class Sound(Framed):
    rank = 1

    def build(self) -> None:
        self.a, self.pool, self.b = nn.Conv1d(16, 32, 3), nn.MaxPool1d(2), nn.Conv1d(32, 16, 3)
        self.norm = nn.BatchNorm1d(32)

    def body(self, x: Tensor) -> Tensor:
        return self.b(F.avg_pool1d(self.pool(self.norm(self.a(x))), 2))


@toy("a", shape=(3, 4, 4, 4))
class Volume(Framed):
    rank = 3

    def build(self) -> None:
        self.a, self.norm = nn.Conv3d(16, 16, 3, padding=1), nn.InstanceNorm3d(16, affine=True)

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x))


@toy("a", "down", "up", "b")
class Squeeze(Framed):
    """Squeeze and excitation on views, with sizes asked for and a size test."""

    def build(self) -> None:
        self.a, self.down, self.up, self.b = conv(16, 32), nn.Linear(32, 16), nn.Linear(16, 32), conv(32, 16)

    def body(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, c, h, w = x.size()
        assert c % 8 == 0 and h == w
        gate = F.adaptive_avg_pool2d(x, 1).view(b, c)
        gate = torch.sigmoid(self.up(F.relu(self.down(gate)))).view(b, c, 1, 1)
        return self.b(x * gate.expand(x.size()) + x * gate.expand_as(x))


@toy("a", "b", "c")
class Dense(Framed):
    channels = 48

    def build(self) -> None:
        self.a, self.b, self.c = conv(16, 16), conv(32, 16), conv(48, 48)

    def body(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b):
            x = torch.cat([x, layer(x)], 1)
        return self.c(x)


@toy("a", "b")
class Split(Framed):
    """Half of the channels gets one norm, half another; then unequal parts by slices."""

    def build(self) -> None:
        self.a, self.b = conv(16, 32), conv(24, 16)
        self.one, self.other = nn.InstanceNorm2d(16), nn.BatchNorm2d(16)

    def body(self, x: Tensor) -> Tensor:
        first, second = torch.split(self.a(x), [16, 16], dim=1)
        x = torch.cat([self.one(first.contiguous()), self.other(second)], 1)
        return self.b(torch.cat([x[:, :8] + x[:, 24:], x[:, 8:24]], 1))


@toy("a", "b")
class Interleaved(Framed):
    """Odd channels before even ones, and a shortcut that writes into what it reads."""

    channels = 32

    def build(self) -> None:
        self.a, self.b = conv(16, 32), conv(32, 32)

    def body(self, x: Tensor) -> Tensor:
        x = self.a(x)
        identity = x
        x += 1
        return self.b(torch.cat([x[:, 1::2], x[:, ::2]], 1)) + identity


@toy("gates", "b")
class Gates(Framed):
    def build(self) -> None:
        self.gates, self.b = nn.Linear(16, 64), nn.Linear(16, 16)

    def body(self, x: Tensor) -> Tensor:
        i, f, g, o = self.gates(x.mean((2, 3))).chunk(4, dim=1)
        c = torch.sigmoid(f) * torch.zeros_like(i) + torch.sigmoid(i) * torch.tanh(g)
        return self.b(torch.sigmoid(o) * torch.tanh(c)).unsqueeze(2)


@toy("a", "b")
class Gated(Framed):
    def build(self) -> None:
        self.a, self.glu, self.b = conv(16, 64), nn.GLU(dim=1), conv(32, 32)

    def body(self, x: Tensor) -> Tensor:
        return F.glu(self.b(self.glu(self.a(x))), 1)


@toy("a", "b", "c")
class Shuffle(Framed):
    """Views with literal sizes between convolutions with groups."""

    def build(self) -> None:
        self.a, self.b, self.c = conv(16, 64, groups=2), conv(64, 64, groups=64), conv(64, 16, groups=2)

    def body(self, x: Tensor) -> Tensor:
        x = self.a(x).view(-1, 2, 32, 8, 8).transpose(1, 2).reshape(x.shape[0], 64, 8, 8)
        return self.c(self.b(x))


@toy("a", "b")
class Padded(Framed):
    """A shortcut of strided pixels with zeros for the new channels."""

    channels = 32

    def build(self) -> None:
        self.a, self.b = conv(16, 32, stride=2), conv(32, 32)

    def body(self, x: Tensor) -> Tensor:
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        return self.b(torch.relu(self.a(x) + short))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@toy("deep", "wide", "slim")
class Next(Framed):
    """Layer norms and linear layers with channels last, and a factor for each channel."""

    def build(self) -> None:
        self.norm, self.outer = nn.LayerNorm(16, eps=1e-6), LayerNorm2d(16)
        self.bare = nn.LayerNorm(64, elementwise_affine=False)
        self.deep, self.wide, self.slim = conv(16, 16, groups=16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.scale = nn.Parameter(torch.rand(16))

    def body(self, x: Tensor) -> Tensor:
        y = self.deep(self.outer(x)).permute(0, 2, 3, 1)
        y = self.slim(self.bare(F.gelu(self.wide(self.norm(y))))) * self.scale
        return x + y.permute(0, 3, 1, 2)


@toy("a", "b")
class GroupNorms(Framed):
    def build(self) -> None:
        self.a, self.b = conv(16, 32), conv(32, 16)
        self.whole, self.one, self.instance = nn.GroupNorm(8, 32), nn.GroupNorm(1, 16), nn.GroupNorm(16, 16)

    def body(self, x: Tensor) -> Tensor:
        return self.instance(self.one(self.b(torch.relu(self.whole(self.a(x))))))


@toy("a", "b")
class Neighbours(Framed):
    """Each channel is divided by its neighbours: none may change places."""

    def build(self) -> None:
        self.a, self.b, self.norm = conv(16, 16), conv(16, 16), nn.LocalResponseNorm(5, alpha=1.0)

    def body(self, x: Tensor) -> Tensor:
        return self.b(F.local_response_norm(self.norm(self.a(x)), 3, alpha=1.0))


@toy("a", "b")
class Slopes(Framed):
    def build(self) -> None:
        self.a, self.many, self.b, self.one = conv(16, 16), nn.PReLU(16), conv(16, 16), nn.PReLU()

    def body(self, x: Tensor) -> Tensor:
        return self.one(self.b(self.many(self.a(x))))


class Same(nn.Conv2d):
    """Pads so that the size is the input's divided by the stride."""

    def forward(self, x: Tensor) -> Tensor:
        rest = max((-(-x.shape[-1] // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - x.shape[-1], 0)
        return super().forward(F.pad(x, (rest // 2, rest - rest // 2) * 2))


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


@toy("a", "b")
class Subclasses(Framed):
    def build(self) -> None:
        self.a, self.b = Same(16, 32, 3, stride=2), Standardised(32, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class TwoOut(nn.Conv2d):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = F.conv2d(x, self.weight, self.bias)
        return y, torch.relu(y)


@toy("b")
class LookedInto(Framed):
    """A subclass of a layer that isn't used like one."""

    def build(self) -> None:
        self.a, self.b = TwoOut(16, 16, 1), conv(16, 16)

    def body(self, x: Tensor) -> Tensor:
        y, z = self.a(x)
        return self.b(y - z)


@toy("a", "b")
class Twice(Framed):
    """A layer that is called twice, and two that share a weight."""

    def build(self) -> None:
        self.a, self.b, self.tied = conv(16, 16), conv(16, 16), conv(16, 16)
        self.tied.weight = self.b.weight

    def body(self, x: Tensor) -> Tensor:
        return self.tied(self.b(torch.relu(self.a(torch.relu(self.a(x))))))


@toy("a", "b")
class Flattened(Framed):
    def build(self) -> None:
        self.a, self.pool, self.flatten = conv(16, 16), nn.MaxPool2d(4), nn.Flatten()
        self.b, self.dropout = nn.Linear(64, 16), nn.Dropout()

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.dropout(self.flatten(self.pool(self.a(x))))).unsqueeze(-1)


@toy("a", "b")
class FlattenedLast(Framed):
    """Flattened with channels last, by a view of literal size."""

    def build(self) -> None:
        self.a, self.b = conv(16, 16), nn.Linear(64, 16)

    def body(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.a(x), 4).permute(0, 2, 3, 1).contiguous()
        return self.b(x.view(-1, 64)).view(-1, 16, 1)


@toy("query", "value", "mlp", "out")
class Attention(Framed):
    """Tokens with a class token, positions, and attention by hand and by torch."""

    def build(self) -> None:
        self.token, self.position = nn.Parameter(torch.rand(1, 1, 16)), nn.Parameter(torch.rand(1, 17, 16))
        self.query, self.value, self.out = nn.Linear(16, 64), nn.Linear(16, 32), nn.Linear(32, 16)
        self.mlp, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)

    def body(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 2).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        batch, tokens, _ = x.shape
        y = self.norm(x)
        query, key = self.query(y).reshape(batch, tokens, 2, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        value = self.value(y).reshape(batch, tokens, 2, 16).transpose(1, 2)
        by_hand = ((query @ key.transpose(-2, -1)) * 0.25).softmax(-1) @ value
        by_torch = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out((by_hand + by_torch).transpose(1, 2).reshape(batch, tokens, 32))
        return self.mlp(x[:, 0]).unsqueeze(-1)


@toy("a", "b", "gate")
class Spatial(Framed):
    """A gate for each pixel from mean and maximum over the channels."""

    def build(self) -> None:
        self.a, self.b, self.gate = conv(16, 16), conv(16, 16), conv(16, 16)
        self.mask = conv(2, 1)

    def body(self, x: Tensor) -> Tensor:
        x = self.a(x)
        both = torch.cat([x.mean(1, keepdim=True), torch.max(x, dim=1, keepdim=True)[0]], 1)
        return self.gate(self.b(x) * torch.sigmoid(self.mask(both)) + x.max(dim=1, keepdim=True).values)


@toy("a", "b", "pick")
class Selective(Framed):
    """Branches stacked, weighed by a softmax over them, and summed."""

    def build(self) -> None:
        self.a, self.b, self.pick = conv(16, 16), conv(16, 16), nn.Linear(16, 32)

    def body(self, x: Tensor) -> Tensor:
        both = torch.stack([self.a(x), self.b(x)], dim=1)
        weights = self.pick(both.sum(dim=1).mean((2, 3))).view(x.size(0), 2, 16, 1, 1)
        return (both * torch.softmax(weights, dim=1)).sum(dim=1)


@toy("a", "b")
class Upscaled(Framed):
    def build(self) -> None:
        self.a, self.shuffle, self.b = conv(16, 64), nn.PixelShuffle(2), conv(16, 16)

    def body(self, x: Tensor) -> Tensor:
        y = self.b(self.shuffle(self.a(x)))
        return y + F.interpolate(x, size=y.shape[2:], mode="nearest")


@toy("hidden", "out", shape=(7,), tokens=True)
class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.out = nn.Embedding(11, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.last = nn.Linear(16, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.last(torch.tanh(self.out(torch.relu(self.hidden(self.embedding(words))).mean(1))))


class SwishFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        s = torch.sigmoid(ctx.saved_tensors[0])
        return grad * s * (1 + ctx.saved_tensors[0] * (1 - s))


@toy("a", "b")
class OwnFunction(Framed):
    def build(self) -> None:
        self.a, self.b = conv(16, 16), conv(16, 16)

    def body(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.size(0), 16, 1, 1, dtype=x.dtype)
        return self.b(SwishFunction.apply(self.a(x))) + state.mean(1, keepdim=True)


@toy("conv2d_layer", "conv2d_1_layer", "linear_layer")
class Functional(Framed):
    """No layer but in name: all of it by functions on parameters and buffers."""

    def build(self) -> None:
        self.a, self.b, self.slope = conv(16, 32), nn.Linear(32, 16), nn.Parameter(torch.rand(32))
        self.norm, self.group = nn.BatchNorm2d(32), nn.GroupNorm(8, 32)
        self.register_buffer("blur", torch.rand(32, 1, 3, 3))

    def body(self, x: Tensor) -> Tensor:
        n = self.norm
        x = F.conv2d(x, self.a.weight, self.a.bias, padding=1)
        x = F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, n.training, 0.1, n.eps)
        x = F.prelu(F.group_norm(x, 8, self.group.weight, self.group.bias), self.slope)
        x = F.dropout(F.conv2d(x, self.blur, groups=32), 0.5, self.training)
        x = F.layer_norm(x.mean((2, 3)), (32,), self.slope)
        return F.linear(x, self.b.weight, self.b.bias).unsqueeze(2)


@fx.wrap
def drop_path(x: Tensor, training: bool) -> Tensor:
    return x * torch.rand(x.shape[0], 1, 1) if training else x


@toy("mlp", "attention_in", "attention_out", "first_attention_out")
class Encoder(Framed):
    """Torch's own attention, and a function that asks not to be looked into."""

    def build(self) -> None:
        self.attention = nn.MultiheadAttention(16, 1, batch_first=True)
        self.first_attention, self.mlp, self.norm = nn.MultiheadAttention(16, 1), nn.Linear(16, 16), nn.LayerNorm(16)

    def body(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
        y = self.norm(x)
        x = x + drop_path(self.attention(y, y, y, need_weights=False)[0], self.training)
        y = x.transpose(0, 1)
        return self.mlp(self.first_attention(y, y, y)[0].transpose(0, 1) + x).transpose(1, 2)


@toy("encoder_layers_0_self_attn_in", "encoder.layers.0.linear1", "encoder.layers.0.linear2", shape=(7,), tokens=True)
class TorchEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 48, batch_first=True)
        self.encoder, self.last = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(32, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.last(self.encoder(self.embedding(words)).mean(1))


class Masked(nn.Conv2d):
    """A convolution of which some weights never count."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__(ins, outs, 1)
        self.register_buffer("mask", (torch.rand(self.weight.shape) > 0.3).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias)


@toy("a", "b")
class Written(Framed):
    """Parts of tensors are written, of constant ones too; layers pad the channels."""

    channels = 24

    def build(self) -> None:
        self.a, self.b, self.pad = Masked(16, 16), conv(16, 16), nn.ConstantPad3d((0, 0, 0, 0, 0, 8), 0.5)

    def body(self, x: Tensor) -> Tensor:
        mask = x.new_zeros(8, 8)
        for i, rows in enumerate((slice(0, 4), slice(4, None))):
            mask[rows, :] = i + 1
        x = self.b(self.a(x) * mask)
        return self.pad(x)


@toy("theta", "phi", "g", "b")
class NonLocal(Framed):
    def build(self) -> None:
        self.theta, self.phi, self.g, self.b = (nn.Conv2d(16, 16, 1) for _ in range(4))

    def body(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        theta, phi = (layer(x).view(batch, 16, -1) for layer in (self.theta, self.phi))
        similar = torch.softmax(torch.bmm(theta.permute(0, 2, 1), phi), dim=-1)
        g = self.g(x).view(batch, 16, -1).permute(0, 2, 1)
        return x + self.b(torch.matmul(similar, g).permute(0, 2, 1).reshape(batch, 16, *x.shape[2:]))


@toy("b", full=("c",))
class NotUnderstood(Framed):
    """A sort of the channels by size, which no rule knows."""

    def build(self) -> None:
        self.a, self.b, self.c = conv(16, 16), conv(16, 16), conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.b(torch.relu(self.first(x))))
        return self.last(self.a(torch.sort(x, dim=1)[0]).mean((2, 3)))
