"""Recipes that make a picture, complete one, or tell what is in one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from data_builders.frames import asset, canvas, erase, grey, mask_frame, result
from data_builders.world.controls import CONTROLS, drag_map
from data_builders.world.draw import Draw, Made, changed_picture, dilate
from data_builders.world.render import encode_depth, pixel_grid, render, render_asset
from data_builders.world.scene import SIZES, Scene, describe, enumerate_words, sample_angle, sample_tint
from unireal.sample import Frame, Role
from unireal.tasks import TASKS


def _caption(draw: Draw, scene: Scene) -> str:
    return describe(scene, things_first=draw.chance(0.5))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _scene_facts(scene: Scene) -> dict[str, Any]:
    """The target of a sample that is about the whole scene."""
    return {"room": scene.room, "caption": describe(scene)}


def text_to_image(draw: Draw) -> Made:
    """Words -> picture."""
    scene = draw.scene()
    caption = _caption(draw, scene)
    instruction = draw.pick((_sentence(caption), _sentence(f"a picture of {caption}")))
    return Made(instruction, (), (result(render(scene, draw.size).image),), scene, _scene_facts(scene))


def customize(draw: Draw, num_assets: int) -> Made:
    """Assets -> a room with their things, upright, where and as large as the text says; large if no size is named."""
    scene = draw.scene(num_assets)
    named = draw.chance(0.75)
    things = tuple(
        replace(t, angle=0.0, radius=t.radius if named else SIZES["large"]).at(t.position_word) for t in scene.things
    )
    if draw.tint_share and draw.chance(draw.tint_share):  # only then, so that others stay as they were
        things = tuple(replace(t, color=sample_tint(draw.rng, t.shape)) for t in things)
    scene = replace(scene, things=things)
    parts = [
        f"the object from IMG{i}{f', {t.size_word},' if named else ''} at the {t.position_word}"
        for i, t in enumerate(things, start=1)
    ]
    templates = ("{things} in a {room} room", "a {room} room with {things}", "put {things} in a {room} room")
    words = draw.pick(templates).format(things=enumerate_words(parts), room=scene.room)
    shown = (replace(t, angle=sample_angle(draw.rng, upright=0.5)) for t in things)
    inputs = tuple(asset(render_asset(t, draw.asset_size)) for t in shown)
    return Made(_sentence(words), inputs, (result(render(scene, draw.size).image),), scene, things[0].facts())


def customize_mask(draw: Draw) -> Made:
    """asset -> a room with its thing, and the thing's mask."""
    made = customize(draw, 1)
    instruction = f"{made.instruction.rstrip('.')}; Predict the mask of the object in RES2."
    mask = render(made.scene, draw.size).masks[0]
    return replace(made, instruction=instruction, results=(*made.results, mask_frame(mask)))


def control(draw: Draw, kind: str) -> Made:
    """A control frame and a caption -> the picture."""
    scene = draw.scene()
    drawn = render(scene, draw.size)
    instruction = TASKS["control"].template.format(kind=kind, prompt=_caption(draw, scene)) + "."
    inputs = (Frame(CONTROLS[kind](scene, drawn), Role.CONTROL, kind),)
    return Made(instruction, inputs, (result(drawn.image),), scene, _scene_facts(scene))


def drag(draw: Draw) -> Made:
    """A dimmed picture with a drag from one place to another -> the picture with the thing moved."""
    scene = draw.scene()
    old = draw.target(scene)
    x, y = draw.rng.uniform(-0.04, 0.04, 2)
    new = old.at(draw.pick(scene.free_positions()))
    new = replace(new, x=float(np.clip(new.x + x, 0.1, 0.9)), y=float(np.clip(new.y + y, 0.1, 0.9)))
    after = scene.swap(old, new)
    height, width = draw.size
    start, end = ((t.x * width, t.y * height) for t in (old, new))
    shown = drag_map(render(scene, draw.size).image, start, end)
    instruction = TASKS["control"].template.format(kind="drag", prompt=_caption(draw, after)) + "."
    target = old.facts() | {"after": new.facts()}
    inputs = (Frame(shown, Role.CONTROL, "drag"),)
    return Made(instruction, inputs, (result(render(after, draw.size).image),), after, target)


def depth(draw: Draw) -> Made:
    """canvas -> depth map."""
    scene = draw.scene(photos=True)
    drawn = render(scene, draw.size)
    templates = ("Predict the depth map of IMG1.", "Estimate the depth of IMG1.", "Show how far everything in IMG1 is.")
    results = (result(encode_depth(drawn.depth), "depth"),)
    return Made(draw.pick(templates), (canvas(drawn.image),), results, scene, _scene_facts(scene))


def segment(draw: Draw) -> Made:
    """canvas -> where the named thing is visible."""
    scene = draw.scene(photos=True)
    target = draw.target(scene)
    drawn = render(scene, draw.size)
    templates = ("Segment the {thing}.", "Segment the {thing} in IMG1.", "Predict the mask of the {thing}.")
    mask = drawn.masks[scene.things.index(target)]
    instruction = draw.pick(templates).format(thing=target.name)
    facts = target.facts() | {"visible_pixels": int(mask.sum())}
    return Made(instruction, (canvas(drawn.image),), (mask_frame(mask),), scene, facts)


def colorize(draw: Draw) -> Made:
    """Grey canvas -> its colours."""
    scene = draw.scene()
    image = render(scene, draw.size).image
    shown = grey(np.asarray(Image.fromarray(image).convert("L")))
    return _restored(draw, "Colorize", "Add color to", scene, shown, image)


def deblur(draw: Draw) -> Made:
    """Blurred canvas -> sharp."""
    scene = draw.scene(photos=True)
    image = render(scene, draw.size).image
    radius = float(draw.rng.uniform(1.0, 2.0)) * min(draw.size) / 64
    shown = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    return _restored(draw, "Deblur", "Sharpen", scene, shown, image)


def _restored(draw: Draw, verb: str, other: str, scene: Scene, shown: np.ndarray, image: np.ndarray) -> Made:
    """Half of the instructions name the task alone, as people do; the others tell what the picture shows."""
    verb = draw.pick((verb, other))
    instruction = f"{verb} IMG1; {_caption(draw, scene)}." if draw.chance(0.5) else f"{verb} IMG1."
    return changed_picture(instruction, shown, image, scene, _scene_facts(scene))


def inpaint(draw: Draw) -> Made:
    """canvas with a hole, mask of the hole -> whole picture."""
    scene = draw.scene(photos=True)
    height, width = draw.size
    y, x = pixel_grid(height, width)
    half_x, half_y = 0.5 * draw.rng.uniform(0.18, 0.45, 2) * (width, height)
    centre = draw.rng.uniform(0.15, 0.85, 2)
    if draw.chance(0.6):  # most holes are where something is
        thing = draw.target(scene)
        centre = np.add((thing.x, thing.y), draw.rng.uniform(-0.1, 0.1, 2))
    u, v = (x - centre[0] * width) / half_x, (y - centre[1] * height) / half_y
    hole = u * u + v * v <= 1.0 if draw.chance(0.4) else (np.abs(u) <= 1.0) & (np.abs(v) <= 1.0)
    return _filled(draw, "Fill the hole in IMG1", scene, hole)


def outpaint(draw: Draw) -> Made:
    """canvas of which one or two sides are unknown, mask of these -> whole picture."""
    scene = draw.scene()
    height, width = draw.size
    hole = np.zeros(draw.size, bool)
    for side in draw.rng.permutation(4)[: draw.pick((1, 1, 2))]:
        share = draw.rng.uniform(0.15, 0.35)
        rows, columns = max(1, round(share * height)), max(1, round(share * width))
        where = (np.s_[:, :columns], np.s_[:rows], np.s_[:, width - columns :], np.s_[height - rows :])
        hole[where[int(side)]] = True
    return _filled(draw, "Extend IMG1", scene, hole)


def _filled(draw: Draw, verb: str, scene: Scene, hole: np.ndarray) -> Made:
    drawn = render(scene, draw.size)
    shown = erase(drawn.image, hole)
    # Without a caption a hole is filled with background, so such holes must hide nothing.
    hides = any((hole & mask).any() for mask in drawn.masks)
    bare = not hides and draw.chance(0.5)
    instruction = f"{verb}." if bare else f"{verb}; {_caption(draw, scene)}."
    inputs = (canvas(shown), mask_frame(hole, Role.CONTROL))
    target = _scene_facts(scene) | {"hides_things": hides}
    return Made(instruction, inputs, (result(drawn.image),), scene, target, dilate(hole))
