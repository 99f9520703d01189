"""Recipes of consecutive frames: a video edited through time, a video from words, and a picture that goes on moving.

A sample holds one window of a video, FRAMES frames. Speeds are the same in every sample, so that what a window shows
follows from its text and its inputs, and a longer video can be made window by window.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from data_builders.frames import asset, canvas, result
from data_builders.world.draw import Draw, Made, changed
from data_builders.world.edits import Edit, add, change, recolor, remove, repaint_room, substitute
from data_builders.world.render import render
from data_builders.world.scene import PATTERNS, Scene, Thing, describe
from data_builders.world.video import STILL, Motion, WorldVideo, possible_motions
from unireal.sample import Frame

FRAMES = 4  # of a window
_TWO_WINDOWS = 2 * FRAMES
_TRAVEL = 0.35  # fraction of the picture that a thing crosses in two windows
_EDIT_TRAVEL = (0.08, 0.3)  # the same in one window of a video that is edited: there the canvas shows the speed


def retexture(draw: Draw) -> Edit:
    """Another pattern, the same colour."""
    scene = draw.scene(photos=True)
    old = draw.target(scene)
    new = replace(old, pattern=draw.pick(p for p in PATTERNS if p != old.pattern))
    templates = ("Make the {thing} {pattern}.", "Change the pattern of the {thing} to {pattern}.")
    return change(draw, templates, scene, old, new, pattern=new.pattern)


EDITS = (recolor, remove, add, substitute, retexture, repaint_room)


def video_edit(draw: Draw, with_reference: bool, frames: int = FRAMES) -> Made:
    """Canvases, FRAMES or more -> the same frames edited; what is edited keeps its motion, what is added stays.

    with_reference: the edited first frame comes along as an asset (Ditto's visual scaffold, arXiv 2510.15742). The
    instruction does not name it, so that it can be left out. The mask is where any of the frames changes.
    """
    make = draw.pick(EDITS)
    edit = make(draw)
    motions = _motions(draw, edit.before)
    edited = dict(motions)
    if edit.outcome is not None:
        edited[edit.outcome] = motions[edit.target] if edit.target is not None else STILL
    times = np.linspace(0.0, 1.0, frames)
    before = [render(_moved(edit.before, motions, time), draw.size).image for time in times]
    after = [render(_moved(edit.after, edited, time), draw.size).image for time in times]
    reference = (asset(after[0]),) if with_reference else ()
    mask = np.any([changed(*pair) for pair in zip(before, after, strict=True)], axis=0)
    inputs, results = tuple(map(canvas, before)), tuple(map(result, after))
    facts = {"edit": make.__name__, "motions": [motions[thing].verb for thing in edit.before.things]}
    return Made(edit.instruction, inputs + reference, results, edit.before, edit.facts, mask, facts)


def _motions(draw: Draw, scene: Scene) -> dict[Thing, Motion]:
    """How each thing moves through the window; at least one does, unless the scene is empty."""
    travel = float(draw.rng.uniform(*_EDIT_TRAVEL))
    count = len(scene.things)
    moving = draw.rng.permutation(count)[: draw.rng.integers(1, count + 1)] if count else ()
    return {
        thing: draw.pick(possible_motions(thing, travel)) if index in moving else STILL
        for index, thing in enumerate(scene.things)
    }


def _moved(scene: Scene, motions: dict[Thing, Motion], time: float) -> Scene:
    return replace(scene, things=tuple(motions[thing].apply(thing, time) for thing in scene.things))


def text_to_video(draw: Draw) -> Made:
    """Words -> the first FRAMES frames of a video in which one thing moves."""
    video = _video(draw, photo_share=0.0)
    instruction = draw.pick((video.caption, f"a video of {video.caption}"))
    return _shown(video, instruction, None, range(FRAMES))


def image_to_video(draw: Draw) -> Made:
    """A frame, and words -> the next FRAMES frames. The frame may be one at which an earlier window ended."""
    video = _video(draw, draw.photo_share)
    first = draw.pick((0, FRAMES - 1))
    instruction = draw.pick((video.motion_caption, video.caption, f"a video of {video.caption}"))
    return _shown(video, instruction, first, range(first + 1, first + 1 + FRAMES))


def endings(scene: Scene, mover: int, steps: int) -> dict[str, Scene]:
    """What becomes of a scene after that many frames, for each motion that the thing of that number could have."""
    thing = scene.things[mover]
    motions = possible_motions(replace(thing, x=0.5, y=0.5), _TRAVEL)  # in the middle all are possible
    time = steps / (_TWO_WINDOWS - 1)
    return {motion.verb: scene.swap(thing, motion.apply(thing, time)) for motion in motions}


def _video(draw: Draw, photo_share: float) -> WorldVideo:
    seed = int(draw.rng.integers(2**31))
    options: dict[str, Any] = {"movers": 1, "travel": _TRAVEL, "unseen": draw.unseen, "photo_share": photo_share}
    return WorldVideo(seed, draw.size, _TWO_WINDOWS, **options)


def _shown(video: WorldVideo, instruction: str, first: int | None, following: range) -> Made:
    """Frame number `first` (None: no canvas) -> the following ones."""
    scene = video.scene_at(following[0] if first is None else first)
    inputs: tuple[Frame, ...] = () if first is None else (canvas(render(scene, video.size).image),)
    images = [render(video.scene_at(index), video.size).image for index in following]
    mask = None if first is None else np.any([changed(inputs[0].image, image) for image in images], axis=0)
    mover, motion = next((i, m) for i, m in enumerate(video.motions) if m != STILL)
    facts = {"video": f"world-video-{video.seed}", "frames": list(following), "motion": motion.verb, "mover": mover}
    target = {"room": scene.room, "caption": describe(video.scene)}
    sentence = f"{instruction[0].upper()}{instruction[1:]}."
    return Made(sentence, inputs, tuple(map(result, images)), scene, target, mask, facts)
