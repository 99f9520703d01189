"""bf16 on CPUs. Those without AVX-512, AMX or Arm's BF16 have no instructions for it: torch multiplies it there
tens of times slower than float32, and float32 is never less exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import optim
from torch.overrides import TorchFunctionMode

_SIDE = 192  # of the matrices that are timed, which takes some milliseconds in all
_SLOW = 5.0
CPU = torch.device("cpu")


@cache
def slowdown_of_bf16() -> float:
    """How many times longer a product of matrices takes this CPU in bf16 than in float32, measured once."""
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def bf16_is_slow(device: torch.device = CPU) -> bool:
    """Whether the device is a CPU that has to do without instructions for bf16."""
    return device.type == "cpu" and slowdown_of_bf16() > _SLOW


def _seconds(dtype: torch.dtype) -> float:
    matrix, taken = torch.ones(_SIDE, _SIDE, dtype=dtype), []
    for _ in range(4):  # the first may prepare what the others use
        start = time.perf_counter()
        matrix @ matrix
        taken.append(time.perf_counter() - start)
    return min(taken)


class _InFloat32(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.bfloat16:
            return args[0].clone()  # which the optimizer then changes in place
        return func(*args, **(kwargs or {}))


class Float32Muon(optim.Muon):
    """Muon that does in float32 what torch's does in bf16, with no choice (torch/optim/_muon.py)."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with _InFloat32():
            return super().step(closure)
