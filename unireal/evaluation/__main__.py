"""The command line: python -m unireal.evaluation BENCHMARK --model MODEL --output DIR

python -m unireal.evaluation world --model unireal-tiny --output results
python -m unireal.evaluation world --baseline copy --output results --limit 32
python -m unireal.evaluation emu_edit --model unireal-tiny --output runs/emu --limit 100
python -m unireal.evaluation pie_bench --data PIE-Bench --images theirs --output runs/theirs
python -m unireal.evaluation judge|compare|html ...     each has a --help of its own
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from unireal.evaluation import BENCHMARKS
from unireal.evaluation.arguments import Parser
from unireal.evaluation.benchmarks import PUBLIC
from unireal.evaluation.benchmarks.base import device
from unireal.evaluation.measures.frames import load_frame_encoder
from unireal.evaluation.world import PICTURED
from unireal.names import lookup

WORLD_LIMIT = 256  # samples per recipe
COMMANDS = {name: f"unireal.evaluation.{module}" for name, module in
            {"judge": "judge.cli", "compare": "compare", "html": "html"}.items()}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m unireal.evaluation",
        description="Scores a model, a baseline or a folder of pictures on a benchmark. DIR/index.html, items.jsonl,"
        " summary.json, images; and world.json, world.md and world.png, or summary.md of the others.",
        epilog=f"other commands, each with a --help of its own: {', '.join(COMMANDS)}",
    )
    add = parser.add_argument
    add("benchmark", metavar="BENCHMARK", help=f"one of: {', '.join([*BENCHMARKS, *PUBLIC])}")
    add("--model", metavar="M", help="shipped model, folder or hub id of a pipeline of this project or of diffusers")
    add("--baseline", metavar="NAME", help="score this baseline instead: copy; for world also mean or oracle")
    add("--output", metavar="DIR", type=Path, required=True, help="folder of the report")
    add("--limit", metavar="N", type=int, help=f"items, evenly spaced (default: all; world: {WORLD_LIMIT} per recipe)")
    add("--only", metavar="NAMES", default="", help="metrics, or recipes of world, separated by commas (default: all)")
    add("--steps", metavar="N", type=int, help="denoising steps (default: the model's)")
    add("--guidance", metavar="G", type=float, help="text guidance (default: the model's)")
    add("--image-guidance", metavar="G", type=float, help="image guidance (default: the model's)")
    add("--seed", metavar="N", type=int, default=0, help="of the model's noise (default: 0)")
    add("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    world = parser.add_argument_group("for world")
    add = world.add_argument
    add("--batch-size", metavar="N", type=int, default=32, help="samples per call (default: 32)")
    add(
        "--pictures",
        metavar="N",
        type=int,
        default=PICTURED,
        help=f"scenes per recipe on the page (default: {PICTURED})",
    )
    add("--frame-encoder", metavar="M", help="CLIP or DINO, folder or hub id: adds frame similarity (CLIP-F)")
    public = parser.add_argument_group("for all benchmarks but world")
    add = public.add_argument
    add("--data", metavar="DIR", help="the data set's folder, or hub id (default: the data set's own, if it is there)")
    add("--split", metavar="NAME", help="part of the data set (default: the usual one)")
    add("--images", metavar="DIR", type=Path, help="score these pictures, which something else made")
    add("--generate-only", action="store_true", help="make the pictures, do not score them")
    add("--score-only", action="store_true", help="score the pictures that DIR holds")
    add("--backbone", metavar="ROLE=NAME", action="append", default=[], help="another network behind the metrics")
    add("--skip", metavar="NAMES", default="", help="metrics to leave out, separated by commas")
    add("--also", metavar="NAMES", default="", help="more: pickscore, dreamsim; fid, kid (of the set)")
    add("--workers", metavar="N", type=int, default=2, help="threads that decode pictures (default: 2)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in COMMANDS:
        return import_module(COMMANDS[arguments[0]]).main(arguments[1:])
    try:
        options = _parser().parse_args(arguments)
        lookup({**BENCHMARKS, **PUBLIC}, options.benchmark, "benchmark")
        if options.threads is not None:
            torch.set_num_threads(_at_least_one("--threads", options.threads))
        work = _public(options) if options.benchmark in PUBLIC else _world(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(work())
    return 0


def _public(options: argparse.Namespace) -> Callable[[], str]:
    """Runs a public benchmark, since what it reads may be bad input until the end."""
    from unireal.evaluation.run import run

    text = run(PUBLIC[options.benchmark], options)
    return lambda: text


def _world(options: argparse.Namespace) -> Callable[[], str]:
    only = tuple(name.strip() for name in options.only.split(",") if name.strip())
    limit = WORLD_LIMIT if options.limit is None else options.limit
    benchmark = BENCHMARKS[options.benchmark](
        limit=limit,
        batch_size=options.batch_size,
        seed=options.seed,
        only=only,
        pictured=options.pictures,
        frame_encoder=None if options.frame_encoder is None else load_frame_encoder(options.frame_encoder, device()),
    )
    if (options.model is None) == (options.baseline is None):
        raise ValueError("what to score is not clear; give either --model or --baseline")
    options.output.mkdir(parents=True, exist_ok=True)
    if options.baseline is not None:
        benchmark.baseline(options.baseline)
        run, settings = partial(benchmark.run_baseline, options.baseline), {"baseline": options.baseline}
    else:
        generate, settings = _load(options)
        run = partial(benchmark.run, generate)

    def work() -> str:
        report = run()
        report.settings = settings | report.settings
        paths = report.write(options.output)
        return f"{report.to_markdown()}\nwritten to {', '.join(str(path) for path in paths)}"

    return work


def _load(options: argparse.Namespace) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The model as (samples, seed) -> results, and the settings that it runs with."""
    from unireal.pipeline import UniRealPipeline

    pipeline = UniRealPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    if torch.cuda.is_available():
        pipeline.to("cuda")
    given = {
        "num_inference_steps": options.steps,
        "guidance": options.guidance,
        "image_guidance": options.image_guidance,
    }
    defaults = ("default_steps", "default_guidance", "default_image_guidance")
    used = {
        name: pipeline.config[default] if value is None else value
        for (name, value), default in zip(given.items(), defaults, strict=True)
    }
    _at_least_one("--steps", used["num_inference_steps"])

    def generate(samples: list[Any], seed: int) -> Any:
        return pipeline.generate(samples, seed=seed, **used)

    return generate, {"model": str(options.model), **used}


def _at_least_one(name: str, number: int) -> int:
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
