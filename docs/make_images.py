"""Makes docs/images/overview.png with the shipped model: python docs/make_images.py

Held-out scenes of the procedural world, the first seeds that training never reaches: nothing is picked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_builders.world.recipes import world_sample
from data_builders.world.stream import TEST_SEEDS
from unireal.pipeline import UniRealPipeline
from unireal.sample import Sample

RECIPES = ("recolor", "remove", "add", "move", "replace", "insert", "customize1", "segment", "depth", "inpaint")
COLUMNS, CELL, SCALE = 2, 64, 2


def strip(sample: Sample, outputs: list[np.ndarray]) -> Image.Image:
    """Inputs | truth | output, and the instruction below."""
    groups = [[f.image for f in sample.inputs], [f.image for f in sample.results], outputs]
    count = sum(map(len, groups))
    page = Image.new("RGB", ((count * (CELL + 3) + 20) * SCALE, CELL * SCALE + 18), "white")
    x = 0
    for group in groups:
        for image in group:
            shown = Image.fromarray(image)
            page.paste(shown.resize((shown.width * SCALE, shown.height * SCALE), Image.Resampling.NEAREST), (x, 0))
            x += (CELL + 3) * SCALE
        x += 10 * SCALE
    ImageDraw.Draw(page).text((2, CELL * SCALE + 3), sample.instruction, fill="black")
    return page


def main() -> None:
    pipeline = UniRealPipeline.from_pretrained("unireal-tiny")
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for recipe in RECIPES:
        samples = [world_sample(recipe, TEST_SEEDS + seed) for seed in range(COLUMNS)]
        rows.append([strip(sample, pipeline.generate([sample])[0]) for sample in samples])
    width = max(s.width for row in rows for s in row) + 8
    height = max(s.height for row in rows for s in row) + 6
    page = Image.new("RGB", (width * COLUMNS, height * len(rows)), "white")
    for j, row in enumerate(rows):
        for i, picture in enumerate(row):
            page.paste(picture, (i * width, j * height))
    path = Path(__file__).parent / "images" / "overview.png"
    path.parent.mkdir(exist_ok=True)
    page.save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
