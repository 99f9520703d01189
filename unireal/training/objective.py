"""One training step's loss as a module, so that gradients of transformer and text encoder go through one wrapper.

Axes: B batch, R results, C latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.functional import adaptive_max_pool2d

from unireal.diffusion.flow import add_noise, flow_loss
from unireal.model.build import Components
from unireal.model.packing import pad_to_multiple
from unireal.model.text_encoder import TextFeatures
from unireal.model.transformer import UniRealTransformer
from unireal.sample import Batch
from unireal.training.attention_warmup import weighted


@dataclass
class Step:
    """A batch as the objective takes it, all tensors on one device: latents, noise, times, and the text as tokens, or
    as features if the text encoder is frozen. weight: of the pixels of the R results, (B, 1, h, w) each. batch: what it
    was made of. reference_weight: how many times as much reference frames weigh in attention as the text."""

    condition: list[torch.Tensor]
    clean: list[torch.Tensor]
    noise: list[torch.Tensor]
    t: torch.Tensor
    roles: torch.Tensor
    text: dict[str, torch.Tensor] | TextFeatures
    weight: list[torch.Tensor]
    batch: Batch | None = None
    reference_weight: float = 1.0

    @property
    def noisy(self) -> list[torch.Tensor]:
        """The result frames at the step's times."""
        return [add_noise(x, e, self.t) for x, e in zip(self.clean, self.noise, strict=True)]


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
    padded = [pad_to_multiple(x.to(device), components.codec.multiple) for x in batch.changed]  # as the frames are
    changed = [adaptive_max_pool2d(x, latent.shape[-2:]) for x, latent in zip(padded, clean, strict=True)]
    return Step(
        condition=[encode(frame) for frame in batch.inputs],
        clean=clean,
        noise=[torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(device) for x in clean],
        t=t.to(device),
        roles=batch.roles.to(device),
        text=_text(batch, components, device),
        weight=[1 + (changed_weight - 1) * x for x in changed],
        batch=batch,
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
        self.added: dict[str, torch.Tensor] = {}  # what the last loss has besides, by name, for the log

    def forward(self, step: Step) -> torch.Tensor:
        noisy = step.noisy
        return self.flow_losses(step, noisy, self.predict(step, noisy))

    def predict(
        self, step: Step, noisy: list[torch.Tensor], outputs: list[torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """What the model that is trained predicts; outputs: as in `predicted`."""
        text = step.text if isinstance(step.text, TextFeatures) else self._frozen[0].text.encode_tokens(step.text)
        return predicted(
            cast(UniRealTransformer, self.parts["transformer"]), step, noisy, text, outputs, step.reference_weight
        )

    def flow_losses(self, step: Step, noisy: list[torch.Tensor], predictions: list[torch.Tensor]) -> torch.Tensor:
        kind = self._frozen[0].transformer.config.prediction_type
        losses = [
            flow_loss(p, x_t, x, e, step.t, kind, weight)
            for p, x_t, x, e, weight in zip(predictions, noisy, step.clean, step.noise, step.weight, strict=True)
        ]
        return torch.stack(losses).mean(dim=0)  # (B,)


def predicted(
    transformer: UniRealTransformer,
    step: Step,
    noisy: list[torch.Tensor],
    text: TextFeatures,
    outputs: list[torch.Tensor] | None = None,
    reference_weight: float = 1.0,
) -> list[torch.Tensor]:
    """What a transformer predicts for the R noisy result frames of a step.

    outputs: a list that gets the result tokens (B, M, D) after every block.
    """
    sequence = transformer.pack(noisy, step.t, text.features, step.condition, step.roles, text.mask, text.referring)
    if reference_weight != 1:
        sequence = weighted(sequence, step.condition, step.roles, transformer.config.patch_size, reference_weight)
    tokens = transformer.run(sequence, outputs=outputs)  # (B, N, D)
    if outputs is not None:
        outputs[:] = [x[:, sequence.num_condition :] for x in outputs]
    sizes = [(x.shape[-2], x.shape[-1]) for x in noisy]
    return transformer.head(tokens[:, sequence.num_condition :], sequence, sizes)
