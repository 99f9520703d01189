"""Makes docs/tasks.md and its pictures with the shipped model: python docs/make_gallery.py

One held-out scene of the procedural world for every task, the first seed beyond training: nothing is picked.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from data_builders.world.recipes import RECIPES, world_sample
from data_builders.world.stream import TEST_SEEDS
from unireal.evaluation.report import Example, Report
from unireal.pipeline import UniRealPipeline
from unireal.tasks import TASKS, TaskSpec

DOCS = Path(__file__).parent
SCALE = 2

HEAD = """# Tasks

Made by `python docs/make_gallery.py`: for every task the first held-out scene of the procedural world, with the truth
and what the shipped `unireal-tiny` makes of it. Nothing is picked; where the model fails, the picture shows it. How
well it does on average is in the [results](reproducibility.md).
"""


def recipe_of(spec: TaskSpec) -> str:
    """The world's first recipe of the task."""
    return next(recipe.name for recipe in RECIPES.values() if recipe.task == spec.name)


def section(spec: TaskSpec) -> str:
    inputs = ", ".join(f"`{slot}`" + (" (optional)" if slot.optional else "") for slot in spec.slots) or "none"
    return (
        f"\n## {spec.name}\n\n{spec.summary[0].upper()}{spec.summary[1:]}. Pictures: {inputs}. Context prompt: "
        f"*{spec.context}*. Example prompt: {spec.example or spec.default_prompt}\n\n"
        f"![{spec.name}: inputs, truth, output](images/task-{spec.name}.png)\n"
    )


def save_example(pipeline: UniRealPipeline, spec: TaskSpec) -> None:
    sample = world_sample(recipe_of(spec), TEST_SEEDS)
    inputs, truth = ([frame.image for frame in frames] for frames in (sample.inputs, sample.results))
    example = Example(spec.name, sample.instruction, inputs, truth, pipeline.generate([sample])[0])
    page = Report(spec.name, {}, examples=[[example]]).sheet()
    page = page.resize((page.width * SCALE, page.height * SCALE), Image.Resampling.NEAREST)
    page.save(DOCS / "images" / f"task-{spec.name}.png", optimize=True)


def main() -> None:
    pipeline = UniRealPipeline.from_pretrained("unireal-tiny")
    pipeline.set_progress_bar_config(disable=True)
    for spec in TASKS.values():
        save_example(pipeline, spec)
    (DOCS / "tasks.md").write_text(HEAD + "".join(section(spec) for spec in TASKS.values()))


if __name__ == "__main__":
    main()
