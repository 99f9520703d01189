"""One run of a public benchmark: read, generate or adopt pictures, score, report."""

from __future__ import annotations

import argparse
from importlib.metadata import version

from unireal.evaluation import html
from unireal.evaluation.benchmarks.base import PICKSCORE, Benchmark, Chosen, Networks, device
from unireal.evaluation.generate import adopt, check_settings, complete, generate
from unireal.evaluation.measures import similarity
from unireal.evaluation.measures.base import Measure
from unireal.evaluation.measures.perceptual import dreamsim_measure, load_dreamsim
from unireal.evaluation.measures.sets import NAMES, inception, set_rows
from unireal.evaluation.models import Copy, Model, load_model
from unireal.evaluation.results import Item, RunFolder, write_text
from unireal.evaluation.score import list_items, score
from unireal.evaluation.summary import to_markdown
from unireal.names import lookup

DREAMSIM, PICK = "dreamsim", "pickscore"


def run(benchmark: Benchmark, options: argparse.Namespace) -> str:
    """Does what the command line asks for, and returns what it prints.

    Raises ValueError or OSError for bad input: unknown names, data of another form, a folder of another run.
    """
    ways = [options.model, options.baseline, options.images]
    if sum(way is not None for way in ways) != (0 if options.score_only else 1):
        raise ValueError(
            "what to score is not clear; give one of --model, --baseline and --images, or --score-only without any"
        )
    if options.generate_only and (options.score_only or options.images is not None):
        raise ValueError("--generate-only goes with --model or --baseline alone")
    if options.workers < 0:
        raise ValueError(f"--workers must be at least 0, got {options.workers}")
    measures = Chosen(benchmark, names(options.only), names(options.skip))
    backbones, also = roles(benchmark, options.backbone), names(options.also)
    for name in also:
        lookup(dict.fromkeys((DREAMSIM, PICK, *NAMES)), name, "metric for --also")
    folder = RunFolder(options.output)
    items = benchmark.items(options.data, options.split, options.limit)
    made = _made(benchmark, options, items, folder)
    if options.generate_only:
        list_items(items, folder, options.workers)
        return f"{made} of {len(items)} pictures are in {folder.path / 'images'}"
    if not made:
        raise ValueError(f"{folder.path} holds no pictures of {benchmark.name}; generate them first")
    folder.write_settings(folder.settings() | {"limit": options.limit, "versions": versions()})
    networks = Networks(backbones, device())
    found = measures.build(networks)
    if PICK in also:
        found.append(_pick_score(benchmark, items, networks))
    if DREAMSIM in also:
        reference = "truth" if all(item.truth for item in items) else "source"
        found.append(dreamsim_measure(load_dreamsim(device()), reference, device()))
    of_set = [name for name in also if name in NAMES]
    network = inception(device()) if of_set else None
    rows = score(benchmark, items, found, folder, options.workers)
    if network is not None:
        rows += set_rows(benchmark.name, folder.items(), folder, of_set, network)
        folder.write_summary(rows)
    text = to_markdown(benchmark, rows, folder.settings())
    write_text(folder.path / "summary.md", text)
    html.write(folder.path)
    return f"{text}\nwritten to {folder.path}: summary.json, summary.md, items.jsonl, index.html"


def _pick_score(benchmark: Benchmark, items: list[Item], networks: Networks) -> Measure:
    """Of what the target caption says should be seen. Raises ValueError if there are no captions, or a metric of the
    benchmark's own."""
    if "pick" in benchmark.backbones:
        raise ValueError(f"{benchmark.name} has PickScore among its own metrics; leave --also {PICK} away")
    if not any("target" in item.texts for item in items):
        raise ValueError(f"{benchmark.name} has no captions of what should be seen, so there is no {PICK}")
    return similarity.pick_score(networks.clip("pick"), "target", None)


def _made(benchmark: Benchmark, options: argparse.Namespace, items: list[Item], folder: RunFolder) -> int:
    """Makes or adopts the pictures; returns how many items have one."""
    settings = {"benchmark": benchmark.name, "split": options.split or benchmark.splits[0]}
    if options.images is not None:
        if not options.images.is_dir():
            raise ValueError(f"--images {str(options.images)!r} is not a folder")
        adopt(items, options.images, folder, settings)
    elif options.score_only:
        check_settings(folder, settings)
    else:
        generate(items, _model(options), folder, settings, options.seed)
    return sum(complete(item, folder) for item in items)


def _model(options: argparse.Namespace) -> Model:
    if options.baseline is not None:
        return lookup({"copy": Copy}, options.baseline, "baseline")()
    return load_model(
        options.model,
        device(),
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        image_guidance_scale=options.image_guidance,
    )


def roles(benchmark: Benchmark, given: list[str]) -> dict[str, str]:
    """The benchmark's backbones and PickScore's, with the given ROLE=NAME instead. Raises ValueError for an unknown
    role."""
    found = {"pick": PICKSCORE, **benchmark.backbones}
    for pair in given:
        role, equals, name = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--backbone {pair!r} is not ROLE=NAME; roles are {', '.join(found) or 'none'}")
        lookup(found, role, f"backbone role of {benchmark.name}")
        found[role] = name
    return found


def versions() -> dict[str, str]:
    """Of the libraries that the numbers depend on."""
    return {name: version(name) for name in ("torch", "transformers", "torchmetrics", "pillow")}


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
