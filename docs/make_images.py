"""Makes docs/images/overview.png with the shipped model: python docs/make_images.py

Held-out scenes of the procedural world, the first seeds that training never reaches: nothing is picked.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from data_builders.world.recipes import sample_and_scene
from data_builders.world.stream import TEST_SEEDS
from unireal.evaluation.exams import WorldItem
from unireal.evaluation.report import Example, Report
from unireal.pipeline import UniRealPipeline

RECIPES = ("recolor", "remove", "add", "move", "replace", "insert", "customize1", "segment", "depth", "inpaint")
COLUMNS, SCALE = 2, 2


def example(pipeline: UniRealPipeline, recipe: str, seed: int) -> Example:
    item = WorldItem(*sample_and_scene(recipe, TEST_SEEDS + seed))
    inputs = [frame.image for frame in item.sample.inputs]
    output = item.finished(pipeline.generate([item.question()])[0])
    return Example(recipe, item.sample.instruction, inputs, item.truth, output)


def main() -> None:
    pipeline = UniRealPipeline.from_pretrained("unireal-tiny")
    pipeline.set_progress_bar_config(disable=True)
    lines = [[example(pipeline, recipe, seed) for seed in range(COLUMNS)] for recipe in RECIPES]
    page = Report("overview", {}, examples=lines).sheet()
    path = Path(__file__).parent / "images" / "overview.png"
    path.parent.mkdir(exist_ok=True)
    page.resize((page.width * SCALE, page.height * SCALE), Image.Resampling.NEAREST).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
