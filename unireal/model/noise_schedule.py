"""The noise schedule of a video prior that was trained with v-prediction, seen from our time.

A variance-preserving prior knows x = a x0 + b e with a = sqrt(abar), b = sqrt(1 - abar) at its integer train steps. Our
x_s = (1 - s) x0 + s e is the same mixture after division by n = hypot(1 - s, s), at the train step where
a : b = (1 - s) : s. So every prior step has its own s, and steps between the integers are interpolated.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler


class NoiseSchedule:
    """arguments: those of diffusers' CogVideoXDDIMScheduler that set its betas.

    times: float32 (T,), ascending: the s of every train step 0..T-1. It ends at 1 if the terminal SNR is zero.
    """

    def __init__(self, **arguments: Any):
        with torch.device("cpu"):  # a model may be made on the meta device
            signal = CogVideoXDDIMScheduler(**arguments).alphas_cumprod.double()
        a, b = signal.sqrt(), (1 - signal).sqrt()
        self.times = (b / (a + b)).float()

    def train_step(self, s: torch.Tensor) -> torch.Tensor:
        """The fractional train step, float in 0..T-1, of times s of any shape; held at the ends of the schedule."""
        times = self.times.to(s.device)
        after = torch.searchsorted(times, s.float().contiguous()).clamp(1, len(times) - 1)
        low, high = times[after - 1], times[after]
        return after - 1 + ((s - low) / (high - low)).clamp(0, 1)


def unit_variance(noisy: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """x_s (B, C, H, W) at s (B,) as the prior knows it: divided by hypot(1 - s, s)."""
    return (noisy / torch.hypot(1 - s, s).view(-1, 1, 1, 1)).to(noisy.dtype)
