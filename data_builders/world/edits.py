"""Recipes that start from a canvas and change it: edits by words, insertion, new clothes, the next frame of a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from data_builders.frames import asset, canvas, mask_frame, result
from data_builders.world.draw import Draw, Made, changed, changed_picture
from data_builders.world.render import pattern_swatch, render, render_asset
from data_builders.world.scene import (
    COLORS,
    PATTERNS,
    ROOMS,
    SIZES,
    Scene,
    Thing,
    sample_angle,
    sample_pattern,
)
from data_builders.world.video import STILL, TRAVEL, WorldVideo


@dataclass(frozen=True)
class Edit:
    """One change of a scene in words.

    target: the thing that changes, as it was (None: it is new, or the room changes); outcome: the thing afterwards.
    """

    instruction: str
    before: Scene
    after: Scene
    target: Thing | None
    outcome: Thing | None

    @property
    def facts(self) -> dict:
        """The target's facts (those of the outcome where it is new), and the outcome's under "after"."""
        thing = self.target or self.outcome
        facts = thing.facts() if thing else {"room": self.before.room}
        after = {"room": self.after.room} if thing is None else self.outcome and self.outcome.facts()
        return facts | {"after": after}


def change(draw: Draw, templates: tuple[str, ...], scene: Scene, old: Thing, new: Thing | None, **words: str) -> Edit:
    """One thing becomes another, or goes, in the words of one of the templates; {thing} is its name."""
    instruction = draw.pick(templates).format(thing=old.name, **words)
    return Edit(instruction, scene, scene.swap(old, new), old, new)


def recolor(draw: Draw, alike: bool = False) -> Edit:
    """Another colour, the same pattern. alike: that of another thing, if there is one that can be had."""
    scene = draw.scene(photos=True)
    old = draw.target(scene)
    colors = [c for c, shape in draw.free_pairs(scene) if shape == old.shape]
    present = {thing.color for thing in scene.things} if alike else set()
    color = draw.pick([c for c in colors if c in present] or colors)
    templates = (
        "Make the {thing} {color}.",
        "Change the color of the {thing} to {color}.",
        "Paint the {thing} {color}.",
    )
    return change(draw, templates, scene, old, replace(old, color=color), color=color)


def remove(draw: Draw) -> Edit:
    """The thing and its shadow go."""
    scene = draw.scene(photos=True)
    templates = ("Remove the {thing}.", "Delete the {thing} from IMG1.", "Take the {thing} away.")
    return change(draw, templates, scene, draw.target(scene), None)


def add(draw: Draw) -> Edit:
    """A new plain thing at the exact centre of a free cell."""
    scene = draw.scene(photos=True, unseen=False)
    color, shape = draw.pick(draw.free_pairs(scene, new=True))
    new = Thing(shape, color, radius=SIZES[draw.pick(SIZES)]).at(draw.pick(scene.free_positions()))
    templates = (
        "Add {phrase} at the {position}.",
        "Put {phrase} at the {position}.",
        "Add {phrase} to the {position} of IMG1.",
    )
    instruction = draw.pick(templates).format(phrase=new.phrase, position=new.position_word)
    return Edit(instruction, scene, scene.add(new), None, new)


def move(draw: Draw) -> Edit:
    """To the exact centre of a free cell."""
    scene = draw.scene(photos=True)
    old = draw.target(scene)
    position = draw.pick(scene.free_positions())
    templates = (
        "Move the {thing} to the {position}.",
        "Put the {thing} at the {position}.",
        "Shift the {thing} to the {position}.",
    )
    return change(draw, templates, scene, old, old.at(position), position=position)


def substitute(draw: Draw) -> Edit:
    """Another shape of the same colour, pattern, size and place, upright."""
    scene = draw.scene(photos=True)
    old = draw.target(scene)
    shape = draw.pick(s for color, s in draw.free_pairs(scene) if color == old.color)
    templates = (
        "Replace the {thing} with a {shape}.",
        "Turn the {thing} into a {shape}.",
        "Replace the {thing} by a {color} {shape}.",
    )
    return change(draw, templates, scene, old, replace(old, shape=shape, angle=0.0), shape=shape, color=old.color)


def repaint_room(draw: Draw) -> Edit:
    """Another hue of the room, whose patterns stay."""
    scene = draw.scene()
    room = draw.pick(r for r in ROOMS if r != scene.room)
    templates = ("Change the room to {room}.", "Make the room {room}.", "Change the background of IMG1 to {room}.")
    return Edit(draw.pick(templates).format(room=room), scene, replace(scene, room=room), None, None)


def resize(draw: Draw) -> Edit:
    """Small to large or back; the centre stays."""
    scene = draw.scene(photos=True)
    old = draw.target(scene)
    word, size = ("larger", "large") if old.size_word == "small" else ("smaller", "small")
    templates = ("Make the {thing} {word}.", "Change the size of the {thing} to {size}.", "Make the {thing} {size}.")
    return change(draw, templates, scene, old, replace(old, radius=SIZES[size]), word=word, size=size)


Edits = Callable[[Draw], Edit]
EDITS: tuple[Edits, ...] = (recolor, remove, add, move, substitute, repaint_room, resize)


def edit_sample(draw: Draw, edit: Edits) -> Made:
    """canvas -> edited canvas."""
    done = edit(draw)
    before, after = render(done.before, draw.size).image, render(done.after, draw.size).image
    return changed_picture(done.instruction, before, after, done.before, done.facts)


def edit_mask(draw: Draw) -> Made:
    """canvas -> edited canvas, and the mask of the edited region."""
    edit = draw.pick(EDITS)
    made = edit_sample(draw, edit)
    instruction = f"{made.instruction.rstrip('.')}; Predict the mask of the edited region in RES2."
    facts = {"edit": edit.__name__}
    assert made.mask is not None  # an edit tells where
    return replace(made, instruction=instruction, results=(*made.results, mask_frame(made.mask)), facts=facts)


def insert(draw: Draw) -> Made:
    """canvas, asset -> the asset's thing, upright, at the exact centre of a free cell; large if no size is named."""
    scene = draw.scene(photos=True, unseen=False)
    color, shape = draw.pick(draw.free_pairs(scene, new=True))
    named = draw.chance(0.75)
    size = draw.pick(SIZES) if named else "large"
    new = Thing(shape, color, sample_pattern(draw.rng), radius=SIZES[size]).at(draw.pick(scene.free_positions()))
    shown = replace(new, angle=sample_angle(draw.rng, upright=0.5))
    templates = (
        "Add the object from IMG2 to IMG1 at the {position}{size}.",
        "Put the object from IMG2 into IMG1 at the {position}{size}.",
        "Insert the object from IMG2 at the {position} of IMG1{size}.",
    )
    instruction = draw.pick(templates).format(position=new.position_word, size=f", {size}" if named else "")
    before, after = render(scene, draw.size).image, render(scene.add(new), draw.size).image
    inputs = (canvas(before), asset(render_asset(shown, draw.asset_size)))
    target = new.facts() | {"after": new.facts()}
    return Made(instruction, inputs, (result(after),), scene, target, changed(before, after))


def tryon(draw: Draw) -> Made:
    """canvas, swatch -> the thing in the swatch's colour and pattern."""
    scene = draw.scene(photos=True)
    old = draw.target(scene)
    free = {color for color, shape in draw.free_pairs(scene) if shape == old.shape}
    new = replace(old, color=draw.pick(c for c in COLORS if c in free), pattern=draw.pick(PATTERNS))
    templates = (
        "Dress the {thing} of IMG1 in the pattern of IMG2.",
        "Put the pattern of IMG2 on the {thing} of IMG1.",
        "Give the {thing} the pattern of IMG2.",
    )
    edit = change(draw, templates, scene, old, new)
    before, after = render(scene, draw.size).image, render(edit.after, draw.size).image
    inputs = (canvas(before), asset(pattern_swatch(new, draw.asset_size)))
    return Made(edit.instruction, inputs, (result(after),), scene, edit.facts, changed(before, after))


def frame2frame(draw: Draw) -> Made:
    """The first and the last frame of a video in which one thing moves by a fixed amount."""
    seed = int(draw.rng.integers(2**31))
    video = WorldVideo(seed, draw.size, 2, movers=1, travel=TRAVEL, unseen=draw.unseen, photo_share=draw.photo_share)
    index = next(i for i, motion in enumerate(video.motions) if motion != STILL)
    first, last = video.scene_at(0), video.scene_at(1)
    target = first.things[index].facts() | {"after": last.things[index].facts()}
    words = video.motion_caption
    instruction = draw.pick(
        (f"{words[0].upper()}{words[1:]}.", f"In the next frame {words}.", f"A moment later {words}.")
    )
    before, after = (r.image for r in video)
    facts = {"video": f"world-video-{seed}", "frames": [0, 1], "motion": video.motions[index].verb}
    return changed_picture(instruction, before, after, first, target, facts)
