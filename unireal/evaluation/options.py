"""The options of a run of a benchmark: its parser has those that it reads, and no others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from unireal.arguments import Parser, at_least_one, names, size
from unireal.evaluation import BENCHMARKS
from unireal.evaluation.benchmarks import PUBLIC
from unireal.evaluation.benchmarks.base import PICKSCORE, Benchmark
from unireal.evaluation.grading import size_text
from unireal.evaluation.measures.sets import NAMES as OF_SETS
from unireal.evaluation.world import BASELINES, PICTURED, SIZE
from unireal.names import lookup

PROGRAM = "python -m unireal.evaluation"
COMMANDS = {"judge": "judge.cli", "compare": "compare", "html": "html"}  # others, and the modules that have their main
WORLD_TITLE = "The procedural world, on scenes that training never reaches"
WORLD_LIMIT = 256  # samples per recipe
BATCH = 32  # samples per call of the model
DREAMSIM, PICK = "dreamsim", "pickscore"
ALSO = (PICK, DREAMSIM, *OF_SETS)  # metrics that any benchmark with the pictures or captions for them can have

# What only has a meaning where a model makes the pictures, and where pictures are scored.
_OF_MODEL = ("lora", "dtype", "offload", "steps", "guidance", "image_guidance", "seed", "batch_size")
_OF_SCORES = ("only", "skip", "also", "backbone")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """BENCHMARK and its options, None where one is not given.

    Raises ValueError for an unknown benchmark, and for options that it does not read, or not beside the others.
    """
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"the benchmark comes first, then its options; see {PROGRAM} --help")
    name = arguments[0]
    lookup(dict.fromkeys((*BENCHMARKS, *PUBLIC, *COMMANDS)), name, "benchmark")
    options, rest = parser_of(name).parse_known_args(arguments[1:], argparse.Namespace(benchmark=name))
    if rest:
        raise ValueError(_not_read(name, rest[0].partition("=")[0]))
    given = {key for key, value in vars(options).items() if value is not None}
    if options.model is None:
        _refuse(given, _OF_MODEL, "is for what a --model makes; leave it out")
    if getattr(options, "generate_only", None):
        _refuse(given, _OF_SCORES, "is for scores, which --generate-only does not make; leave it out")
    return options


def parser_of(name: str) -> Parser:
    """Of one benchmark."""
    public = PUBLIC.get(name)
    parser = Parser(prog=f"{PROGRAM} {name}", description=f"{public.title if public else WORLD_TITLE}.")
    _add_what(parser, public)
    if public is None:
        _add_world(parser)
    else:
        _add_data(parser, public)
        _add_scores(parser, public)
    return parser


def _add_what(parser: Parser, public: Benchmark | None) -> None:
    """What is scored, how it is made, and where it goes."""
    add = parser.add_argument_group("what is scored, and where it goes").add_argument
    ours = "shipped model, folder or hub id of a pipeline of this project"
    add("--model", metavar="M", help=ours if public is None else f"{ours} or of diffusers")
    add("--baseline", metavar="NAME", help=f"instead of a model: {', '.join(BASELINES) if public is None else 'copy'}")
    if public is not None:
        add("--images", metavar="DIR", type=Path, help="score these pictures, which something else made")
        add("--score-only", action="store_true", default=None, help="score the pictures that are in --output")
        add("--generate-only", action="store_true", default=None, help="make the pictures, do not score them")
    add("--output", metavar="DIR", type=Path, required=True, help="folder of the run, with DIR/index.html")
    limit = f"scenes per recipe (default: {WORLD_LIMIT})" if public is None else "items, evenly spaced (default: all)"
    add("--limit", metavar="N", type=at_least_one, help=limit)
    add("--threads", metavar="N", type=at_least_one, help="CPU threads (default: all)")
    add = parser.add_argument_group("for --model").add_argument
    add("--lora", metavar="DIR", help="adapter on top of it: a shipped one, folder or hub id")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="of its weights (default: float32)")
    add("--offload", action="store_true", default=None, help="each part is on the GPU only while it works")
    add("--steps", metavar="N", type=at_least_one, help="denoising steps (default: the model's)")
    add("--guidance", metavar="G", type=float, help="text guidance (default: the model's)")
    add("--image-guidance", metavar="G", type=float, help="image guidance (default: the model's)")
    add("--seed", metavar="N", type=int, help="of the noise (default: 0)")
    if public is None:
        add("--batch-size", metavar="N", type=at_least_one, help=f"samples per call (default: {BATCH})")


def _add_world(parser: Parser) -> None:
    add = parser.add_argument_group("of this benchmark").add_argument
    add("--only", metavar="RECIPES", type=names, help="separated by commas (default: all)")
    add("--size", metavar="WxH", type=size, help=f"of canvases and results in pixels (default: {size_text(SIZE)})")
    add("--pictures", metavar="N", type=at_least_one, help=f"scenes per recipe on the page (default: {PICTURED})")
    add("--frame-encoder", metavar="M", help="CLIP or DINO, folder or hub id: adds frame similarity (CLIP-F) of videos")


def _add_data(parser: Parser, public: Benchmark) -> None:
    add = parser.add_argument_group("data set").add_argument
    default = f" (default: {public.hub})" if public.hub else ""
    add("--data", metavar="DIR", help=f"{'folder or hub id' if public.files else 'folder'}: {public.obtain}{default}")
    parser.set_defaults(split=None)
    if len(public.splits) > 1:
        add("--split", metavar="NAME", help=f"{', '.join(public.splits)} (default: {public.splits[0]})")


def _add_scores(parser: Parser, public: Benchmark) -> None:
    add = parser.add_argument_group("scores").add_argument
    add("--only", metavar="NAMES", type=names, help=f"of the metrics {', '.join(public.measures)} (default: all)")
    add("--skip", metavar="NAMES", type=names, help="metrics to leave out")
    add("--also", metavar="NAMES", type=names, help=f"more, where there is what they need: {', '.join(ALSO)}")
    networks = {"pick": f"{PICKSCORE}, of {PICK}", **public.backbones}
    known = "; ".join(f"{role} ({name})" for role, name in networks.items())
    add("--backbone", metavar="ROLE=NAME", action="append", help=f"another network as {known}")
    add("--workers", metavar="N", type=int, default=2, help="threads that decode pictures (default: 2)")


def overview() -> str:
    """What `--help` without a benchmark says."""
    titles = dict.fromkeys(BENCHMARKS, WORLD_TITLE) | {name: public.title for name, public in PUBLIC.items()}
    listed = "\n".join(f"  {name:18}{title}" for name, title in titles.items())
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} BENCHMARK [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Scores a model, a baseline or a folder of pictures on a benchmark. A run is a folder:\n"
        "index.html to look at, items.jsonl, summary.json, settings.json, pictures.",
        epilog=f"benchmarks, each with a --help of its own:\n{listed}\n\nother commands, too: {', '.join(COMMANDS)}",
    )
    return parser.format_help()


def _not_read(name: str, option: str) -> str:
    """Why the option is refused, and who reads it."""
    see = f"see {PROGRAM} {name} --help"
    if not option.startswith("-"):
        return f"{option!r} belongs to no option; lists are separated by commas, as in a,b; {see}"
    readers = [other for other in (*BENCHMARKS, *PUBLIC) if option in parser_of(other)._option_string_actions]
    if not readers:
        return f"unknown option {option!r}; {see}"
    shown = readers[0] if len(readers) == 1 else f"{', '.join(readers[:3])}" + " and others" * (len(readers) > 3)
    return f"{name} does not read {option}, which is an option of {shown}; {see}"


def _refuse(given: set[str], unread: Sequence[str], why: str) -> None:
    for name in unread:
        if name in given:
            raise ValueError(f"--{name.replace('_', '-')} {why}")
