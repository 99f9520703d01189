"""What every acceleration and combination saves and costs on held-out local edits of the procedural world.

    python -m benchmarks.acceleration --model unireal-tiny --limit 16 --steps 28 --output runs/acceleration

Each sample is generated plainly and with every combination, one after the other, so that a ratio compares the same
sample in one run. Time is that of the sampling loop with all plug-ins' own work; reading text and pictures and decoding
cost the same on both sides and are left out. On a CPU that has other work, look at the ratio of processor time, which
leaves waiting out. With random weights only time, tokens and memory mean anything, and SpotEdit is told the true
region, since the result does not show it. Peak memory is that of the tensors which sampling makes, beyond weights and
inputs, measured once per size in a pass of its own. How time grows with the size of wide models: benchmarks/scaling.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from skimage.metrics import structural_similarity
from torch.nn.functional import adaptive_max_pool2d
from tqdm import tqdm

from benchmarks.acceleration_report import PLAIN, chart, markdown, summary
from benchmarks.local_edits import EDITS, local_edit
from unireal.acceleration import Accelerations, SpotEdit, accelerations
from unireal.acceleration.measure import LiveMemory, counted, load_parts, prepare
from unireal.arguments import Parser, at_least_one, failed, usable_device
from unireal.config import MODELS
from unireal.diffusion.guidance import Guidance
from unireal.diffusion.sampling import denoise
from unireal.evaluation import metrics
from unireal.evaluation.results import write_json, write_text
from unireal.files import check_writable
from unireal.model.build import Components
from unireal.sample import Role, Sample
from unireal.transforms import to_image

AREAS = (0.02, 0.05, 0.1, 0.25, 0.4, 0.6)  # shares of the pixels that edits change
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


@dataclass(frozen=True)
class Measurement:
    """One sample with one combination. PSNR in dB, SSIM up to 1: against the plain result, and against the truth inside
    and outside the changed region. memory: bytes, nan where it was not measured."""

    combination: str
    edit: str
    seed: int
    size: int
    wanted_area: float
    area: float
    seconds: float
    speedup: float
    processor_speedup: float
    tokens: int
    tokens_of_plain: float
    memory: float
    psnr_plain: float
    ssim_plain: float
    psnr_changed: float
    ssim_changed: float
    psnr_unchanged: float
    ssim_unchanged: float


@dataclass(frozen=True)
class Run:
    """One call: the picture uint8 (H, W, 3), seconds of wall and processor time, computed tokens."""

    image: np.ndarray
    seconds: float
    processor: float
    tokens: int


def true_region(sample: Sample, grid: tuple[int, int]) -> SpotEdit:
    """SpotEdit that is told which tokens the edit changes."""
    changed = adaptive_max_pool2d(torch.from_numpy(sample.mask)[None].float(), grid)  # (1, rows, columns)
    return SpotEdit(judge=lambda clean, canvas: changed.to(clean.device).expand(len(clean), *grid), tau=0.5)


class Case:
    """One sample and its noise, ready to be generated in several ways."""

    def __init__(
        self,
        parts: Components,
        scheduler: FlowMatchEulerDiscreteScheduler,
        sample: Sample,
        options: argparse.Namespace,
    ):
        self.parts, self.scheduler, self.sample, self.options = parts, scheduler, sample, options
        self.given, self.noise = prepare(parts, [sample], options.seed)
        self.guidance = Guidance(options.guidance, options.image_guidance)
        patch = parts.transformer.config.patch_size
        self.grid = (self.noise[0].shape[-2] // patch, self.noise[0].shape[-1] // patch)

    def plugins(self, combination: str) -> Accelerations:
        plugins = accelerations([] if combination == PLAIN else combination.split("+"))
        if not self.options.true_region:
            return plugins
        return accelerations([true_region(self.sample, self.grid) if isinstance(p, SpotEdit) else p for p in plugins])

    def run(self, combination: str) -> Run:
        with counted(self.parts.transformer) as work:
            self._wait()
            started, processor = time.perf_counter(), time.process_time()
            latents = self._sampled(combination)
            self._wait()
            seconds, processor = time.perf_counter() - started, time.process_time() - processor
        with torch.no_grad():
            image = to_image(self.parts.codec.decode(latents[0], self.sample.results[0].size)[0])
        return Run(image, seconds, processor, sum(work.tokens))

    def memory(self, combination: str) -> int:
        """Peak bytes of what sampling allocates."""
        if self.parts.transformer.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self._sampled(combination)
            return torch.cuda.max_memory_allocated() - before
        with LiveMemory() as memory:
            self._sampled(combination)
        return memory.peak

    @torch.no_grad()
    def _sampled(self, combination: str) -> list[torch.Tensor]:
        model, how = self.parts.transformer, {"accelerate": self.plugins(combination), "codec": self.parts.codec}
        return denoise(model, self.scheduler, self.noise, self.given, self.guidance, self.options.steps, **how)

    def _wait(self) -> None:
        if self.parts.transformer.device.type == "cuda":
            torch.cuda.synchronize()


def measure(case: Case, memory: dict[str, int]) -> Iterator[Measurement]:
    """One measurement for plain sampling and one for every combination."""
    sample, plain = case.sample, None
    truth, inside = sample.results[0].image, sample.mask
    for combination in (PLAIN, *case.options.accelerate):
        run = case.run(combination)
        plain = plain or run
        to_plain, to_truth = ssim_map(run.image, plain.image), ssim_map(run.image, truth)
        yield Measurement(
            combination=combination,
            edit=sample.source["recipe"],
            seed=sample.source["seed"],
            size=inside.shape[0],
            wanted_area=sample.source["wanted_area"],
            area=float(inside.mean()),
            seconds=run.seconds,
            speedup=plain.seconds / run.seconds,
            processor_speedup=plain.processor / run.processor,
            tokens=run.tokens,
            tokens_of_plain=run.tokens / plain.tokens,
            memory=memory.get(combination, float("nan")),
            psnr_plain=metrics.psnr(run.image, plain.image),
            ssim_plain=float(to_plain.mean()),
            psnr_changed=metrics.psnr(run.image, truth, inside),
            ssim_changed=float(to_truth[inside].mean()),
            psnr_unchanged=metrics.psnr(run.image, truth, ~inside),
            ssim_unchanged=float(to_truth[~inside].mean()),
        )


def ssim_map(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity around every pixel, float (H, W), the mean of the channels."""
    return structural_similarity(image, truth, channel_axis=2, data_range=255, full=True)[1].mean(axis=2)


def samples_of(options: argparse.Namespace, size: int) -> Iterator[Sample]:
    """limit held-out edits for every share of changed pixels, with further input frames if they are asked for."""
    for area in options.areas:
        for number in range(options.limit):
            edit = options.edits[number % len(options.edits)]
            sample = local_edit(edit, area, number, (size, size))
            extra = [replace(sample.inputs[0], role=Role.ASSET)] * options.extra_inputs
            source = sample.source | {"wanted_area": area}
            yield replace(sample, inputs=(*sample.inputs, *extra), source=source)


def measurements(
    parts: Components, scheduler: FlowMatchEulerDiscreteScheduler, options: argparse.Namespace, size: int
) -> list[Measurement]:
    """All measurements at one size. Raises ValueError for what cannot be drawn or sampled."""
    samples = list(samples_of(options, size))
    first = Case(parts, scheduler, samples[0], options)
    combinations = (PLAIN, *options.accelerate)
    memory = {c: first.memory(c) for c in tqdm(combinations, desc=f"{size} px: memory")}  # warms up as well
    cases = (Case(parts, scheduler, sample, options) for sample in tqdm(samples, desc=f"{size} px: sampling"))
    return [m for case in cases for m in measure(case, memory)]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    try:
        options = _options(arguments)
        parts, scheduler = load_parts(options.model, usable_device(options.device))
        if options.output:
            check_writable(named(options.output, ".json"))
        found = [m for size in options.sizes for m in measurements(parts, scheduler, options, size)]
    except (ValueError, OSError) as error:
        return failed(error)
    rows = summary(found)
    table = markdown(rows)
    print(table)
    if options.output:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        device = parts.transformer.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
        settings |= {"torch": torch.__version__, "hardware": name, "shift": scheduler.config.shift}
        report = {"settings": settings, "rows": rows, "samples": [asdict(m) for m in found]}
        write_json(named(options.output, ".json"), report)
        for suffix, text in ((".md", table), (".svg", chart(found))):
            write_text(named(options.output, suffix), text.rstrip() + "\n")
    return 0


def named(output: Path, suffix: str) -> Path:
    """`output` with another suffix in place of one of ours; what else follows a dot, as in "tau0.1", is its name."""
    stem = output.stem if output.suffix in (".json", ".md", ".svg") else output.name
    return output.with_name(stem + suffix)


def _share(text: str) -> float:
    """Of an option: a number between 0 and 1."""
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return float(text)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.acceleration", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="unireal-tiny", help="a saved model's folder or name, or a size on pixels (random weights)")
    add("--edits", nargs="+", default=list(EDITS), choices=EDITS, metavar="EDIT", help=", ".join(EDITS))
    add(
        "--areas",
        nargs="+",
        type=_share,
        default=list(AREAS),
        metavar="SHARE",
        help="of changed pixels, between 0 and 1",
    )
    add("--limit", type=at_least_one, default=16, help="samples for each share")
    add("--sizes", nargs="+", type=at_least_one, default=[64], metavar="N", help="sides of canvas and result in pixels")
    add("--extra-inputs", type=int, default=0, help="further input frames of the canvas's size")
    add("--steps", type=at_least_one, default=28)
    add("--guidance", type=float, default=1.0)
    add("--image-guidance", type=float, default=1.0)
    add("--seed", type=int, default=0, help="of the noise")
    add("--accelerate", nargs="+", default=list(COMBINATIONS), metavar="NAME[:SETTING=VALUE][+NAME..]")
    add("--true-region", action="store_true", help="tell SpotEdit what the edit changes")
    add("--device", default="cpu")
    add("--output", type=Path, help="files to write: this name with .json, .md and .svg")
    options = parser.parse_args(arguments)
    if options.extra_inputs < 0:
        parser.error(f"--extra-inputs is at least 0, got {options.extra_inputs}")
    options.true_region |= options.model in MODELS
    for combination in options.accelerate:
        accelerations(combination.split("+"))  # raises for an unknown name before anything is loaded
    return options


if __name__ == "__main__":
    sys.exit(main())
