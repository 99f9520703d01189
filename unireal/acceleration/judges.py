"""Which tokens of a result already look like the canvas: scores, and the threshold below which a token is kept.

A judge takes two latent frames (B, C, h, w), what the result currently points to and the canvas, and gives a score of 0
(alike) or more for every token, (B, rows, columns). Their scales differ, so each has a threshold of its own.

Axes: B batch, C, h, w latent channels, rows and columns, n tokens of a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderDC
from torch import nn
from torch.nn.functional import avg_pool2d, cosine_similarity, interpolate, max_pool2d, normalize, unfold

from unireal.model.vae import FrameCodec

Judge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# The threshold of every judge: decoder as published (arXiv 2512.22323), cosine about RegionE's (arXiv 2510.25590)
THRESHOLDS = {"decoder": 0.2, "cosine": 0.1, "l2": 0.1}
TWO_MEANS_LIMIT = 2.0  # times the judge's threshold: what two-means may keep at most


class _Enough(Exception):  # noqa: N818 - a signal, no error
    """Ends a decoder's pass once its first layers have run."""


@torch.compiler.disable
def decoder_features(codec: FrameCodec, latent: torch.Tensor) -> list[torch.Tensor]:
    """Outputs (B, channels, rows, columns) of the first layers of a VAE's decoder for latents (B, C, h, w).

    Raises ValueError for a VAE that decodes in tiles.
    """
    vae = codec.vae
    if getattr(vae, "use_tiling", False) or getattr(vae, "use_slicing", False):
        raise ValueError("judge 'decoder' needs a VAE without tiling and slicing; disable them or use judge='cosine'")
    decoder: Any = None if vae is None else vae.decoder
    if isinstance(vae, AutoencoderDC):  # its blocks run from the last to the first
        layers = [decoder.conv_in, *list(decoder.up_blocks)[::-1][:2]]
    else:
        layers = [decoder.conv_in, decoder.mid_block, decoder.up_blocks[0]]
    features: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
        feature = output[0] if isinstance(output, tuple) else output
        features.append(feature[:, :, 0] if codec.video else feature)
        if len(features) == len(layers):
            raise _Enough

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.compiler.set_stance("force_eager"):  # what was compiled before does not see these hooks
            codec.decode(latent, (latent.shape[-2], latent.shape[-1]))
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return features


class DecoderJudge:
    """SpotSelector's perceptual score: features of the decoder's first layers, normalised over channels, squared
    difference, mean of the layers; 0..4. The canvas's features are computed once."""

    def __init__(self, codec: FrameCodec, patch: int):
        self.codec, self.patch = codec, patch
        self._canvas: tuple[torch.Tensor, list[torch.Tensor]] | None = None

    @torch.no_grad()
    def __call__(self, clean: torch.Tensor, canvas: torch.Tensor) -> torch.Tensor:
        if self._canvas is None or self._canvas[0] is not canvas:
            self._canvas = canvas, [normalize(f.float(), dim=1) for f in decoder_features(self.codec, canvas)]
        maps = []
        for new, old in zip(decoder_features(self.codec, clean), self._canvas[1], strict=True):
            distance = (normalize(new.float(), dim=1) - old).square().sum(dim=1, keepdim=True)  # (B, 1, rows, columns)
            maps.append(interpolate(distance, size=clean.shape[-2:], mode="bilinear", align_corners=False))
        return avg_pool2d(torch.stack(maps).mean(dim=0), self.patch)[:, 0]


def cosine_judge(patch: int) -> Judge:
    """1 - cosine of a token's latents; 0..2. Blind to contrast, so meant for latents rather than pixels."""

    def judge(clean: torch.Tensor, canvas: torch.Tensor) -> torch.Tensor:
        similarity = cosine_similarity(_tokens(clean, patch), _tokens(canvas, patch), dim=1)  # (B, n)
        return (1 - similarity).clamp(min=0).unflatten(1, _grid(clean, patch))

    return judge


def l2_judge(patch: int) -> Judge:
    """RMS difference of a token's latents over the standard deviation of the canvas."""

    def judge(clean: torch.Tensor, canvas: torch.Tensor) -> torch.Tensor:
        difference = (_tokens(clean, patch) - _tokens(canvas, patch)).square().mean(dim=1).sqrt()  # (B, n)
        spread = canvas.flatten(1).std(dim=1, keepdim=True).clamp(min=1e-3)
        return (difference / spread).unflatten(1, _grid(clean, patch))

    return judge


def make_judge(name: str | Judge | None, codec: FrameCodec | None, patch: int) -> tuple[Judge, float | None]:
    """A judge and its threshold, None for a function of the caller's own.

    name: None takes the decoder where there is a VAE, else l2. Raises ValueError for the decoder without a VAE.
    """
    if callable(name):
        return name, None
    has_vae = codec is not None and codec.vae is not None
    if name is None:
        name = "decoder" if has_vae else "l2"
    if name == "decoder" and not has_vae:
        raise ValueError("judge 'decoder' needs a VAE, but this model works on pixels; use judge='l2' or 'cosine'")
    threshold = THRESHOLDS[name]
    if name == "decoder" and codec is not None:
        return DecoderJudge(codec, patch), threshold
    return {"cosine": cosine_judge, "l2": l2_judge}[name](patch), threshold


def two_means(scores: torch.Tensor) -> torch.Tensor:
    """Threshold (B, 1) that splits the scores (B, n) of every sample with the least squared error in both halves."""
    ordered = scores.flatten(1).double().sort(dim=1).values  # (B, n)
    if ordered.shape[1] < 2:
        return torch.zeros_like(scores[:, :1])
    total, low = ordered.sum(dim=1, keepdim=True), ordered.cumsum(dim=1)[:, :-1]  # low: sum of the k lowest
    count = torch.arange(1, ordered.shape[1], device=scores.device)
    between = low**2 / count + (total - low) ** 2 / (ordered.shape[1] - count)
    split = between.argmax(dim=1, keepdim=True)
    middle = (ordered.gather(1, split) + ordered.gather(1, split + 1)) / 2
    return middle.to(scores.dtype)


def grow(active: torch.Tensor, radius: int) -> torch.Tensor:
    """bool (B, rows, columns), grown by a number of tokens in all directions."""
    if not radius:
        return active
    return max_pool2d(active[:, None].float(), 2 * radius + 1, stride=1, padding=radius)[:, 0] > 0


def _tokens(latent: torch.Tensor, patch: int) -> torch.Tensor:
    """(B, C, h, w) to (B, C*p*p, n)."""
    return unfold(latent.float(), patch, stride=patch)


def _grid(latent: torch.Tensor, patch: int) -> tuple[int, int]:
    return latent.shape[-2] // patch, latent.shape[-1] // patch
