"""Scoring with threads that decode and batches that networks see at once, against a loop over pairs, on this machine.

python benchmarks/scoring.py --pairs 500

All ways score the same pictures by Emu Edit's metrics, for the output and for the copy baseline, with the same tiny
random CLIP and DINO, and their scores are compared. They take turns, so that what else the machine does falls on all;
on a busy machine more threads get more of it, so look at the processor seconds as well: they show what batches and
memos save, but not what overlaps.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from unireal.arguments import Parser, at_least_one
from unireal.evaluation.backbones import Clip, Dino
from unireal.evaluation.measures import fidelity, similarity
from unireal.evaluation.measures.base import Measure, Scores
from unireal.evaluation.pictures import Case, Given, Picture
from unireal.evaluation.results import Item, RunFolder
from unireal.evaluation.score import Scorer
from unireal.transforms import load_image

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def networks() -> tuple[Clip, Dino]:
    """Random CLIP (patches of 32) and DINO (of 16 pixels) at 224 pixels, small enough that decoding counts."""
    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    text = SMALL | {"vocab_size": len(tokens), "bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    vision = SMALL | {"image_size": 224, "patch_size": 32}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    clip = Clip("tiny", model, CLIPTokenizer(vocab=vocabulary, merges=[]), [0.5] * 3, [0.25] * 3, torch.device("cpu"))
    dino = ViTModel(ViTConfig(**SMALL, image_size=224, patch_size=16), add_pooling_layer=False)
    return clip, Dino("tiny", dino, torch.device("cpu"))


def measures_of(clip: Clip, dino: Dino) -> list[Measure]:
    return [
        similarity.directional(clip),
        similarity.clip_image(clip, "source", "CLIPim"),
        similarity.clip_text(clip, "target", "CLIPout"),
        fidelity.distances("source"),
        similarity.dino(dino, "source"),
    ]


def write_pairs(folder: Path, count: int, side: int) -> tuple[list[Item], RunFolder]:
    """Source pictures and outputs as PNG files, and the items about them."""
    run, items, rng = RunFolder(folder / "run"), [], np.random.default_rng(0)
    (folder / "run" / "images").mkdir(parents=True)
    (folder / "run" / "inputs").mkdir()
    for i in range(count):
        item = Item(
            id=f"{i:05d}",
            task="edit",
            instruction="Make it a dog.",
            inputs=(lambda path=folder / f"{i}.png": load_image(path),),
            texts={"source": f"a cat, number {i}", "target": f"a dog, number {i}"},
        )
        for path in (folder / f"{i}.png", run.image(item.id)):
            coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            coarse.resize((side, side), Image.Resampling.BICUBIC).save(path)
        os.link(folder / f"{i}.png", run.input(item.id))
        items.append(item)
    return items, run


def loop(items: Sequence[Item], run: RunFolder, measures: Sequence[Measure], copy: bool = True) -> list[Scores]:
    """One pair after the other: both pictures are decoded once, then every metric looks at them on its own.

    copy: scores the copy baseline as well.
    """
    found = []
    for item in items:
        output, source = load_image(run.image(item.id)), item.inputs[0]()
        scores = alone(item, output, source, measures, "")
        found.append(scores | (alone(item, source, source, measures, "copy ") if copy else {}))
    return found


def alone(item: Item, output: np.ndarray, source: np.ndarray, measures: Sequence[Measure], prefix: str) -> Scores:
    """Scores of one pair; no metric knows what another has computed."""
    scores: Scores = {}
    for measure in measures:
        case = Case(item, [Picture(output)], Given(replace(item, inputs=(lambda: source,))))
        measure.prepare(case)
        scores |= {prefix + name: value for name, value in measure.score([case])[0].items()}
    return scores


def ours(items: Sequence[Item], run: RunFolder, measures: Sequence[Measure], workers: int) -> list[Scores]:
    scored = Scorer(measures, run, workers=workers).results(items)
    return [s["model"] | {f"copy {name}": value for name, value in s["copy"].items()} for _, s in scored]


def compare(items: list[Item], run: RunFolder, workers: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and processor seconds of each way for each round's share of the items.

    Raises ValueError if their scores differ.
    """
    measures = measures_of(*networks())
    ways = {
        "loop": lambda share: loop(share, run, measures),
        "loop without the copy baseline": lambda share: loop(share, run, measures, copy=False),
        "batches": lambda share: ours(share, run, measures, 0),
        f"batches and {workers} threads": lambda share: ours(share, run, measures, workers),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for way in ways.values():
        way(items[:4])  # warm up
    for start in range(rounds):
        share, found = items[start::rounds], []
        for name, way in ways.items():
            started, worked = time.perf_counter(), time.process_time()
            found.append(way(share))
            seconds[name].append((time.perf_counter() - started, time.process_time() - worked))
        for scores in zip(*found, strict=True):
            if any(abs(scores[0][name] - other[name]) > 1e-4 for other in scores[1:] for name in other):
                raise ValueError(f"the ways disagree: {scores}")
    return seconds


def main() -> None:
    parser = Parser(prog="python benchmarks/scoring.py", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=at_least_one, default=500)
    parser.add_argument("--side", type=at_least_one, default=512, help="of the pictures, in pixels")
    parser.add_argument("--workers", type=at_least_one, default=2, help="threads that decode")
    parser.add_argument("--threads", type=at_least_one, default=1, help="of torch")
    parser.add_argument("--rounds", type=at_least_one, default=5, help="in which the ways take turns")
    options = parser.parse_args()
    if options.rounds > options.pairs:
        parser.error(f"--rounds {options.rounds} is more than the {options.pairs} pairs that rounds share")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        items, run = write_pairs(Path(folder), options.pairs, options.side)
        seconds = compare(items, run, options.workers, options.rounds)
    cores = len(os.sched_getaffinity(0))
    side = f"{options.side}x{options.side}"
    print(f"{options.pairs} pairs of {side} pixels, {cores} cores, torch on {options.threads} threads")
    print("| way | seconds | times the loop (median) | processor seconds | times the loop |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [
            statistics.median(base[i] / own[i] for base, own in zip(seconds["loop"], times, strict=True))
            for i in range(2)
        ]
        spent = [sum(each[i] for each in times) for i in range(2)]
        print(f"| {name} | {spent[0]:.1f} | {ratios[0]:.2f} | {spent[1]:.1f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
