"""One training step's loss as a module, so that gradients of transformer and text encoder go through one wrapper.

Axes: B batch, R results, C latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import adaptive_max_pool2d

from unireal.diffusion.flow import add_noise, flow_loss
from unireal.model.build import Components
from unireal.model.text_encoder import TextFeatures
from unireal.sample import Batch


@dataclass
class Step:
    """A batch as the objective takes it, all tensors on one device: latents, noise, times, and the text as tokens, or
    as features if the text encoder is frozen."""

    condition: list[torch.Tensor]
    clean: list[torch.Tensor]
    noise: list[torch.Tensor]
    t: torch.Tensor
    roles: torch.Tensor
    text: dict[str, torch.Tensor] | TextFeatures
    weight: torch.Tensor


def prepare_step(
    batch: Batch,
    components: Components,
    t: torch.Tensor,
    generators: Sequence[torch.Generator],
    changed_weight: float,
) -> Step:
    """Encodes the frames of a batch, unless they are latents already, and draws the noise.

    t: (B,). generators: one for each sample, on the CPU, for reproducibility.
    """
    device = components.transformer.device

    def encode(frame: torch.Tensor) -> torch.Tensor:
        frame = frame.to(device)
        return (frame if batch.text is not None else components.codec.encode(frame)).float()

    clean = [encode(frame) for frame in batch.results]
    changed = adaptive_max_pool2d(batch.changed.to(device), clean[0].shape[-2:])  # (B, 1, h, w)
    return Step(
        condition=[encode(frame) for frame in batch.inputs],
        clean=clean,
        noise=[torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(device) for x in clean],
        t=t.to(device),
        roles=batch.roles.to(device),
        text=_text(batch, components, device),
        weight=1 + (changed_weight - 1) * changed,
    )


def _text(batch: Batch, components: Components, device: torch.device) -> dict[str, torch.Tensor] | TextFeatures:
    if batch.text is not None:
        return TextFeatures(**batch.text).to(device, components.transformer.dtype)
    if components.text.frozen:
        return components.text(batch.prompts).to(device, components.transformer.dtype)
    return {k: v.to(device) for k, v in components.text.tokenize(batch.prompts).items()}


class Objective(nn.Module):
    """Flow-matching loss of every sample, (B,): the mean over its result frames. Only those are noised and scored."""

    def __init__(self, components: Components):
        super().__init__()
        self.parts = components.trainable
        self._frozen = [components]  # in a list, so that frozen parts are not submodules

    def forward(self, step: Step) -> torch.Tensor:
        components = self._frozen[0]
        text = step.text if isinstance(step.text, TextFeatures) else components.text.encode_tokens(step.text)
        noisy = [add_noise(x, e, step.t) for x, e in zip(step.clean, step.noise, strict=True)]
        predictions = self.parts["transformer"](
            noisy, step.t, text.features, step.condition, step.roles, text.mask, text.referring
        )
        kind = components.transformer.config.prediction_type
        losses = [
            flow_loss(p, x_t, x, e, step.t, kind, step.weight if x.shape[-2:] == step.weight.shape[-2:] else None)
            for p, x_t, x, e in zip(predictions, noisy, step.clean, step.noise, strict=True)
        ]
        return torch.stack(losses).mean(dim=0)  # (B,)
