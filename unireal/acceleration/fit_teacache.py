"""Fits TeaCache's polynomial to a model.

    python -m unireal.acceleration.fit_teacache --model runs/tiny/model --steps 28 --output teacache.json
    python infer.py edit --model runs/tiny/model --accelerate teacache:polynomial=teacache.json ...

The model samples held-out world tasks without any cache. Every step and guidance branch gives one pair: the relative
change of the first block's modulated input, and that of the residual of all blocks. One least-squares polynomial goes
through all pairs; averaging over samples first would hide the spread.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tqdm import tqdm

from data_builders.world.recipes import RECIPES, world_sample
from data_builders.world.stream import TEST_SEEDS
from unireal.acceleration import accelerations
from unireal.acceleration.base import Acceleration
from unireal.acceleration.measure import load_parts, prepare
from unireal.acceleration.skipping import Signal, Skipping
from unireal.acceleration.teacache import relative_l1
from unireal.arguments import Parser, at_least_one, failed, usable_device
from unireal.diffusion.guidance import Guidance
from unireal.diffusion.sampling import Call, denoise
from unireal.files import check_writable, replacing
from unireal.model.build import Components

FIRST_SEED = TEST_SEEDS + (1 << 20)  # apart from those of the benchmarks


@dataclass
class Recorder(Acceleration):
    """Skips nothing; pairs: (change of the input, change of the residual) of every step but each branch's first."""

    name: ClassVar[str] = "recorder"
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def skipping(self, call: Call) -> Skipping:
        return _Recording(self.pairs)


class _Recording(Skipping):
    def __init__(self, pairs: list[tuple[float, float]]):
        super().__init__()
        self.pairs = pairs
        self.last: tuple[torch.Tensor, torch.Tensor] | None = None
        self.input: torch.Tensor | None = None

    def wants(self, step: int, signal: Signal) -> bool:
        self.input = signal()
        return False

    def computed(self, step: int, residual: torch.Tensor) -> None:
        assert self.input is not None  # wants comes first
        if self.last is not None:
            self.pairs.append((relative_l1(self.input, self.last[0]), relative_l1(residual, self.last[1])))
        self.last = self.input, residual


def record(
    parts: Components,
    scheduler: FlowMatchEulerDiscreteScheduler,
    recipes: list[str],
    num_samples: int,
    num_steps: int,
    guidance: Guidance,
    size: tuple[int, int],
) -> np.ndarray:
    """Pairs float64 (n, 2) of num_samples samples that go through the recipes in turn."""
    recorder = Recorder()
    plugins = accelerations(recorder)
    for number in tqdm(range(num_samples), desc="sampling"):
        sample = world_sample(recipes[number % len(recipes)], FIRST_SEED + number, size)
        given, noise = prepare(parts, [sample], number)
        denoise(parts.transformer, scheduler, noise, given, guidance, num_steps, accelerate=plugins)
    return np.array(recorder.pairs)


def fit(pairs: np.ndarray, degree: int) -> tuple[tuple[float, ...], float]:
    """Coefficients, highest power first, and the share of variance that they explain (R squared).

    Raises ValueError if there are fewer pairs than coefficients.
    """
    if len(pairs) <= degree:
        raise ValueError(f"{len(pairs)} pairs cannot fit a polynomial of degree {degree}; take more samples or steps")
    x, y = pairs.T
    polynomial = np.polyfit(x, y, degree)
    error = ((np.polyval(polynomial, x) - y) ** 2).sum()
    total = ((y - y.mean()) ** 2).sum()
    return tuple(map(float, polynomial)), float(1 - error / total) if total else 1.0


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        guidance, size = Guidance(options.guidance, options.image_guidance), (options.size, options.size)
        parts, scheduler = load_parts(options.model, usable_device(options.device))
        if options.output:
            check_writable(options.output)
        pairs = record(parts, scheduler, options.recipes, options.samples, options.steps, guidance, size)
        polynomial, explained = fit(pairs, options.degree)
        report = {
            "model": options.model,
            "polynomial": polynomial,
            "r_squared": explained,
            "pairs": len(pairs),
            "input_change": [float(pairs[:, 0].min()), float(pairs[:, 0].max())],
            "steps": options.steps,
            "shift": scheduler.config.shift,
        }
        print(json.dumps(report, indent=2))
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            with replacing(options.output) as unfinished:
                unfinished.write_text(json.dumps(report, indent=2) + "\n")
    except (ValueError, OSError) as error:
        return failed(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m unireal.acceleration.fit_teacache", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="unireal-tiny", help="a model's folder or name, or a size on pixels (random weights)"
    )
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--samples", type=at_least_one, default=70)
    parser.add_argument("--steps", type=at_least_one, default=28)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--image-guidance", type=float, default=1.0)
    parser.add_argument("--size", type=at_least_one, default=64, help="side of the results in pixels")
    parser.add_argument("--degree", type=at_least_one, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
