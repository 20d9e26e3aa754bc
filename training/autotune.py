"""What is faster on this machine, found by trying."""

import copy
import ctypes
import sys
import time

import torch

from .losses import accumulate_gradients
from .supernet import Supernet

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, where the C library is glibc.

    Otherwise a training's large tensors go back to the system after every use, and the system hands them out again
    page by page: 77,000 page faults and a fifth of the time in a step of EfficientNet-Lite0 (batch 32, 160 pixels).
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # another C library has none
            mallopt(TRIM_THRESHOLD, 2**31 - 1)
            if not mallopt(MMAP_THRESHOLD, 2**30):
                mallopt(MMAP_THRESHOLD, 2**25)  # the most that its manual promises


def bf16_pays(net: Supernet, x: torch.Tensor, y: torch.Tensor, rounds: int = 2) -> bool:
    """Whether a training step is faster in bf16 with channels-last than in float32; tried on copies of the network.

    `x`, `y`: one batch as training will see it. The fastest of `rounds` interleaved steps counts, after one to warm up.
    """
    if x.dim() != 4 or not x.is_floating_point():
        return False
    device = next(net.parameters()).device
    x, y = x.to(device), y.to(device)
    plain, fast = copy.deepcopy(net).train(), copy.deepcopy(net).train()
    fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x_fast = x.contiguous(memory_format=torch.channels_last)
    plain_s, fast_s = [], []
    for _ in range(rounds + 1):
        plain_s.append(_step_s(plain, x, y, None))
        fast_s.append(_step_s(fast, x_fast, y, torch.bfloat16))
    return min(fast_s[1:]) < min(plain_s[1:])


def _step_s(net: Supernet, x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype | None) -> float:
    net.zero_grad(set_to_none=True)
    start = time.perf_counter()
    accumulate_gradients(net, x, y, autocast=dtype)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
