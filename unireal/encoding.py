"""Samples as what the transformer is conditioned on: text features and latent input frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from textwrap import shorten

import torch

from unireal.diffusion.sampling import Conditions
from unireal.model.build import Components
from unireal.prompts import join
from unireal.sample import Sample
from unireal.transforms import role_indices, stacked

_log = logging.getLogger(__name__)


def tell_cut_prompts(parts: Components, samples: Sequence[Sample], negative_prompt: str, told: set[str]) -> None:
    """Logs a warning for every prompt that is longer than the model reads and not among those told of before."""
    text = parts.text
    for prompt in dict.fromkeys([*(join(s.context, s.instruction) for s in samples), negative_prompt]):
        count, lost = text.cut_off(prompt)
        if lost and prompt not in told:
            told.add(prompt)
            end = shorten(lost, 300, placeholder=" ...")
            _log.warning("the prompt has %d tokens, the model reads %d; cut off: %r", count, text.max_length, end)


def encode_samples(
    parts: Components, samples: Sequence[Sample], device: torch.device, without_text: str | None = ""
) -> Conditions:
    """What samples of one layout are conditioned on, on the transformer's device. without_text: what guidance branches
    without the text read (Guidance.without_text)."""
    dtype = parts.transformer.dtype
    return Conditions(
        text=parts.text([join(s.context, s.instruction) for s in samples]).to(device, dtype),
        no_text=None if without_text is None else parts.text([without_text] * len(samples)).to(device, dtype),
        frames=[parts.codec.encode(frame.to(device)).to(dtype) for frame in stacked(samples, "inputs")],
        roles=role_indices(samples).to(device),
    )
