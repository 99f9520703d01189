"""What differs between the public pipelines, as values: how they lay out frames, rotate keys and scale latents.

Axes: B batch, L text tokens, N result tokens, M tokens of the input frames, E width of an attention head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, DiffusionPipeline
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.models.transformers.transformer_qwenimage import (
    QwenDoubleStreamAttnProcessor2_0,
    apply_rotary_emb_qwen,
)

from unireal.acceleration.memory import Turn
from unireal.model.vae import FrameCodec

Angles = tuple[torch.Tensor, ...]  # rotary angles, one row per token [text | result | inputs] in each


@dataclass(frozen=True)
class Family:
    """Pipelines that share a transformer.

    pipelines: names of diffusers' classes.
    processor: the attention processor that is stood in for.
    grids:     arguments of the transformer -> (rows, columns) of tokens of the result and of every input frame.
    turn:      rotates keys or queries (B, N, heads, E).
    angles, parted: what the transformer's `pos_embed` returns -> Angles, and back, given L.
    codec:     between the pipeline's latents and pixels.
    """

    pipelines: tuple[str, ...]
    processor: type
    grids: Callable[[dict[str, Any]], list[tuple[int, int]]]
    turn: Turn
    angles: Callable[[Any], Angles]
    parted: Callable[[Angles, int], Any]
    codec: Callable[[DiffusionPipeline], FrameCodec]


PATCH = 2  # latent pixels along a token's side, in all of them


class QwenCodec(FrameCodec):
    """Qwen-Image's video VAE, which encodes one frame to one latent frame; every channel has its own mean and scale."""

    def __init__(self, vae: AutoencoderKLQwenImage):
        self.vae, self.video = vae, True
        self.factor = vae.spatial_compression_ratio
        self.multiple = self.factor * PATCH
        self.shift = torch.tensor(vae.config.latents_mean).view(-1, 1, 1)  # (C, 1, 1)
        self.scale = 1 / torch.tensor(vae.config.latents_std).view(-1, 1, 1)

    @torch.no_grad()
    def encode(self, frame: torch.Tensor) -> torch.Tensor:
        self._follow(frame)
        return super().encode(frame)

    def decode(self, latent: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        self._follow(latent)
        return super().decode(latent, size)

    def _follow(self, tensor: torch.Tensor) -> None:
        self.shift, self.scale = (torch.as_tensor(x).to(tensor.device) for x in (self.shift, self.scale))


def _flux_grids(arguments: dict[str, Any]) -> list[tuple[int, int]]:
    ids = arguments["img_ids"]  # (N + M, 3): which image, row, column
    images = [ids[ids[:, 0] == image] for image in ids[:, 0].unique()]
    return [(int(i[:, 1].max()) + 1, int(i[:, 2].max()) + 1) for i in images]


def _qwen_grids(arguments: dict[str, Any]) -> list[tuple[int, int]]:
    return [(rows, columns) for _, rows, columns in arguments["img_shapes"][0]]


FAMILIES: tuple[Family, ...] = (
    Family(
        pipelines=("FluxKontextPipeline",),
        processor=FluxAttnProcessor,
        grids=_flux_grids,
        turn=lambda x, angles: apply_rotary_emb(x, angles, sequence_dim=1),
        angles=lambda embedded: embedded,
        parted=lambda angles, text: angles,
        codec=lambda pipeline: FrameCodec(pipeline.vae, PATCH),
    ),
    Family(
        pipelines=("QwenImageEditPipeline", "QwenImageEditPlusPipeline"),
        processor=QwenDoubleStreamAttnProcessor2_0,
        grids=_qwen_grids,
        turn=lambda x, angles: apply_rotary_emb_qwen(x, angles[0], use_real=False),
        angles=lambda embedded: (torch.cat([embedded[1], embedded[0]]),),  # it returns (images, text)
        parted=lambda angles, text: (angles[0][text:], angles[0][:text]),
        codec=lambda pipeline: QwenCodec(pipeline.vae),
    ),
)


def family_of(pipeline: DiffusionPipeline | str) -> Family | None:
    """The family of a pipeline or of a pipeline class's name; None for one that is not among them."""
    name = pipeline if isinstance(pipeline, str) else type(pipeline).__name__
    return next((family for family in FAMILIES if name in family.pipelines), None)
