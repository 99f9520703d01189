"""From noise to result frames: the sampling loop, with guidance.

Axes: B batch, K input frames, R result frames, C, h, w latent channels, rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler

from unireal.diffusion.flow import as_velocity
from unireal.diffusion.guidance import Branch, Guidance, combine
from unireal.model.text_encoder import TextFeatures
from unireal.model.transformer import UniRealTransformer
from unireal.model.vae import FrameCodec

SCHEDULERS = (FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler)  # whose times are ours, and set by sigmas
Generators = torch.Generator | list[torch.Generator] | tuple[torch.Generator, ...] | None
Callback = Callable[[int, float, list[torch.Tensor]], list[torch.Tensor] | None]


@dataclass(frozen=True)
class Conditions:
    """What the results are conditioned on: text, the text of guidance branches without it (None where no branch asks
    for one, see Guidance.without_text), K latent input frames (B, C, h, w), roles (B, K)."""

    text: TextFeatures
    no_text: TextFeatures | None
    frames: list[torch.Tensor]
    roles: torch.Tensor

    def arguments(
        self, branch: Branch
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
        """What follows latents and times in the transformer's `forward` and `pack` in a guidance branch."""
        text, frames = self.text if branch.text else self.no_text, self.frames if branch.images else []
        assert text is not None  # who samples with such a branch encodes Guidance.without_text
        return text.features, frames, self.roles[:, : len(frames)], text.mask, text.referring


@dataclass(frozen=True)
class Call:
    """What a sampling call is about, for accelerations to look at.

    sizes: latent (h, w) of the R result frames; codec: between latents and pixels, None if the caller has none.
    """

    transformer: UniRealTransformer
    given: Conditions
    num_steps: int
    sizes: tuple[tuple[int, int], ...]
    codec: FrameCodec | None = None


class Accelerator(Protocol):
    """What decides what every step of a call computes (unireal.acceleration.base.StepScheduler)."""

    def velocities(
        self, step: int, t: torch.Tensor, latents: list[torch.Tensor], branches: Sequence[Branch]
    ) -> dict[Branch, list[torch.Tensor]]:
        """Takes the place of `velocity` for all branches of a step; t: (B,), all equal."""

    def guided(self, t: float, latents: list[torch.Tensor], velocities: list[torch.Tensor]) -> list[torch.Tensor]:
        """What becomes of the guided velocities of the R result frames."""

    def finish(self, latents: list[torch.Tensor]) -> list[torch.Tensor]:
        """What becomes of the last step's result."""

    def close(self) -> None:
        """Lets go of all state; called also after an exception."""


class Accelerations(Protocol):
    """Settings from which every call gets an accelerator of its own (unireal.acceleration.accelerations)."""

    def start(self, call: Call) -> Accelerator: ...


def draw_noise(shape: tuple[int, ...], generator: Generators) -> torch.Tensor:
    """float32 of shape (B, ...) on the CPU, drawn on the generator's device so that a seed means the same everywhere.

    Raises ValueError for what is no generator, and unless a list of generators has one for each sample.
    """
    if isinstance(generator, list | tuple):
        if len(generator) != shape[0]:
            raise ValueError(f"{len(generator)} generators were given for {shape[0]} samples; give one for each")
        return torch.stack([draw_noise(shape[1:], g) for g in generator])
    if not isinstance(generator, torch.Generator | None):
        told = f"generator is a torch.Generator or a list of them, got {type(generator).__name__}"
        raise ValueError(f"{told}; write torch.Generator().manual_seed(SEED)")
    device = "cpu" if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).cpu()


def checked_latents(
    latents: torch.Tensor | Sequence[torch.Tensor], shapes: Sequence[tuple[int, ...]], device: torch.device
) -> list[torch.Tensor]:
    """Latents of a caller's own for the R result frames, shapes (B, C, h, w), float32 on the device.

    Raises ValueError for other shapes.
    """
    latents = [latents] if isinstance(latents, torch.Tensor) else list(latents)
    if (got := [tuple(x.shape) for x in latents]) != list(shapes):
        raise ValueError(f"latents of shapes {got} were given; this call needs {list(shapes)}")
    return [x.to(device, torch.float32) for x in latents]


def sampling_times(scheduler: FlowMatchEulerDiscreteScheduler, num_steps: int, device: torch.device) -> torch.Tensor:
    """Prepares the scheduler for num_steps from t = 1 to t = 0 and returns their times, float32 (num_steps,).

    Raises ValueError for schedulers that have other times, with which nothing but noise would come out.
    """
    if not isinstance(scheduler, SCHEDULERS):
        able = ", ".join(kind.__name__ for kind in SCHEDULERS)
        raise ValueError(f"the scheduler is a {type(scheduler).__name__}; these can be used: {able}")
    sigmas = [1 - i / num_steps for i in range(num_steps)]
    scheduler.set_timesteps(sigmas=sigmas, device=device)
    return scheduler.timesteps / scheduler.config.num_train_timesteps


def velocity(
    transformer: UniRealTransformer, latents: list[torch.Tensor], t: torch.Tensor, branch: Branch, given: Conditions
) -> list[torch.Tensor]:
    """The velocity of every result frame in one guidance branch; t: (B,)."""
    with transformer.cache_context(branch.name):
        predictions = transformer([x.to(transformer.dtype) for x in latents], t, *given.arguments(branch))
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
    accelerate: Accelerations | tuple[()] = (),
    codec: FrameCodec | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    generator: Generators = None,
) -> list[torch.Tensor]:
    """R clean latent frames (B, C, h, w) from as many of noise.

    callback(step, t, latents) runs after every step; if it returns latents, they replace the current ones.
    interrupted: asked after every step whether to stop there.
    accelerate: made by unireal.acceleration.accelerations; codec: between latents and pixels, for plug-ins that ask.
    generator: of the noise that some schedulers add in every step.
    Raises ValueError for plug-ins that exclude each other, or ask for what the model lacks.
    """
    latents = [x.float() for x in noise]
    times = sampling_times(scheduler, num_steps, latents[0].device)
    sizes = tuple((x.shape[-2], x.shape[-1]) for x in latents)
    accelerator = accelerate.start(Call(transformer, given, num_steps, sizes, codec)) if accelerate else None
    try:
        for step, t in enumerate(times):
            batch_t = t.expand(latents[0].shape[0])
            weights = guidance.weights(step, num_steps, bool(given.frames))
            if accelerator is None:
                velocities = {branch: velocity(transformer, latents, batch_t, branch, given) for branch in weights}
                guided = combine(velocities, weights)
            else:
                velocities = accelerator.velocities(step, batch_t, latents, list(weights))
                guided = accelerator.guided(float(t), latents, combine(velocities, weights))
            latents = _euler(scheduler, guided, scheduler.timesteps[step], latents, generator)
            if accelerator is not None and step == num_steps - 1:
                latents = accelerator.finish(latents)
            if callback is not None and (changed := callback(step, float(t), latents)) is not None:
                latents = changed
            if interrupted():
                break
    finally:
        if accelerator is not None:
            accelerator.close()
        transformer.reset_cache()  # of diffusers: the next call starts anew, also after an exception
    return latents


def _euler(
    scheduler: FlowMatchEulerDiscreteScheduler,
    velocities: list[torch.Tensor],
    t: torch.Tensor,
    latents: list[torch.Tensor],
    generator: Generators,
) -> list[torch.Tensor]:
    """One scheduler step for all frames at once, since it counts its calls."""
    flat = torch.cat([x.flatten(1) for x in latents], dim=1)
    drawn: Any = list(generator) if isinstance(generator, tuple) else generator
    ahead = torch.cat([v.flatten(1) for v in velocities], dim=1)
    flat = scheduler.step(ahead, t, flat, generator=drawn, return_dict=False)[0]
    parts = flat.split([x[0].numel() for x in latents], dim=1)
    return [part.view_as(x) for part, x in zip(parts, latents, strict=True)]
