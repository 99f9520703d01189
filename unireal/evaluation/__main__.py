"""The command line: python -m unireal.evaluation BENCHMARK --model MODEL --output DIR

python -m unireal.evaluation world --model unireal-tiny --output results
python -m unireal.evaluation world --baseline copy --output results --limit 32
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unireal.evaluation import BENCHMARKS
from unireal.names import lookup


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ValueError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m unireal.evaluation",
        description="Scores a model, or a baseline, on a benchmark: DIR/BENCHMARK.json, .md and .png.",
    )
    add = parser.add_argument
    add("benchmark", metavar="BENCHMARK", help=f"one of: {', '.join(BENCHMARKS)}")
    add("--model", metavar="M", help="shipped model, folder or hub id")
    add("--baseline", metavar="NAME", help="score this baseline instead of a model: copy, mean or oracle")
    add("--output", metavar="DIR", type=Path, required=True, help="folder of the report")
    add("--limit", metavar="N", type=int, default=256, help="samples per recipe (default: 256)")
    add("--only", metavar="RECIPES", default="", help="recipes, separated by commas (default: all)")
    add("--steps", metavar="N", type=int, help="denoising steps (default: the model's)")
    add("--guidance", metavar="G", type=float, help="text guidance (default: the model's)")
    add("--image-guidance", metavar="G", type=float, help="image guidance (default: the model's)")
    add("--batch-size", metavar="N", type=int, default=32, help="samples per call of the model (default: 32)")
    add("--seed", metavar="N", type=int, default=0, help="of the model's noise (default: 0)")
    add("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    try:
        options = _parser().parse_args(arguments)
        only = tuple(name.strip() for name in options.only.split(",") if name.strip())
        benchmark = lookup(BENCHMARKS, options.benchmark, "benchmark")(
            limit=options.limit, batch_size=options.batch_size, seed=options.seed, only=only
        )
        if (options.model is None) == (options.baseline is None):
            raise ValueError("what to score is not clear; give either --model or --baseline")
        if options.threads is not None:
            torch.set_num_threads(_at_least_one("--threads", options.threads))
        options.output.mkdir(parents=True, exist_ok=True)
        if options.baseline is not None:
            benchmark.baseline(options.baseline)
            run, settings = partial(benchmark.run_baseline, options.baseline), {"baseline": options.baseline}
        else:
            generate, settings = _load(options)
            run = partial(benchmark.run, generate)
    except (ValueError, OSError, ImportError) as error:
        print(f"python -m unireal.evaluation: {error}", file=sys.stderr)
        return 2
    report = run()
    report.settings = settings | report.settings
    paths = report.write(options.output)
    print(report.to_markdown())
    print(f"written to {', '.join(str(path) for path in paths)}")
    return 0


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
