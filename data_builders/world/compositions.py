"""Recipes that join tasks which training never shows together: what a model makes of them, it has composed.

Their instructions consist of sentences that training has, each in another recipe. They are for evaluation only.
"""

from __future__ import annotations

from dataclasses import replace

from data_builders.frames import asset, canvas, mask_frame, result
from data_builders.world.draw import Draw, Made, changed
from data_builders.world.edits import edit_sample, insert, move, recolor, remove, substitute
from data_builders.world.generation import customize
from data_builders.world.render import encode_depth, render, render_asset
from data_builders.world.scene import SIZES, Scene, Thing
from unireal.sample import Frame, Role

_EDITS = (recolor, remove, move, substitute)


def insert_two_by_depth(draw: Draw) -> Made:
    """canvas, two assets, depth map of the result -> the canvas with both things where the map has them."""
    scene = draw.scene(photos=True, unseen=False)
    after = scene
    new: list[Thing] = []
    for _ in range(2):
        thing = _newcomer(draw, after)
        after, new = after.add(thing), [*new, thing]
    drawn, before = render(after, draw.size), render(scene, draw.size).image
    depth = Frame(encode_depth(drawn.depth), Role.CONTROL, "depth")
    places = " and ".join(f"the object from IMG{i} at the {t.position_word}" for i, t in enumerate(new, start=2))
    instruction = f"Add {places} of IMG1; The result follows the depth of IMG4."
    inputs = (canvas(before), *(asset(render_asset(thing, draw.asset_size)) for thing in new), depth)
    target = new[0].facts() | {"after": new[0].facts()}
    return Made(instruction, inputs, (result(drawn.image),), scene, target, changed(before, drawn.image))


def _newcomer(draw: Draw, scene: Scene) -> Thing:
    """A large thing at the exact centre of a free cell."""
    color, shape = draw.pick(draw.free_pairs(scene, new=True))
    return Thing(shape, color, radius=SIZES["large"]).at(draw.pick(scene.free_positions()))


def insert_mask(draw: Draw) -> Made:
    """canvas, asset -> the canvas with the asset's thing, and the mask of what changed."""
    made = insert(draw)
    instruction = f"{made.instruction.rstrip('.')}; Predict the mask of the edited region in RES2."
    assert made.mask is not None  # an insertion tells where
    return replace(made, instruction=instruction, results=(*made.results, mask_frame(made.mask)))


def edit_depth(draw: Draw) -> Made:
    """canvas -> edited canvas, and its depth map."""
    edit = draw.pick(_EDITS)(draw)
    made = edit_sample(draw, lambda _: edit)
    depth = result(encode_depth(render(edit.after, draw.size).depth), "depth")
    instruction = f"{made.instruction.rstrip('.')}; Predict the depth map of RES1 in RES2."
    return replace(made, instruction=instruction, results=(*made.results, depth))


def customize_two_mask(draw: Draw) -> Made:
    """Two assets -> a room with both things, and the mask of the second one."""
    made = customize(draw, 2)
    instruction = f"{made.instruction.rstrip('.')}; Predict the mask of the object from IMG2 in RES2."
    mask = render(made.scene, draw.size).masks[1]
    return replace(made, instruction=instruction, results=(*made.results, mask_frame(mask)))
