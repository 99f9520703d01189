"""Makes docs/tasks.md and its pictures with the shipped model.

python docs/make_gallery.py            # after shipping another model, or changing TASKS
python docs/make_gallery.py --check    # exit 1 if the page's text is not what TASKS says, or a picture is missing

One held-out scene of the procedural world for every task, the first seed beyond training: nothing is picked.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from data_builders.world.recipes import RECIPES, sample_and_scene
from data_builders.world.stream import TEST_SEEDS
from unireal.evaluation.exams import WorldItem
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


def page() -> str:
    return HEAD + "".join(section(spec) for spec in TASKS.values())


def picture_path(spec: TaskSpec) -> Path:
    return DOCS / "images" / f"task-{spec.name}.png"


def section(spec: TaskSpec) -> str:
    inputs = ", ".join(f"`{slot}`" + (" (optional)" if slot.optional else "") for slot in spec.slots) or "none"
    return (
        f"\n## {spec.name}\n\n{spec.summary[0].upper()}{spec.summary[1:]}. Pictures: {inputs}. Context prompt: "
        f"*{spec.context}*. Example prompt: {spec.example or spec.default_prompt}\n\n"
        f"![{spec.name}: inputs, truth, output](images/{picture_path(spec).name})\n"
    )


def save_example(pipeline: UniRealPipeline, spec: TaskSpec) -> None:
    recipe = recipe_of(spec)
    item = WorldItem(*sample_and_scene(recipe, TEST_SEEDS))
    inputs = [frame.image for frame in item.sample.inputs]
    output = item.finished(pipeline.generate([item.question()])[0])
    example = Example(spec.name, item.sample.instruction, inputs, item.truth, output)
    sheet = Report(spec.name, {}, examples=[[example]]).sheet()
    sheet = sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.NEAREST)
    sheet.save(picture_path(spec), optimize=True)


def is_up_to_date() -> bool:
    return (DOCS / "tasks.md").read_text(encoding="utf-8") == page() and all(
        picture_path(spec).is_file() for spec in TASKS.values()
    )


def main() -> int:
    if "--check" in sys.argv[1:]:
        if not is_up_to_date():
            print("tasks.md is not up to date; run: python docs/make_gallery.py", file=sys.stderr)
        return int(not is_up_to_date())
    pipeline = UniRealPipeline.from_pretrained("unireal-tiny")
    pipeline.set_progress_bar_config(disable=True)
    for spec in TASKS.values():
        save_example(pipeline, spec)
    (DOCS / "tasks.md").write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
