"""Flow matching: the objective that trains the transformer (UniReal, section 3.3; Lipman et al., arXiv 2210.02747).

Axes: B batch, C latent channels, H, W latent rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling

MIN_TIME = 0.1  # a predicted clean image is turned into a velocity by (x_t - x_0) / t; below this, t is held


def add_noise(clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t (B, C, H, W) of clean latents and noise at times t (B,)."""
    t = t.view(-1, 1, 1, 1)
    return (1 - t) * clean + t * noise


def as_velocity(prediction: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """What the model predicted for x_t (B, C, H, W) at t (B,), as a velocity.

    A video prior's "v_prediction" is v = a noise - b x_0 with a = (1 - t) / n, b = t / n, n = hypot(1 - t, t), for the
    input x_t / n. So x_0 = a x_t / n - b v, noise = b x_t / n + a v, and their difference is the velocity.
    """
    if prediction_type == "velocity":
        return prediction
    if prediction_type == "v_prediction":
        t = t.view(-1, 1, 1, 1)
        n = torch.hypot(1 - t, t)
        return ((2 * t - 1) * noisy / n + prediction) / n
    return (noisy - prediction) / t.clamp(min=1e-6).view(-1, 1, 1, 1)


def as_clean(velocity: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The clean latents (B, C, H, W) that a velocity at x_t points to."""
    return noisy - t.view(-1, 1, 1, 1) * velocity


@dataclass(frozen=True)
class TimeSampling:
    """Logit-normal training times (Esser et al., arXiv 2403.03206), optionally shifted toward noise."""

    mean: float = 0.0
    """Mean of the normal variable under the sigmoid."""
    std: float = 1.0
    """Its standard deviation."""
    shift: float = 1.0
    """Resolution shift, t -> shift t / (1 + (shift - 1) t); 1 is none, larger is noisier."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf and 0 < self.shift < math.inf):
            raise ValueError(f"time sampling needs numbers, std > 0 and shift > 0, got {self}")

    def __call__(self, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        """Times float32 (B,) in 0..1."""
        t = compute_density_for_timestep_sampling(
            "logit_normal", batch_size, logit_mean=self.mean, logit_std=self.std, generator=generator
        )
        return self.shift * t / (1 + (self.shift - 1) * t)


def flow_loss(
    prediction: torch.Tensor,
    noisy: torch.Tensor,
    clean: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    prediction_type: str,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Velocity error of every sample, float32 (B,).

    A model that predicts v or the clean image ("sample") is measured in velocity space too, the latter with t held at
    MIN_TIME or above: the errors then differ by a factor only. weight: (B, 1, H, W), normalised here to a mean of 1 per
    sample.
    """
    if prediction_type == "sample":
        error = (prediction.float() - clean.float()) / t.clamp(min=MIN_TIME).view(-1, 1, 1, 1)
    else:
        velocity = as_velocity(prediction.float(), noisy.float(), t, prediction_type)
        error = velocity - (noise - clean).float()
    squared = error.square()
    if weight is not None:
        squared = squared * (weight / weight.mean(dim=(1, 2, 3), keepdim=True))
    return squared.mean(dim=(1, 2, 3))
