"""Samples as what the transformer is conditioned on: text features and latent input frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unireal.diffusion.sampling import Conditions
from unireal.model.build import Components
from unireal.prompts import join
from unireal.sample import Sample
from unireal.transforms import collate


def encode_samples(
    parts: Components, samples: Sequence[Sample], device: torch.device, without_text: bool = True
) -> Conditions:
    """What samples of one layout are conditioned on, on the transformer's device. without_text: whether a guidance
    branch leaves the text out."""
    batch, dtype = collate(samples), parts.transformer.dtype
    return Conditions(
        text=parts.text([join(s.context, s.instruction) for s in samples]).to(device, dtype),
        no_text=parts.text([""] * len(samples)).to(device, dtype) if without_text else None,
        frames=[parts.codec.encode(frame.to(device)).to(dtype) for frame in batch.inputs],
        roles=batch.roles.to(device),
    )
