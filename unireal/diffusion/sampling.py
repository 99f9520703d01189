"""From noise to result frames: the sampling loop, with guidance.

Axes: B batch, K input frames, R result frames, C, h, w latent channels, rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from unireal.diffusion.flow import as_velocity
from unireal.diffusion.guidance import Branch, Guidance, combine
from unireal.model.text_encoder import TextFeatures
from unireal.model.transformer import UniRealTransformer

Callback = Callable[[int, float, list[torch.Tensor]], list[torch.Tensor] | None]


@dataclass(frozen=True)
class Conditions:
    """What the results are conditioned on: text, the empty text, K latent input frames (B, C, h, w), roles (B, K)."""

    text: TextFeatures
    no_text: TextFeatures
    frames: list[torch.Tensor]
    roles: torch.Tensor


def sampling_times(scheduler: FlowMatchEulerDiscreteScheduler, num_steps: int, device: torch.device) -> torch.Tensor:
    """Prepares the scheduler for num_steps from t = 1 to t = 0 and returns their times, float32 (num_steps,)."""
    sigmas = [1 - i / num_steps for i in range(num_steps)]
    scheduler.set_timesteps(sigmas=sigmas, device=device)
    return scheduler.timesteps / scheduler.config.num_train_timesteps


def velocity(
    transformer: UniRealTransformer, latents: list[torch.Tensor], t: torch.Tensor, branch: Branch, given: Conditions
) -> list[torch.Tensor]:
    """The velocity of every result frame in one guidance branch; t: (B,)."""
    text = given.text if branch.text else given.no_text
    frames = given.frames if branch.images else []
    with transformer.cache_context(branch.name):
        predictions = transformer(
            [x.to(transformer.dtype) for x in latents],
            t,
            text.features,
            frames,
            given.roles[:, : len(frames)],
            text.mask,
            text.referring,
        )
    kind = transformer.config.prediction_type
    return [as_velocity(p.float(), x, t, kind) for p, x in zip(predictions, latents, strict=True)]


def denoise(
    transformer: UniRealTransformer,
    scheduler: FlowMatchEulerDiscreteScheduler,
    noise: list[torch.Tensor],
    given: Conditions,
    guidance: Guidance,
    num_steps: int,
    callback: Callback | None = None,
) -> list[torch.Tensor]:
    """R clean latent frames (B, C, h, w) from as many of noise.

    callback(step, t, latents) runs after every step; if it returns latents, they replace the current ones.
    """
    latents = [x.float() for x in noise]
    times = sampling_times(scheduler, num_steps, latents[0].device)
    for step, t in enumerate(times):
        batch_t = t.expand(latents[0].shape[0])
        weights = guidance.weights(step, num_steps, bool(given.frames))
        velocities = {branch: velocity(transformer, latents, batch_t, branch, given) for branch in weights}
        guided = combine(velocities, weights)
        latents = _euler(scheduler, guided, scheduler.timesteps[step], latents)
        if callback is not None:
            latents = callback(step, float(t), latents) or latents
    return latents


def _euler(
    scheduler: FlowMatchEulerDiscreteScheduler, velocities: list[torch.Tensor], t: torch.Tensor, latents: list[torch.Tensor]
) -> list[torch.Tensor]:
    """One scheduler step for all frames at once, since it counts its calls."""
    flat = torch.cat([x.flatten(1) for x in latents], dim=1)
    flat = scheduler.step(torch.cat([v.flatten(1) for v in velocities], dim=1), t, flat, return_dict=False)[0]
    parts = flat.split([x[0].numel() for x in latents], dim=1)
    return [part.view_as(x) for part, x in zip(parts, latents, strict=True)]
