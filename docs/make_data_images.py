"""Makes docs/images/data-BUILDER.png, one sample of each builder in a row: python docs/make_data_images.py

The clip is the first of the procedural world with two things in a mint room, both seen in all frames, and the
annotators are its truth: nothing else is picked.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from data_builders.annotators.protocols import Instruction
from data_builders.builders.base import Footage, VideoBuilder, clip_rng
from data_builders.builders.generators import Studio
from data_builders.builders.registry import VIDEO_BUILDERS
from data_builders.clips.clip import Clip
from data_builders.world.oracle import Oracle, annotators_of
from data_builders.world.video import WorldVideo
from unireal.sample import Sample

FOLDER = Path(__file__).parent / "images"
SIZE, SIDE, GAP = (96, 96), 96, 8


class Teller(Oracle):
    """The oracle, and an editor and a generator that do exactly what it asks for."""

    def edit(self, image: np.ndarray, instruction: str, seed: int) -> np.ndarray:
        return self.edited(image)

    def generate(self, depth: list, key: np.ndarray, instruction: str, seed: int) -> list[np.ndarray]:
        return [self.edited(image) for image in self.video.frames[: len(depth)]]

    def instruct(self, before: np.ndarray, after: np.ndarray, caption: str) -> Instruction:
        known = any((before == frame).all() for frame in self.video.frames)
        return super().instruct(before, after, caption) if known else Instruction("Give it back its colour.", "")


def video() -> WorldVideo:
    videos = (WorldVideo(seed, SIZE) for seed in count())
    fits = (v for v in videos if len(v.scene.things) == 2 and v.scene.room == "mint")
    return next(v for v in fits if v.masks.any(axis=(2, 3)).all())


def samples(builder: VideoBuilder, film: WorldVideo) -> list[Sample]:
    teller = Teller([film])
    teller.video = film
    studio = Studio(**vars(annotators_of(teller)), editor=teller, generator=teller)
    clip = Clip("world.mkv", "world", 0.0, 2.0, 8.0, SIZE, dynamic=True)
    times = [index / 8 for index in range(len(film))]
    footage = Footage(clip, list(film.frames), times, clip_rng(0, builder.name, clip))
    return builder.build(footage, studio, builder.options(), Counter())


def row(sample: Sample) -> Image.Image:
    """Inputs, a wider gap, results; of more than four frames every second one."""
    shown = []
    for frames in (sample.inputs, sample.results):
        shown.append([_picture(f.image) for f in frames[:: 2 if len(frames) > 4 else 1]])
    width = sum(len(part) * (SIDE + GAP) for part in shown) + 2 * GAP
    line = Image.new("RGB", (width, SIDE), "white")
    left = 0
    for part in shown:
        for picture in part:
            line.paste(picture, (left, (SIDE - picture.height) // 2))
            left += SIDE + GAP
        left += 2 * GAP
    return line


def _picture(image: np.ndarray) -> Image.Image:
    if image.dtype == np.uint16:
        image = np.repeat((image // 257).astype(np.uint8)[..., None], 3, axis=2)
    return Image.fromarray(image)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    film = video()
    for name, builder in VIDEO_BUILDERS.items():
        made = samples(builder, film)
        path = FOLDER / f"data-{name}.png"
        row(made[0]).save(path, optimize=True)
        print(f"{path.name}: {made[0].instruction}")


if __name__ == "__main__":
    main()
