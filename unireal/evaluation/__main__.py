"""The command line: python -m unireal.evaluation BENCHMARK --model MODEL --output DIR

python -m unireal.evaluation world --model unireal-tiny --output results
python -m unireal.evaluation world --baseline copy --output results --limit 32
python -m unireal.evaluation emu_edit --model unireal-tiny --output runs/emu --limit 100
python -m unireal.evaluation pie_bench --data PIE-Bench --images theirs --output runs/theirs
python -m unireal.evaluation judge|compare|html ...

Every benchmark and command has a --help of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch

from unireal.arguments import failed, memory_errors, usable_device
from unireal.evaluation import BENCHMARKS
from unireal.evaluation.benchmarks import PUBLIC
from unireal.evaluation.measures.frames import load_frame_encoder
from unireal.evaluation.models import Source, sampling
from unireal.evaluation.options import BATCH, COMMANDS, WORLD_LIMIT, overview, parse
from unireal.evaluation.unfinished import Unfinished
from unireal.evaluation.world import PICTURED, SIZE

_LESS_MEMORY = "try --offload, --dtype bfloat16 or, where the benchmark reads them, a smaller --batch-size or --size"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input, 130 interrupted."""
    try:
        return _answer(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with the pictures and replies that are there", file=sys.stderr)
        return 130


def _answer(arguments: list[str]) -> int:
    """Does what is asked for, and returns the exit status."""
    if arguments and arguments[0] in COMMANDS:
        return import_module(f"unireal.evaluation.{COMMANDS[arguments[0]]}").main(arguments[1:])
    if arguments[:1] in (["-h"], ["--help"]):
        print(overview())
        return 0
    try:
        options = parse(arguments)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        with memory_errors(_LESS_MEMORY):
            print(_public(options) if options.benchmark in PUBLIC else _world(options))
    except (ValueError, OSError, ImportError) as error:
        return failed(error)
    return 0


def _public(options: argparse.Namespace) -> str:
    """Runs a public benchmark; returns what is printed."""
    from unireal.evaluation.run import run

    return run(PUBLIC[options.benchmark], options)


def _world(options: argparse.Namespace) -> str:
    """Runs the world's benchmark; returns what is printed."""
    if (options.model is None) == (options.baseline is None):
        raise ValueError("what to score is not clear; give either --model or --baseline")
    benchmark = BENCHMARKS[options.benchmark](
        limit=options.limit or WORLD_LIMIT,
        batch_size=options.batch_size or BATCH,
        seed=options.seed or 0,
        only=options.only or (),
        size=options.size or SIZE,
        pictured=options.pictures or PICTURED,
        frame_encoder=None
        if options.frame_encoder is None
        else load_frame_encoder(options.frame_encoder, usable_device("auto")),
    )
    for subset, recipe in benchmark.sets:
        subset.items(recipe, 1, benchmark.size)  # scenes that cannot be drawn here are told before any work
    options.output.mkdir(parents=True, exist_ok=True)
    unfinished = None
    if options.baseline is not None:
        report, settings = benchmark.run_baseline(options.baseline), {"baseline": options.baseline}
    else:
        generate, settings = _load(options)
        unfinished = Unfinished(options.output / "unfinished", settings | benchmark.settings)
        report = benchmark.run(generate, unfinished)
    report.settings = settings | report.settings
    paths = report.write(options.output)
    if unfinished is not None:
        unfinished.remove()
    return f"{report.to_markdown()}\nwritten to {', '.join(str(path) for path in paths)}"


def _load(options: argparse.Namespace) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The model as (samples, seed) -> results, and the settings that it runs with."""
    source = Source.asked(options)
    pipeline = source.ours(usable_device("auto", options.offload))
    given = {
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
        "image_guidance_scale": options.image_guidance,
    }
    used = sampling(pipeline, given)

    def generate(samples: list[Any], seed: int) -> Any:
        return pipeline.generate(samples, seed=seed, **used)

    return generate, source.settings | used


if __name__ == "__main__":
    sys.exit(main())
