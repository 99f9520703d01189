"""Edits of how a scene looks rather than of what is in it: pose, viewpoint, style and expression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from data_builders.frames import grey
from data_builders.world.controls import sketch
from data_builders.world.draw import Draw, Made, changed_picture
from data_builders.world.edits import Edit, change
from data_builders.world.render import Rendering, render
from data_builders.world.scene import FACES, Scene
from data_builders.world.video import TURN

_ZOOM = 1.5
_BLOCK = 1 / 16  # side of a mosaic's stones, a fraction of the picture
_NIGHT = np.array((0.3, 0.35, 0.6), np.float32)
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def turn(draw: Draw) -> Edit:
    """A thing turns where it is, as far as in a video. A plain circle gets stripes first: its turn is invisible."""
    scene = draw.scene(photos=True)
    old = draw.target(scene)
    if old.shape == "circle" and old.pattern == "plain":
        striped = replace(old, pattern="striped")
        scene, old = scene.swap(old, striped), striped
    way, sign = draw.pick((("clockwise", 1), ("counterclockwise", -1)))
    templates = ("Turn the {thing} {way}.", "Turn the {thing} of IMG1 {way}.", "Rotate the {thing} {way}.")
    return change(draw, templates, scene, old, replace(old, angle=old.angle + sign * TURN), way=way)


def express(draw: Draw) -> Edit:
    """The face of a thing, from one expression to another."""
    scene = draw.scene(photos=True)
    plain = draw.target(scene)
    before, after = draw.pick((FACES, FACES[::-1]))
    old, new = replace(plain, face=before), replace(plain, face=after)
    templates = ("Make the {thing} {face}.", "Make the {thing} look {face}.", "Give the {thing} a {face} face.")
    return change(draw, templates, scene.swap(plain, old), old, new, face=after)


def zoom(draw: Draw) -> Made:
    """canvas -> the same from closer: what is in its middle, larger."""
    scene = draw.scene(photos=True)
    height, width = draw.size
    far, near = render(scene, draw.size).image, render(scene, (round(_ZOOM * height), round(_ZOOM * width))).image
    top, left = (near.shape[0] - height) // 2, (near.shape[1] - width) // 2
    after = near[top : top + height, left : left + width]
    words = ("Move the camera closer.", "Show IMG1 from closer.", "Zoom in.")
    return changed_picture(draw.pick(words), far, after, scene, {"view": "closer"})


def restyle(draw: Draw) -> Made:
    """canvas -> all of it in another style."""
    scene = draw.scene(photos=True)
    drawn = render(scene, draw.size)
    style = draw.pick(STYLES)
    templates = (
        "Change the style of IMG1 to {style}.",
        "Turn IMG1 into a {style} picture.",
        "Make it a {style} scene.",
    )
    instruction = draw.pick(templates).format(style=style)
    return changed_picture(instruction, drawn.image, STYLES[style](scene, drawn), scene, {"style": style})


def _gray(scene: Scene, drawn: Rendering) -> np.ndarray:
    return grey((drawn.image @ _LUMA + 0.5).astype(np.uint8))


def _night(scene: Scene, drawn: Rendering) -> np.ndarray:
    return (drawn.image * _NIGHT).astype(np.uint8)


def _mosaic(scene: Scene, drawn: Rendering) -> np.ndarray:
    """The mean colour of every stone; the last row and column may be cut off."""
    height, width = drawn.image.shape[:2]
    rows, columns = (np.arange(0, side, max(2, round(side * _BLOCK))) for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(drawn.image.astype(np.float32), rows, axis=0), columns, axis=1)
    tall, wide = np.diff(np.append(rows, height)), np.diff(np.append(columns, width))
    stones = (sums / (tall[:, None] * wide)[..., None] + 0.5).astype(np.uint8)
    return stones.repeat(tall, axis=0).repeat(wide, axis=1)


STYLES: MappingProxyType[str, Callable[[Scene, Rendering], np.ndarray]] = MappingProxyType(
    {"sketch": sketch, "gray": _gray, "night": _night, "mosaic": _mosaic}
)
