"""The recipes by which the world makes samples: every task, with the truth known to the pixel.

A sample follows from the recipe's name, a seed and the options alone, so nothing has to be stored to see it again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from data_builders.names import look_up
from data_builders.world import compositions, edits, generation, looks, video_recipes
from data_builders.world.draw import Draw, Made
from data_builders.world.scene import Scene
from unireal.sample import Sample
from unireal.tasks import TASKS

VERSION = 1  # raised whenever the same seed gives another sample


@dataclass(frozen=True)
class Recipe:
    """One kind of sample.

    task: name in unireal.tasks.TASKS; weight: its share in mixtures, relative to the others', 0 for what is never
    trained, only measured.
    make: draws a sample; context: context prompt, None for the task's own.
    """

    name: str
    task: str
    weight: float
    make: Callable[[Draw], Made]
    context: str | None = None


def _edit(name: str, weight: float, edit: edits.Edits) -> Recipe:
    return Recipe(name, "edit", weight, partial(edits.edit_sample, edit=edit))


def _control(kind: str) -> Recipe:
    return Recipe(f"control_{kind}", "control", 0.15, partial(generation.control, kind=kind))


_ALL = (
    _edit("recolor", 2.6, edits.recolor),
    _edit("recolor_alike", 3.0, partial(edits.recolor, alike=True)),
    _edit("remove", 1.8, edits.remove),
    _edit("add", 1.0, edits.add),
    _edit("move", 1.2, edits.move),
    _edit("replace", 1.8, edits.substitute),
    _edit("background", 0.5, edits.repaint_room),
    _edit("resize", 0.5, edits.resize),
    _edit("turn", 3.0, looks.turn),
    _edit("expression", 1.0, looks.express),
    Recipe("viewpoint", "edit", 0.5, looks.zoom),
    Recipe("style", "edit", 0.9, looks.restyle),
    Recipe("frame2frame", "edit", 3.0, edits.frame2frame, context="realistic style, dynamic scenario"),
    Recipe("insert", "insert", 1.1, edits.insert),
    Recipe("tryon", "tryon", 0.5, edits.tryon),
    Recipe("customize1", "customize", 4.5, partial(generation.customize, num_assets=1)),
    Recipe("customize2", "customize", 2.5, partial(generation.customize, num_assets=2)),
    *(_control(kind) for kind in generation.CONTROLS),
    Recipe("control_drag", "control", 0.15, generation.drag),
    Recipe("depth", "depth", 1.2, generation.depth),
    Recipe("segment", "segment", 3.5, generation.segment),
    Recipe("colorize", "restore", 0.4, generation.colorize),
    Recipe("deblur", "restore", 0.6, generation.deblur),
    Recipe("inpaint", "inpaint", 13.0, generation.inpaint),
    Recipe("outpaint", "outpaint", 0.7, generation.outpaint),
    Recipe("t2i", "t2i", 4.0, generation.text_to_image),
    Recipe("edit_mask", "compose", 1.2, edits.edit_mask),
    Recipe("customize_mask", "compose", 0.4, generation.customize_mask),
    Recipe("video_edit", "video_edit", 11.0, partial(video_recipes.video_edit, with_reference=False)),
    Recipe("video_edit_reference", "video_edit", 0.15, partial(video_recipes.video_edit, with_reference=True)),
    Recipe("t2v", "t2v", 1.0, video_recipes.text_to_video),
    Recipe("image_to_video", "t2v", 3.5, video_recipes.image_to_video),
    Recipe("insert2_depth", "compose", 0.0, compositions.insert_two_by_depth),
    Recipe("insert_mask", "compose", 0.0, compositions.insert_mask),
    Recipe("edit_depth", "compose", 0.0, compositions.edit_depth),
    Recipe("customize2_mask", "compose", 0.0, compositions.customize_two_mask),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
TRAINED = tuple(recipe.name for recipe in _ALL if recipe.weight)


def get_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError with the nearest name for an unknown one."""
    return look_up(RECIPES, name, "recipe")


def world_sample(
    recipe_name: str,
    seed: int,
    size: tuple[int, int] = (64, 64),
    *,
    unseen: bool = False,
    photo_share: float = 0.0,
    tint_share: float = 0.0,
) -> Sample:
    """The sample of a recipe and a seed, always the same for the same arguments.

    size: (height, width) in pixels of canvases and results, at least 8; assets have half of it.
    unseen: the sample is about a colour and shape that never occur together otherwise (scene.UNSEEN_PAIRS).
    photo_share: how likely the background is a photograph, in 0..1; some recipes always use rooms.
    tint_share: how likely things whose colour the text leaves to a picture have any colour at all, in 0..1; never one
    near the colour that their shape is held out in.

    `source` tells where the sample comes from and what is true of it: "video", "builder", "version", "recipe", "seed",
    "things" (of the canvas, or of the first result where there is no canvas), "room", "background", and "target",
    what is edited or asked for, with its state in the result under "after".
    Raises ValueError for an unknown recipe, a negative seed, a size below 8 or a share outside 0..1.
    """
    return sample_and_scene(recipe_name, seed, size, unseen=unseen, photo_share=photo_share, tint_share=tint_share)[0]


def sample_and_scene(
    recipe_name: str,
    seed: int,
    size: tuple[int, int] = (64, 64),
    *,
    unseen: bool = False,
    photo_share: float = 0.0,
    tint_share: float = 0.0,
) -> tuple[Sample, Scene]:
    """world_sample's sample, and the scene of its canvas or, where there is none, of its first result."""
    recipe = get_recipe(recipe_name)
    if seed < 0:
        raise ValueError(f"a seed is a whole number from 0, got {seed}; give a positive one")
    if not 0.0 <= tint_share <= 1.0:
        raise ValueError(f"tint_share is a probability in 0..1, got {tint_share}; give 0 for named colours only")
    rng = np.random.default_rng((seed, zlib.crc32(recipe.name.encode())))
    made = recipe.make(Draw(rng, size, unseen, photo_share, tint_share))
    source = {
        "video": f"world-{recipe.name}-{seed}",
        "builder": "world",
        "version": VERSION,
        "recipe": recipe.name,
        "seed": seed,
        "things": [thing.facts() for thing in made.scene.things],
        "room": made.scene.room,
        "background": made.scene.background,
        "target": made.target,
        **made.facts,
    }
    context = TASKS[recipe.task].context if recipe.context is None else recipe.context
    sample = Sample(recipe.task, made.instruction, context, made.inputs, made.results, made.mask, source)
    return sample, made.scene
