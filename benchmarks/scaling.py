"""How acceleration grows with the picture: random blocks of CogVideoX's width, from 256 to 1024 pixels.

    python -m benchmarks.scaling --sizes 256 512 1024 --shares 0.1 0.25 --output runs/scaling
    python -m benchmarks.scaling --device cuda --layers 30 --steps 28 --output runs/scaling-cuda

One canvas (more with --inputs) and one result, on latents of 8x8 pixels in patches of 2, so tokens have 16x16 pixels.
The sampling loop runs plainly, with the condition cache, with SpotEdit and with both. The weights are random, so
SpotEdit is told which tokens an edit changes. All blocks cost the same, so few of them show the ratio; text
encoder and VAE, which acceleration leaves alone, are not there. On a CPU that has other work, look at the ratio of
processor seconds, which leaves waiting out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tqdm import tqdm

from benchmarks.acceleration import named
from unireal.acceleration import Accelerations, SpotEdit, accelerations
from unireal.acceleration.measure import counted, randomize
from unireal.arguments import Parser, at_least_one, failed, usable_device
from unireal.config import MODELS, get_model
from unireal.diffusion.guidance import Guidance
from unireal.diffusion.sampling import Conditions, denoise
from unireal.evaluation.results import write_json, write_text
from unireal.files import check_writable
from unireal.model.text_encoder import TextFeatures
from unireal.model.transformer import UniRealTransformer
from unireal.sample import Role

LATENT = 8  # pixels along a latent pixel's side
COMBINATIONS = ("condition_cache", "spotedit", "spotedit+condition_cache")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Row:
    """One size and combination. share: of the result's tokens that are active, None without SpotEdit. seconds: of wall
    time for a call, the median of the repeats; processor: the same of processor time. tokens: computed in a call."""

    pixels: int
    acceleration: str
    share: float | None
    seconds: float
    processor: float
    speedup: float
    processor_speedup: float
    tokens: int
    tokens_of_plain: float


@dataclass(frozen=True)
class Cost:
    """Of one call: seconds of wall and processor time, tokens that the blocks computed."""

    seconds: float
    processor: float
    tokens: int


def random_transformer(options: argparse.Namespace) -> UniRealTransformer:
    """Some blocks of a named size, with random weights."""
    config = get_model(options.model)
    shape = config.transformer | {"num_layers": options.layers, "condition_attention": options.condition_attention}
    torch.manual_seed(0)
    transformer = UniRealTransformer(**shape, max_text_length=config.max_text_length)
    return randomize(transformer).to(options.device, DTYPES[options.dtype])


class Problem:
    """Random conditions and noise for pictures of one size."""

    def __init__(self, transformer: UniRealTransformer, side: int, options: argparse.Namespace):
        config, self.transformer, self.options = transformer.config, transformer, options
        if side % (LATENT * config.patch_size):
            raise ValueError(f"sizes must be multiples of {LATENT * config.patch_size} pixels, got {side}")
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(options.device, transformer.dtype)

        self.grid = (side // LATENT // config.patch_size,) * 2
        frame = (1, config.in_channels, side // LATENT, side // LATENT)
        length = config.max_text_length
        text = TextFeatures(
            random(1, length, config.text_embed_dim),
            torch.ones(1, length, dtype=torch.bool, device=options.device),
            torch.zeros(1, length, dtype=torch.long, device=options.device),
        )
        roles = [Role.CANVAS.index] + [Role.ASSET.index] * (options.inputs - 1)
        frames = [random(*frame) for _ in roles]
        self.given = Conditions(text, None, frames, torch.tensor([roles], device=options.device))
        self.noise = [random(*frame)]

    def plugins(self, combination: str, share: float | None) -> Accelerations:
        """SpotEdit is told that the first rows, this share of all tokens, change."""
        scores = torch.zeros(self.grid[0] * self.grid[1], device=self.options.device)
        scores[: max(1, round((share or 0) * len(scores)))] = 1
        told = {"judge": lambda clean, canvas: scores.view(1, *self.grid), "tau": 0.5}
        names = [n + self.options.spotedit if n == "spotedit" else n for n in combination.split("+") if n]
        return accelerations([replace(p, **told) if isinstance(p, SpotEdit) else p for p in accelerations(names)])

    @torch.no_grad()
    def cost(self, combination: str = "", share: float | None = None, steps: int | None = None) -> Cost:
        """Of one call; "" is plain."""
        steps, plugins = steps or self.options.steps, self.plugins(combination, share)
        with counted(self.transformer) as work:
            self._wait()
            started = time.perf_counter(), time.process_time()
            how = {"guidance": Guidance(), "num_steps": steps, "accelerate": plugins}
            denoise(self.transformer, FlowMatchEulerDiscreteScheduler(), self.noise, self.given, **how)
            self._wait()
            ended = time.perf_counter(), time.process_time()
        return Cost(ended[0] - started[0], ended[1] - started[1], sum(work.tokens))

    def plain(self) -> Cost:
        """Of a plain call, whose steps all cost the same, so that some of them tell of all."""
        steps = min(self.options.plain_steps or self.options.steps, self.options.steps)
        cost, times = self.cost(steps=steps), self.options.steps / steps
        return Cost(cost.seconds * times, cost.processor * times, round(cost.tokens * times))

    def _wait(self) -> None:
        if self.transformer.device.type == "cuda":
            torch.cuda.synchronize()


def measure(problem: Problem, side: int) -> Iterator[Row]:
    """Plain and every combination take turns, so that what else the machine does falls on all."""
    options = problem.options
    asked: list[tuple[str, float | None]] = [("", None)]
    for combination in options.accelerate:
        shares = options.shares if "spotedit" in combination else [None]
        asked += [(combination, share) for share in shares]
    problem.cost(steps=1)  # warms up
    costs: dict[tuple[str, float | None], list[Cost]] = {key: [] for key in asked}
    for key in tqdm(asked * options.repeats, desc=f"{side} pixels"):
        costs[key].append(problem.cost(*key) if key[0] else problem.plain())
    typical = {
        key: Cost(median(c.seconds for c in found), median(c.processor for c in found), found[0].tokens)
        for key, found in costs.items()
    }
    plain = typical["", None]
    for (combination, share), cost in typical.items():
        yield Row(
            pixels=side,
            acceleration=combination or "plain",
            share=share,
            seconds=cost.seconds,
            processor=cost.processor,
            speedup=plain.seconds / cost.seconds,
            processor_speedup=plain.processor / cost.processor,
            tokens=cost.tokens,
            tokens_of_plain=cost.tokens / plain.tokens,
        )


def markdown(rows: list[Row]) -> str:
    head = ["pixels", "acceleration", "active share", "seconds", "speed-up", "speed-up in processor time", "tokens"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [str(row.pixels), row.acceleration, "-" if row.share is None else f"{row.share:.0%}"]
        cells += [f"{row.seconds:.2f}", f"{row.speedup:.2f}x", f"{row.processor_speedup:.2f}x"]
        lines.append(f"| {' | '.join([*cells, f'{row.tokens_of_plain:.0%}'])} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        options.device = usable_device(options.device)
        if not all(0 < share <= 1 for share in options.shares):
            raise ValueError(f"--shares are above 0 and at most 1, got {options.shares}")
        if options.output:
            check_writable(named(options.output, ".json"))
        transformer, rows = random_transformer(options), []
        problems = [Problem(transformer, side, options) for side in options.sizes]
        for combination in options.accelerate:
            problems[0].plugins(combination, None)  # an unknown name or setting is said before anything runs
        for side, problem in zip(options.sizes, problems, strict=True):
            rows += measure(problem, side)
    except (ValueError, OSError) as error:
        return failed(error)
    table = markdown(rows)
    print(table)
    if options.output:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        cuda = transformer.device.type == "cuda"
        hardware = torch.cuda.get_device_name(transformer.device) if cuda else f"{torch.get_num_threads()} CPU threads"
        settings |= {"torch": torch.__version__, "hardware": hardware}
        report = {"settings": settings, "rows": [asdict(row) for row in rows]}
        write_json(named(options.output, ".json"), report)
        write_text(named(options.output, ".md"), table + "\n")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="2b", choices=list(MODELS), help="whose width, heads and text length are taken")
    add("--layers", type=at_least_one, default=1)
    add("--condition-attention", default="isolated", choices=("full", "isolated"))
    add("--sizes", nargs="+", type=at_least_one, default=[256, 512, 1024], metavar="N", help="sides in pixels")
    add("--inputs", type=at_least_one, default=1, help="input frames of the result's size")
    add("--shares", nargs="+", type=float, default=[0.1, 0.25], metavar="SHARE", help="of tokens that an edit changes")
    add("--steps", type=at_least_one, default=28)
    add("--plain-steps", type=at_least_one, help="of the plain call, which is then taken to cost as much in all others")
    add("--repeats", type=at_least_one, default=1)
    add("--accelerate", nargs="+", default=list(COMBINATIONS), metavar="NAME[:SETTING=VALUE][+NAME..]")
    add("--spotedit", default="", metavar=":SETTING=VALUE", help="settings of spotedit, for example :reset=0.3")
    add("--dtype", default="bfloat16", choices=DTYPES)
    add("--device", default="cpu")
    add("--output", type=Path, help="files to write: this name with .json and .md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
