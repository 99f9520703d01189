"""One training step's loss as a module, so that gradients of transformer and text encoder go through one wrapper.

Axes: B batch, R results, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import adaptive_max_pool2d

from unireal.diffusion.flow import add_noise, flow_loss
from unireal.model.build import Components
from unireal.sample import Batch


@dataclass
class Step:
    """A batch as the objective takes it: latents, noise, times and tokens, all tensors on one device."""

    condition: list[torch.Tensor]
    clean: list[torch.Tensor]
    noise: list[torch.Tensor]
    t: torch.Tensor
    roles: torch.Tensor
    tokens: dict[str, torch.Tensor]
    weight: torch.Tensor


def prepare_step(
    batch: Batch, components: Components, t: torch.Tensor, generator: torch.Generator, changed_weight: float
) -> Step:
    """Encodes the frames of a batch and draws the noise. t: (B,). The generator is on the CPU, for reproducibility."""
    device, codec = components.transformer.device, components.codec
    clean = [codec.encode(frame.to(device)).float() for frame in batch.results]
    height, width = codec.latent_size(batch.results[0].shape[-2:])
    changed = adaptive_max_pool2d(batch.changed.to(device), (height, width))  # (B, 1, h, w)
    return Step(
        condition=[codec.encode(frame.to(device)).float() for frame in batch.inputs],
        clean=clean,
        noise=[torch.randn(x.shape, generator=generator).to(device) for x in clean],
        t=t.to(device),
        roles=batch.roles.to(device),
        tokens={k: v.to(device) for k, v in components.text.tokenize(batch.prompts).items()},
        weight=1 + (changed_weight - 1) * changed,
    )


class Objective(nn.Module):
    """Flow-matching loss of every sample, (B,): the mean over its result frames. Only those are noised and scored."""

    def __init__(self, components: Components):
        super().__init__()
        self.parts = components.trainable
        self._frozen = [components]  # in a list, so that frozen parts are not submodules

    def forward(self, step: Step) -> torch.Tensor:
        components = self._frozen[0]
        text = components.text.encode_tokens(step.tokens)
        noisy = [add_noise(x, e, step.t) for x, e in zip(step.clean, step.noise, strict=True)]
        predictions = self.parts["transformer"](
            noisy, step.t, text.features, step.condition, step.roles, text.mask, text.referring
        )
        kind = components.transformer.config.prediction_type
        losses = [
            flow_loss(p, x_t, x, e, step.t, kind, step.weight if i == 0 else None)
            for i, (p, x_t, x, e) in enumerate(zip(predictions, noisy, step.clean, step.noise, strict=True))
        ]
        return torch.stack(losses).mean(dim=0)  # (B,)
