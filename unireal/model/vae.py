"""Frames to latents and back. Every frame is encoded on its own, never as a clip: a video VAE would mix or compress
neighbouring frames, but ours may differ in everything (iMontage, arXiv 2511.20635).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLCogVideoX

from unireal.model.packing import pad_to_multiple

VAE: TypeAlias = AutoencoderKL | AutoencoderKLCogVideoX | AutoencoderDC


class FrameCodec:
    """A diffusers VAE for single frames.

    vae: an image VAE, or CogVideoX's video VAE, which encodes one frame to exactly one latent frame; None works on
         pixels (the baseline that the tiny VAE was compared with).
    patch_size: latent pixels along a token's side; frames are padded so that they divide.
    factor: pixels along a latent pixel's side, where the VAE is known but not loaded, as frames are latents already.
    """

    def __init__(self, vae: VAE | None, patch_size: int, factor: int = 1):
        self.vae = vae
        self.video = isinstance(vae, AutoencoderKLCogVideoX)
        config: Any = {} if vae is None else vae.config
        self.scale = config.get("scaling_factor") or 1.0
        self.shift = config.get("shift_factor") or 0.0
        self.factor = factor if vae is None else spatial_factor(vae.config)
        self.multiple = self.factor * patch_size

    @torch.no_grad()
    def encode(self, frame: torch.Tensor) -> torch.Tensor:
        """Frame (B, 3, H, W) in -1..1 to latents (B, C, h, w) of about unit variance; padded to whole tokens."""
        frame = pad_to_multiple(frame, self.multiple)
        if self.vae is None:
            return frame
        frame = frame.to(self.vae.dtype)
        encoded = self.vae.encode(frame[:, :, None] if self.video else frame)  # (B, C, [1,] h, w)
        latent = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
        latent = latent[:, :, 0] if self.video else latent
        return (latent - self.shift) * self.scale

    def decode(self, latent: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Latents (B, C, h, w) to a frame (B, 3, H, W) in -1..1, cropped to size (H, W)."""
        height, width = size
        if self.vae is None:
            return latent[..., :height, :width]
        latent = (latent / self.scale + self.shift).to(self.vae.dtype)
        frame = self.vae.decode(latent[:, :, None] if self.video else latent).sample
        frame = frame[:, :, 0] if self.video else frame
        return frame[..., :height, :width]

    def latent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Latent (h, w) of a frame of (H, W) pixels, padding included."""
        height, width = (-(-side // self.multiple) * self.multiple // self.factor for side in size)
        return height, width


def spatial_factor(config: Mapping[str, Any]) -> int:
    """Pixels along a latent pixel's side, by the configuration of a VAE."""
    stages = config["encoder_block_out_channels" if "encoder_block_out_channels" in config else "block_out_channels"]
    return 2 ** (len(stages) - 1)
