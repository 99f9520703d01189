"""What every acceleration and combination saves and costs on held-out local edits of the procedural world.

    python -m benchmarks.acceleration --model unireal-tiny --limit 64 --steps 28 --output acceleration.json
    python -m benchmarks.acceleration --random-width 1920 --random-layers 2 --size 256 --limit 4

Each sample is generated plainly and with every combination, one after the other, so that a ratio compares the same
sample in one run. Time is that of the sampling loop with all plug-ins' own work; reading text and pictures and decoding
cost the same on both sides and are left out. With random weights only time means anything, and SpotEdit is told the
true region, since the result does not show it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.nn.functional import adaptive_max_pool2d
from tqdm import tqdm

from data_builders.world.recipes import RECIPES, world_sample
from data_builders.world.stream import TEST_SEEDS
from unireal.acceleration import Accelerations, SpotEdit, accelerations
from unireal.acceleration.fit_teacache import load_parts, move, prepare
from unireal.acceleration.measure import counted, randomize
from unireal.config import MODELS
from unireal.diffusion.guidance import Guidance
from unireal.diffusion.sampling import Conditions, denoise
from unireal.evaluation import metrics
from unireal.model.build import Components, build
from unireal.sample import Role, Sample
from unireal.transforms import to_image

LOCAL_EDITS = ("recolor", "replace", "remove", "add", "move")
COMBINATIONS = (
    "condition_cache",
    "spotedit",
    "teacache",
    "taylorseer",
    "spotedit+condition_cache",
    "spotedit+teacache",
    "spotedit+taylorseer",
    "spotedit+teacache+condition_cache",
)
BINS = (0.0, 0.1, 0.25, 0.6, 1.0)  # share of the pixels that the edit changes
PLAIN = "plain"


@dataclass(frozen=True)
class Measurement:
    """One sample with one combination. PSNR in dB; changed and unchanged are against the truth."""

    combination: str
    recipe: str
    seed: int
    area: float
    seconds: float
    speedup: float
    tokens: int
    tokens_of_plain: float
    psnr_plain: float
    psnr_changed: float
    psnr_unchanged: float


def parts_of(options: argparse.Namespace) -> Components:
    """The model asked for: a saved one, or one on pixels with random weights."""
    if options.random_width is None:
        return load_parts(options.model, options.device)
    if options.random_width % 64:
        raise ValueError(f"the width must be a multiple of 64, the size of a head, got {options.random_width}")
    shape = {
        "num_layers": options.random_layers,
        "num_attention_heads": options.random_width // 64,
        "attention_head_dim": 64,
        "condition_attention": options.condition_attention,
    }
    config = replace(MODELS["debug"], transformer=MODELS["debug"].transformer | shape)
    parts = build(config, [])
    randomize(parts.transformer)
    return move(parts, options.device)


def true_region(sample: Sample, grid: tuple[int, int]) -> SpotEdit:
    """SpotEdit that is told which tokens the edit changes."""
    changed = adaptive_max_pool2d(torch.from_numpy(sample.mask)[None].float(), grid)  # (1, rows, columns)
    return SpotEdit(judge=lambda clean, canvas: changed.to(clean.device).expand(len(clean), *grid), tau=0.5)


def generate(
    parts: Components,
    given: Conditions,
    noise: list[torch.Tensor],
    guidance: Guidance,
    steps: int,
    plugins: Accelerations,
) -> tuple[list[torch.Tensor], float, int]:
    """Latents, seconds and computed tokens."""
    with counted(parts.transformer) as work, torch.no_grad():
        _wait(parts)
        started = time.perf_counter()
        latents = denoise(
            parts.transformer, FlowMatchEulerDiscreteScheduler(), noise, given, guidance, steps,
            accelerate=plugins, codec=parts.codec,
        )  # fmt: skip
        _wait(parts)
        return latents, time.perf_counter() - started, sum(work.tokens)


def measure(parts: Components, sample: Sample, options: argparse.Namespace) -> Iterator[Measurement]:
    """One measurement for plain sampling and one for every combination."""
    guidance, size = Guidance(options.guidance, options.image_guidance), sample.results[0].size
    truth, inside = sample.results[0].image, sample.mask
    given, noise = prepare(parts, [sample], options.seed)
    patch = parts.transformer.config.patch_size
    grid = (noise[0].shape[-2] // patch, noise[0].shape[-1] // patch)
    reference: tuple[np.ndarray, float, int] | None = None
    for combination in (PLAIN, *options.accelerate):
        chosen = [] if combination == PLAIN else combination.split("+")
        plugins = accelerations(chosen)
        if options.true_region:
            plugins = accelerations([true_region(sample, grid) if isinstance(p, SpotEdit) else p for p in plugins])
        latents, seconds, tokens = generate(parts, given, noise, guidance, options.steps, plugins)
        with torch.no_grad():
            image = to_image(parts.codec.decode(latents[0], size)[0])
        reference = reference or (image, seconds, tokens)
        yield Measurement(
            combination=combination,
            recipe=sample.source["recipe"],
            seed=sample.source["seed"],
            area=float(inside.mean()),
            seconds=seconds,
            speedup=reference[1] / seconds,
            tokens=tokens,
            tokens_of_plain=tokens / reference[2],
            psnr_plain=metrics.psnr(image, reference[0]),
            psnr_changed=metrics.psnr(image, truth, inside),
            psnr_unchanged=metrics.psnr(image, truth, ~inside),
        )


def samples_of(options: argparse.Namespace) -> list[Sample]:
    """limit held-out samples of every recipe, with further reference objects if they are asked for."""
    size, samples = (options.size, options.size), []
    for recipe in options.recipes:
        for seed in range(TEST_SEEDS, TEST_SEEDS + options.limit):
            sample = world_sample(recipe, seed, size)
            if sample.mask is None:
                raise ValueError(f"samples of recipe {recipe!r} have no changed region; choose from: {LOCAL_EDITS}")
            extra = [replace(sample.inputs[0], role=Role.ASSET)] * options.extra_inputs
            samples.append(replace(sample, inputs=(*sample.inputs, *extra)))
    return samples


def summary(measurements: list[Measurement], combinations: list[str]) -> list[dict]:
    """One row for each share of changed area and combination: median of ratios, means of PSNR."""
    rows = []
    for low, high in pairwise(BINS):
        for combination in combinations:
            chosen = [m for m in measurements if m.combination == combination and low < m.area <= high]
            if not chosen:
                continue
            rows.append(
                {
                    "changed area": f"{low:.0%} to {high:.0%}",
                    "acceleration": combination,
                    "n": len(chosen),
                    "speed-up": median(m.speedup for m in chosen),
                    "seconds": median(m.seconds for m in chosen),
                    "tokens of plain": float(np.mean([m.tokens_of_plain for m in chosen])),
                    "PSNR to plain": metrics.mean(m.psnr_plain for m in chosen)[0],
                    "PSNR changed": metrics.mean(m.psnr_changed for m in chosen)[0],
                    "PSNR unchanged": metrics.mean(m.psnr_unchanged for m in chosen)[0],
                }
            )
    return rows


def markdown(rows: list[dict]) -> str:
    """The rows as a table."""
    formats = {"speed-up": "{:.2f}x", "seconds": "{:.3f}", "tokens of plain": "{:.0%}"}
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = [v if isinstance(v, str | int) else formats.get(k, "{:.2f}").format(v) for k, v in row.items()]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    parts = parts_of(options)
    samples = samples_of(options)
    list(measure(parts, samples[0], options))  # warms up
    found = [m for sample in tqdm(samples, desc="sampling") for m in measure(parts, sample, options)]
    rows = summary(found, [PLAIN, *options.accelerate])
    print(markdown(rows))
    if options.output:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        settings |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
        report = {"settings": settings, "rows": rows, "samples": [asdict(m) for m in found]}
        options.output.write_text(json.dumps(_finite(report), indent=1) + "\n")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="unireal-tiny", help="a saved model, or a size on pixels (random weights)")
    parser.add_argument("--random-width", type=int, help="a model of this width on pixels, with random weights")
    parser.add_argument("--random-layers", type=int, default=2)
    parser.add_argument("--condition-attention", default="full", choices=("full", "isolated"), help="of a random model")
    parser.add_argument("--recipes", nargs="+", default=list(LOCAL_EDITS), choices=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--limit", type=int, default=32, help="samples per recipe")
    parser.add_argument("--size", type=int, default=64, help="side of canvas and result in pixels")
    parser.add_argument("--extra-inputs", type=int, default=0, help="further input frames of the canvas's size")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--image-guidance", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--accelerate", nargs="+", default=list(COMBINATIONS), metavar="NAME[:SETTING=VALUE][+NAME..]")
    parser.add_argument("--true-region", action="store_true", help="tell SpotEdit what the edit changes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    options.true_region |= options.random_width is not None or options.model in MODELS
    for combination in options.accelerate:
        accelerations(combination.split("+"))  # raises for an unknown name before anything is loaded
    return options


def _wait(parts: Components) -> None:
    if parts.transformer.device.type == "cuda":
        torch.cuda.synchronize()


def _finite(value: object) -> object:
    """JSON has no infinity: the PSNR of equal pictures becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
