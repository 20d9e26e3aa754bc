"""What is faster on this machine, found by trying."""

import time

import torch

from .losses import accumulate_gradients
from .supernet import Supernet


def bf16_pays(net: Supernet, x: torch.Tensor, y: torch.Tensor, rounds: int = 3) -> bool:
    """Whether a training step is faster in bf16 with channels-last than in float32; the network is left as it was.

    `x`, `y`: one batch as training will see it. The fastest of `rounds` interleaved steps counts, after one to warm up.
    """
    if x.dim() != 4 or not x.is_floating_point():
        return False
    state = {name: value.clone() for name, value in net.state_dict().items()}
    device = next(net.parameters()).device
    x, y = x.to(device), y.to(device)
    plain, fast = [], []
    net.train()
    for _ in range(rounds + 1):
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        plain.append(_step_s(net, x, y, None))
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fast.append(_step_s(net, x.contiguous(memory_format=torch.channels_last), y, torch.bfloat16))
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    net.load_state_dict(state)
    return min(fast[1:]) < min(plain[1:])


def _step_s(net: Supernet, x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype | None) -> float:
    net.zero_grad(set_to_none=True)
    start = time.perf_counter()
    accumulate_gradients(net, x, y, autocast=dtype)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
