"""Trains the tiny model's autoencoder on single frames of the procedural world.

    python -m unireal.training.autoencoder --output runs/vae --steps 3000

The model is diffusers' AutoencoderDC (arXiv 2410.10733): 8x down, 32 channels, so 64 tokens for a 64x64 frame. Loss: L1
and squared error of the pixels. Noise on the latents makes the decoder tolerant of what a diffusion model leaves, and a
small penalty on their size keeps them near zero; at the end each channel is scaled to unit variance inside the weights.

The frames and noise of a step follow from the seed and its number, so that `--resume` goes on exactly where the newest
of the folder's checkpoints stands.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderDC
from tqdm import tqdm

from data_builders.world.render import encode_depth, pattern_swatch, render, render_asset
from data_builders.world.scene import sample_scene
from unireal.arguments import Parser, at_least_one, failed, seed
from unireal.sample import Frame, Role
from unireal.training.checkpoint import (
    RunTensors,
    as_os_error,
    check_no_run,
    last_saved,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)
from unireal.training.precision import bf16_is_slow
from unireal.transforms import to_tensor as frame_tensor

LATENT_NOISE = 0.05
LATENT_PENALTY = 1e-3
_RECIPE = ("steps", "batch_size", "learning_rate", "seed")  # options that decide what every step does
_KEPT_CHECKPOINTS = 2


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


class Run:
    """The training of one autoencoder in the folder `output`. recipe: the options of _RECIPE."""

    def __init__(self, output: Path, recipe: dict[str, Any], checkpoint_every: int = 500):
        self.output, self.recipe, self.checkpoint_every = output, recipe, checkpoint_every
        torch.manual_seed(recipe["seed"])
        self.vae = tiny_autoencoder()
        rate, steps = recipe["learning_rate"], recipe["steps"]
        self.optimizer = torch.optim.AdamW(self.vae.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
        rise = 0.05 if steps > 20 else 0.0  # of one step it has no length, and the schedule divides by that
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=steps, pct_start=rise)
        self.tensors = RunTensors(dict(self.vae.named_parameters()), [self.optimizer])
        self.accelerator = Accelerator(cpu=True)
        self.step = 0

    def resume(self) -> None:
        """Continues from the newest checkpoint. Raises ValueError if there is none, or none of this recipe."""
        newest = newest_checkpoint(self.output)
        recipe = read_state(newest).get("recipe", {})
        for name, value in self.recipe.items():
            if recipe.get(name) != value:
                option = f"--{name.replace('_', '-')}"
                before = f"has {option} {recipe[name]}, not {value}" if name in recipe else "is not an autoencoder's"
                raise ValueError(f"{newest} {before}; resume with the options of the run, or give another --output")
        state = load_checkpoint(newest, self.accelerator, self.tensors)
        self.step = state["step"]
        self.schedule.load_state_dict(state["schedule"])
        self.optimizer.param_groups[0].update(state["rates"])
        print(f"resumed from {newest}")

    def train(self, after_step: Callable[[int, float], None] | None = None) -> None:
        """Runs to the last step and saves the autoencoder. after_step(step, loss) is called after each.

        Raises FloatingPointError if the loss is no longer finite, and OSError if something cannot be written.
        """
        begun, start, steps = self.step, time.time(), self.recipe["steps"]
        held_out = np.random.default_rng(self.recipe["seed"] + 1)
        test = to_tensor([draw_frame(held_out) for _ in range(128)])
        with tqdm(total=steps, initial=begun, desc="autoencoder") as bar:
            while self.step < steps:
                loss = self._train_step()
                if not math.isfinite(loss):
                    raise FloatingPointError(f"the loss is {loss} at step {self.step}; lower the learning rate")
                self.step += 1
                bar.update()
                if after_step is not None:
                    after_step(self.step, loss)
                if self.step % 100 == 0:
                    bar.set_postfix(loss=f"{loss:.4f}", psnr=f"{psnr(self.vae, test):.2f}")
                if self.step == steps or self.step % self.checkpoint_every == 0:
                    self._checkpoint()
        scale_latents(self.vae, test)
        _save(self.vae, self.output)
        seconds = f"{steps - begun} steps in {time.time() - start:.0f} s"
        print(f"{seconds}, held-out PSNR {psnr(self.vae, test):.2f} dB, saved to {self.output}")

    def _train_step(self) -> float:
        rng = np.random.default_rng((self.recipe["seed"], self.step))
        images = to_tensor([draw_frame(rng) for _ in range(self.recipe["batch_size"])])
        with torch.autocast("cpu", torch.bfloat16, enabled=not bf16_is_slow()):
            latent = self.vae.encode(images).latent
            noise = torch.from_numpy(rng.standard_normal(latent.shape, np.float32)).to(latent.dtype)
            restored = self.vae.decode(latent + LATENT_NOISE * noise).sample
        error = restored.float() - images
        loss = error.abs().mean() + 4 * error.square().mean() + LATENT_PENALTY * latent.float().square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return loss.item()

    def _checkpoint(self) -> None:
        rates = {name: value for name, value in self.optimizer.param_groups[0].items() if name in ("lr", "betas")}
        state = {"step": self.step, "recipe": self.recipe, "schedule": self.schedule.state_dict(), "rates": rates}
        save_checkpoint(self.output / "checkpoints", self.accelerator, self.tensors, state, _KEPT_CHECKPOINTS)


def _save(vae: AutoencoderDC, output: Path) -> None:
    """Writes the files under another name first: an autoencoder that is there is whole."""
    unfinished = output / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # what a killed run left
    try:
        with as_os_error():
            vae.save_pretrained(unfinished, safe_serialization=True)
        for file in sorted(unfinished.iterdir(), reverse=True):  # config.json, without which there is none, is the last
            os.replace(file, output / file.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input, 1 if the training itself failed, 130 if it was interrupted."""
    options = _parser().parse_args(arguments)
    output = options.output
    try:
        if not options.resume:
            check_no_run(output)
            if (output / "config.json").exists():
                raise ValueError(f"{output} holds an autoencoder; give another --output")
        run = Run(output, {name: getattr(options, name) for name in _RECIPE}, options.checkpoint_every)
        if options.resume:
            run.resume()
        output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        return failed(error)
    try:
        run.train()
    except FloatingPointError as error:
        return failed(error, 1)
    except OSError as error:
        return failed(f"cannot write to {output} ({error}); {last_saved(output, 'make room and ')}", 1)
    except KeyboardInterrupt:
        return failed(f"interrupted; {last_saved(output)}", 130)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m unireal.training.autoencoder", description=__doc__.splitlines()[0],
                    allow_abbrev=False)  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the autoencoder")
    parser.add_argument("--steps", type=at_least_one, default=3000, metavar="N", help="default: 3000")
    parser.add_argument("--batch-size", type=at_least_one, default=32, metavar="N", help="default: 32")
    parser.add_argument("--learning-rate", type=_rate, default=2e-3, metavar="R", help="the highest (default: 0.002)")
    parser.add_argument("--checkpoint-every", type=at_least_one, default=500, metavar="N", help="steps (default: 500)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of weights, frames and noise (default: 0)")
    return parser


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return rate


if __name__ == "__main__":
    sys.exit(main())
