"""Edits of videos that are longer than a window, on held-out scenes: what the joining of windows does.

    python -m benchmarks.long_videos --model unireal-tiny --limit 32 --output runs/long-videos.json

Systems: `joined` is the pipeline, whose windows share a frame and hand on how it came out; `apart` has windows that
know nothing of one another; `per frame` edits every frame as a picture; `copy` leaves the video as it is. All in dB:
PSNR of the changed region; and of what changes from each frame to the next, over all of them ("temporal"), where two
windows meet ("at seams"), and elsewhere ("inside"). Windows that are well joined have the same at seams as inside.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_builders.world.draw import Draw, Made
from data_builders.world.stream import TEST_SEEDS
from data_builders.world.video_recipes import FRAMES, video_edit
from unireal.arguments import Parser, at_least_one, failed
from unireal.evaluation.metrics import pooled_psnr, squared_error
from unireal.files import check_writable
from unireal.pipeline import UniRealPipeline
from unireal.sample import Role
from unireal.video.windows import OVERLAP

SIZE = (64, 64)
Video = list[np.ndarray]  # uint8 (H, W, 3)
System = Callable[[str, Video, int], Video]  # instruction, frames, seed -> frames


def systems(pipeline: UniRealPipeline, steps: int | None) -> dict[str, System]:
    def ask(instruction: str, seed: int, **what: object) -> Video:
        generator = torch.Generator().manual_seed(seed)
        given = {"generator": generator, "num_inference_steps": steps, "output_type": "np"}
        return pipeline(instruction, **given, **what).results[0]

    def joined(instruction: str, video: Video, seed: int) -> Video:
        return ask(instruction, seed, task="video_edit", video=video)

    def apart(instruction: str, video: Video, seed: int) -> Video:
        windows = (video[start : start + FRAMES] for start in range(0, len(video), FRAMES))
        return [f for i, w in enumerate(windows) for f in ask(instruction, seed + i, task="video_edit", video=w)]

    def per_frame(instruction: str, video: Video, seed: int) -> Video:
        return [ask(instruction, seed + i, task="edit", canvas=frame)[0] for i, frame in enumerate(video)]

    def copy(instruction: str, video: Video, seed: int) -> Video:
        return video

    return {"joined": joined, "apart": apart, "per frame": per_frame, "copy": copy}


def seams(name: str, frames: int) -> set[int]:
    """Numbers i of the changes from frame i to i + 1 at which windows of a system meet."""
    if name == "joined":  # a shared frame is mixed of both windows: the change to it counts, and that from it
        shared = range(FRAMES - OVERLAP, frames - 1, FRAMES - OVERLAP)
        return {change for last in shared for change in (last - 1, last)}
    return set(range(FRAMES - 1, frames - 1, FRAMES)) if name == "apart" else set()


def measure(name: str, made: Made, output: Video) -> dict[str, float]:
    """Mean squared errors in squared grey levels; NaN where there is nothing to measure."""
    truth = [frame.image for frame in made.results]
    changes = [np.diff(np.stack(video).astype(np.int16), axis=0) for video in (output, truth)]
    at_seams = np.isin(np.arange(len(truth) - 1), list(seams(name, len(truth))))
    region = np.concatenate([made.mask] * len(truth))
    return {
        "changed": squared_error(np.concatenate(output), np.concatenate(truth), region),
        "temporal": squared_error(*changes),
        "at seams": squared_error(*(part[at_seams] for part in changes)),
        "inside": squared_error(*(part[~at_seams] for part in changes)),
    }


def _plain(value: object) -> object:
    """JSON knows no undefined and no infinite numbers: these become null and "inf"."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    parser = Parser(prog="python -m benchmarks.long_videos", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="unireal-tiny")
    parser.add_argument("--limit", type=at_least_one, default=32, help="videos")
    parser.add_argument("--frames", type=at_least_one, default=4 * FRAMES, help=f"of each, a multiple of {FRAMES}")
    parser.add_argument("--steps", type=at_least_one, help="denoising steps (default: the model's)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    if options.frames % FRAMES:
        parser.error(f"--frames is a multiple of {FRAMES}, got {options.frames}")
    try:
        if options.output:
            check_writable(options.output)
        pipeline = UniRealPipeline.from_pretrained(options.model)
    except (ValueError, OSError) as error:
        return failed(error)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, list[dict[str, float]]] = {}
    for seed in tqdm(range(TEST_SEEDS, TEST_SEEDS + options.limit), unit="video"):
        made = video_edit(Draw(np.random.default_rng(seed), SIZE), with_reference=False, frames=options.frames)
        video = [frame.image for frame in made.inputs if frame.role == Role.CANVAS]
        for name, system in systems(pipeline, options.steps).items():
            output = system(made.instruction, video, seed - TEST_SEEDS)
            found.setdefault(name, []).append(measure(name, made, output))
    columns = list(found["joined"][0])
    means = {name: {c: pooled_psnr(row[c] for row in rows)[0] for c in columns} for name, rows in found.items()}
    print(f"| system | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, row in means.items():
        print(f"| {name} | {' | '.join('-' if np.isnan(value) else f'{value:.2f}' for value in row.values())} |")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: str(value) for name, value in vars(options).items()}
        content = {"settings": settings, "PSNR": means, "squared errors": found}
        options.output.write_text(json.dumps(_plain(content), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
