"""Trains the tiny model's autoencoder on single frames of the procedural world.

    python -m unireal.training.autoencoder --output runs/vae --steps 3000

The model is diffusers' AutoencoderDC (arXiv 2410.10733): 8x down, 32 channels, so 64 tokens for a 64x64 frame. Loss: L1
and squared error of the pixels. Noise on the latents makes the decoder tolerant of what a diffusion model leaves, and a
small penalty on their size keeps them near zero; at the end each channel is scaled to unit variance inside the weights.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from tqdm import tqdm

from data_builders.world.render import encode_depth, pattern_swatch, render, render_asset
from data_builders.world.scene import sample_scene
from unireal.arguments import Parser, at_least_one, failed
from unireal.sample import Frame, Role
from unireal.transforms import to_tensor as frame_tensor

LATENT_NOISE = 0.05
LATENT_PENALTY = 1e-3


def tiny_autoencoder() -> AutoencoderDC:
    """1.8M parameters; (B, 3, H, W) to (B, 32, H/8, W/8)."""
    channels, layers, attention = (16, 32, 64, 128), (0, 1, 1, 2), ((), (), (), ())
    return AutoencoderDC(
        latent_channels=32,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=attention,
        decoder_qkv_multiscales=attention,
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
        scaling_factor=1.0,
    )


def draw_frame(rng: np.random.Generator, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """A frame of any kind that a task may show, uint8 (H, W, 3)."""
    choice = rng.random()
    if choice < 0.65:
        return render(sample_scene(rng, photo_share=0.35), size).image
    scene = sample_scene(rng)
    rendering = render(scene, size)
    if choice < 0.75:
        return encode_depth(rendering.depth)
    if choice < 0.87:
        mask = np.any(rendering.masks[: int(rng.integers(1, 3))], axis=0)
        color = (255, 255, 255) if rng.random() < 0.6 else rng.integers(0, 256, 3)
        return mask[..., None].astype(np.uint8) * np.asarray(color, np.uint8)
    return (render_asset if choice < 0.95 else pattern_swatch)(scene.things[0], size)


def to_tensor(images: list[np.ndarray]) -> torch.Tensor:
    """uint8 (H, W, 3) images to float32 (B, 3, H, W) in -1..1."""
    return torch.stack([frame_tensor(Frame(image, Role.RESULT)) for image in images])


@torch.no_grad()
def scale_latents(vae: AutoencoderDC, images: torch.Tensor) -> None:
    """Scales every latent channel to unit variance by folding the factor into the layers on both sides of it."""
    std = vae.encode(images).latent.std(dim=(0, 2, 3))  # (C,)
    vae.encoder.conv_out.weight /= std[:, None, None, None]
    vae.encoder.conv_out.bias /= std
    vae.decoder.conv_in.weight *= std[None, :, None, None]


@torch.no_grad()
def psnr(vae: AutoencoderDC, images: torch.Tensor) -> float:
    """Mean PSNR in dB of reconstructions of (B, 3, H, W) in -1..1."""
    restored = vae.decode(vae.encode(images).latent).sample.clamp(-1, 1)
    error = ((restored - images) / 2).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())


def train(output: Path, steps: int, batch_size: int, learning_rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = tiny_autoencoder()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    rise = 0.05 if steps > 20 else 0.0  # of one step it has no length, and the schedule divides by that
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=rise)
    held_out = np.random.default_rng(seed + 1)
    test = to_tensor([draw_frame(held_out) for _ in range(128)])
    start = time.time()
    bar = tqdm(range(steps), desc="autoencoder")
    for step in bar:
        images = to_tensor([draw_frame(rng) for _ in range(batch_size)])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latent = vae.encode(images).latent
            restored = vae.decode(latent + LATENT_NOISE * torch.randn_like(latent)).sample
        error = restored.float() - images
        loss = error.abs().mean() + 4 * error.square().mean() + LATENT_PENALTY * latent.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            bar.set_postfix(loss=f"{loss.item():.4f}", psnr=f"{psnr(vae, test):.2f}")
    scale_latents(vae, test)
    vae.save_pretrained(output, safe_serialization=True)
    print(f"{steps} steps in {time.time() - start:.0f} s, held-out PSNR {psnr(vae, test):.2f} dB, saved to {output}")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input, 130 if it was interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        train(options.output, options.steps, options.batch_size, options.learning_rate, options.seed)
    except OSError as error:
        return failed(error)
    except KeyboardInterrupt:
        return failed("interrupted; nothing was saved, as an autoencoder is only at its last step", 130)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m unireal.training.autoencoder", description=__doc__.splitlines()[0],
                    allow_abbrev=False)  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the autoencoder")
    parser.add_argument("--steps", type=at_least_one, default=3000, metavar="N", help="default: 3000")
    parser.add_argument("--batch-size", type=at_least_one, default=32, metavar="N", help="default: 32")
    parser.add_argument("--learning-rate", type=_rate, default=2e-3, metavar="R", help="the highest (default: 0.002)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights, frames and noise (default: 0)")
    return parser


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return rate


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:  # torch takes no larger one
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number in 0..2**63 - 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
