import pytest
import torch
import torch.nn.functional as F
from stretto.training.depthwise import QuickDepthwise, _Depthwise, has_depthwise
from stretto.training.depthwise import _input_gradient as kept
from stretto.training.losses import accumulate_gradients
from stretto.training.nets import make_net
from stretto.training.supernet import make_supernet

SHAPES = [  # samples, channels, height, width, kernel, stride, padding
    (2, 8, 9, 12, (5, 5), (2, 2), (2, 2)),
    (2, 8, 10, 10, (3, 3), (2, 2), (1, 1)),
    (3, 16, 7, 7, (5, 5), (1, 1), (2, 2)),
    (2, 8, 11, 10, (3, 5), (2, 1), (1, 0)),
    (1, 4, 9, 9, (7, 7), (3, 3), (0, 0)),
    (2, 8, 8, 8, (1, 1), (2, 2), (0, 0)),
]


def convolve(shape, dtype, layout=torch.contiguous_format):
    samples, channels, height, width, kernel, stride, padding = shape
    numbers = torch.Generator().manual_seed(0)
    x = torch.randn(samples, channels, height, width, generator=numbers, dtype=dtype)
    x = x.contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(channels, 1, *kernel, generator=numbers, dtype=dtype).requires_grad_()
    y = F.conv2d(x, weight, None, stride, padding, 1, channels)
    return x, weight, y, torch.randn(y.shape, generator=numbers, dtype=dtype)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_conv2d(shape, layout):
    x, weight, y, grad = convolve(shape, torch.float64, layout)
    expected = torch.autograd.grad(y, (x, weight), grad)
    found = torch.autograd.grad(_Depthwise.apply(x, weight, shape[5], shape[6]), (x, weight), grad)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_within_it_conv2d_in_bf16_answers_and_learns_the_same(shape):
    x, weight, y, grad = convolve(shape, torch.float32)
    bias = torch.randn(shape[1]).requires_grad_()
    expected = torch.autograd.grad(y + bias.view(-1, 1, 1), (x, weight, bias), grad)
    with QuickDepthwise(), torch.autocast("cpu", torch.bfloat16):
        found = F.conv2d(x, weight, bias, shape[5], shape[6], groups=shape[1])
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), y + bias.view(-1, 1, 1), rtol=0.02, atol=0.05)
    for ours, theirs in zip(torch.autograd.grad(found, (x, weight, bias), grad.bfloat16()), expected, strict=True):
        assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups", "autocast", "taken"),
    [(5, 1, 2, 8, True, True), (3, 2, 1, 8, True, True), (3, 1, 1, 8, True, False), (5, 1, 2, 8, False, False),
     (5, 1, 2, 4, True, False), (5, 2, 2, 1, True, False), (3, 2, 3, 8, True, False), (5, 1, "same", 8, True, False)],
)  # fmt: skip
def test_only_slow_depthwise_convolutions_in_bf16_are_taken(kernel, stride, padding, groups, autocast, taken):
    x, layer = torch.randn(2, 8, 9, 9), torch.nn.Conv2d(8, 8, kernel, stride, padding, groups=groups)
    with QuickDepthwise(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
    grads = (y.grad_fn, *(parent for parent, _ in y.grad_fn.next_functions))
    assert any("_Depthwise" in type(grad).__name__ for grad in grads) == taken


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_joint_step_in_bf16_learns_depthwise_convolutions_by_them(layout, monkeypatch):
    used = []
    monkeypatch.setattr("stretto.training.depthwise._input_gradient", lambda *given: used.append(1) or kept(*given))
    torch.manual_seed(0)
    depthwise = torch.nn.Conv2d(16, 16, 5, 2, 2, groups=16)
    layers = (torch.nn.Conv2d(3, 16, 1), depthwise, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16 * 16, 4))
    net = make_supernet(torch.nn.Sequential(*layers), torch.zeros(1, 3, 8, 8), (0.5, 1.0), 1).train()
    net.to(memory_format=layout)
    x, y = torch.randn(4, 3, 8, 8).contiguous(memory_format=layout), torch.tensor([0, 1, 2, 3])
    accumulate_gradients(net, x, y)
    plain = torch.cat([p.grad.flatten() for p in net.parameters()])
    assert not used
    net.zero_grad()
    accumulate_gradients(net, x, y, autocast=torch.bfloat16)
    assert used
    found = torch.cat([p.grad.flatten() for p in net.parameters()])
    assert F.cosine_similarity(found, plain, dim=0) > 0.999


@pytest.mark.parametrize(("net", "expected"), [("mobilenet", True), ("resnet", False)])
def test_networks_with_depthwise_convolutions_are_told_apart(net, expected):
    assert has_depthwise(make_net(net, 10, (3, 32, 32))) == expected
