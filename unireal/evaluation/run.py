"""One run of a public benchmark: read, generate or adopt pictures, score, report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version

from unireal.arguments import usable_device
from unireal.evaluation import html
from unireal.evaluation.benchmarks.base import PICKSCORE, Benchmark, Chosen, Networks, chosen, identity
from unireal.evaluation.generate import adopt, check_settings, complete, generate, keep_settings
from unireal.evaluation.measures import similarity
from unireal.evaluation.measures.base import Measure
from unireal.evaluation.measures.perceptual import dreamsim_measure, load_dreamsim
from unireal.evaluation.measures.sets import NAMES as OF_SETS
from unireal.evaluation.measures.sets import inception, set_rows
from unireal.evaluation.models import Copy, Model, Source, load_model
from unireal.evaluation.options import ALSO, DREAMSIM, PICK
from unireal.evaluation.results import MODEL, Item, RunFolder, SummaryRow, write_text
from unireal.evaluation.score import list_items, score, usable
from unireal.evaluation.summary import to_markdown
from unireal.names import lookup


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
    also = options.also or ()
    for name in also:
        lookup(dict.fromkeys(ALSO), name, "metric for --also")
    measures = Chosen(benchmark, options.only or (), options.skip or ())
    if not measures.names and not also:
        raise ValueError("--only and --skip leave no metric; leave one of them out")
    backbones = roles(benchmark, options.backbone or (), also)
    folder = RunFolder(options.output)
    asked = benchmark.items(options.data, options.split)
    items = chosen(asked, options.limit)
    _check_also(benchmark, items, also)
    made = _made(benchmark, options, items, folder, identity(asked))
    if options.generate_only:
        list_items(items, folder, options.workers)
        return f"{made} of {len(items)} pictures are in {folder.path / 'images'}"
    if not made:
        raise ValueError(f"{folder.path} holds no pictures of {benchmark.name}; generate them first")
    folder.write_settings(folder.settings() | {"limit": options.limit, "versions": versions()})
    found, left_out = usable(_measures(measures, items, Networks(backbones, usable_device("auto")), also), items)
    of_set = [name for name in also if name in OF_SETS]
    network = inception(usable_device("auto")) if of_set else None
    if not found and not of_set:
        raise ValueError(f"no item of {benchmark.name} has the captions for {', '.join(left_out)}")
    rows = score(benchmark, items, found, folder, options.workers)
    if network is not None:
        rows += set_rows(benchmark.name, folder.items(), folder, of_set, network)
        folder.write_summary(rows)
    text = to_markdown(benchmark.title, rows, folder.settings(), left_out)
    write_text(folder.path / "summary.md", text)
    html.write(folder.path)
    _check_scored(rows, folder)
    return f"{text}\nwritten to {folder.path}: summary.json, summary.md, items.jsonl, index.html"


def _check_scored(rows: Sequence[SummaryRow], folder: RunFolder) -> None:
    """Raises ValueError if all items failed."""
    ours = [row for row in rows if row.system == MODEL]
    if any(row.failures for row in ours) and not any(row.n for row in ours):
        line = next(line for line in folder.items() if line.failure)
        raise ValueError(f"nothing could be scored; item {line.id}: {line.failure}")


def _measures(chosen: Chosen, items: list[Item], networks: Networks, also: Sequence[str]) -> list[Measure]:
    """The benchmark's own and those of `also`."""
    found = chosen.build(networks)
    if PICK in also:
        found.append(similarity.pick_score(networks.clip("pick"), "target", None))
    if DREAMSIM in also:
        reference = "truth" if all(item.truth for item in items) else "source"
        found.append(dreamsim_measure(load_dreamsim(networks.device), reference, networks.device))
    return found


def _check_also(benchmark: Benchmark, items: list[Item], also: Sequence[str]) -> None:
    """Raises ValueError for metrics that the items have no truths or captions for, or that are the benchmark's own."""
    of_set = [name for name in also if name in OF_SETS]
    if of_set and not any(item.truth for item in items):
        raise ValueError(f"{benchmark.name} has no true pictures, so there is no {' and no '.join(of_set)}")
    if PICK in also and "pick" in benchmark.backbones:
        raise ValueError(f"{benchmark.name} has PickScore among its own metrics; leave --also {PICK} out")
    if PICK in also and not any("target" in item.texts for item in items):
        raise ValueError(f"{benchmark.name} has no captions of what should be seen, so there is no {PICK}")


def _made(
    benchmark: Benchmark, options: argparse.Namespace, items: list[Item], folder: RunFolder, data_set: str
) -> int:
    """Makes or adopts the pictures; returns how many items have one. data_set: the identity of all items."""
    settings = {"benchmark": benchmark.name, "split": options.split or benchmark.splits[0], "data set": data_set}
    if options.images is not None:
        if not options.images.is_dir():
            raise ValueError(f"--images {str(options.images)!r} is not a folder")
        adopt(items, options.images, folder, settings)
    elif options.score_only:
        check_settings(folder, settings, some=True)
    else:
        generate(items, _model(options), folder, settings, options.seed or 0)
    made = sum(complete(item, folder) for item in items)
    if made:
        keep_settings(folder, settings)  # of pictures that somebody put there
    return made


def _model(options: argparse.Namespace) -> Model:
    if options.baseline is not None:
        return lookup({"copy": Copy}, options.baseline, "baseline")()
    return load_model(
        Source.asked(options),
        usable_device("auto", options.offload),
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        image_guidance_scale=options.image_guidance,
    )


def roles(benchmark: Benchmark, given: Sequence[str], also: Sequence[str] = ()) -> dict[str, str]:
    """The benchmark's backbones, and PickScore's if that is asked for, with the given ROLE=NAME instead.

    Raises ValueError for an unknown role."""
    found = {**({"pick": PICKSCORE} if PICK in also else {}), **benchmark.backbones}
    for pair in given:
        role, equals, name = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--backbone {pair!r} is not ROLE=NAME; roles are {', '.join(found) or 'none'}")
        if role == "pick" and role not in found:
            raise ValueError(f"--backbone pick is the network of {PICK}; add --also {PICK}")
        if not found:
            raise ValueError(f"{benchmark.name} measures without networks; leave --backbone out")
        lookup(found, role, f"backbone role of {benchmark.name}")
        found[role] = name
    return found


def versions() -> dict[str, str]:
    """Of the libraries that the numbers depend on."""
    return {name: version(name) for name in ("torch", "transformers", "torchmetrics", "pillow")}
