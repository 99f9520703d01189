"""Moments of a video, what happens between two of them, and how that is said as an order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from data_builders.world.scene import SEEN_PAIRS, Scene, Thing, enumerate_words
from data_builders.world.video import STILL, WorldVideo

# verb of a Motion: (that of the way back, the same as an order, "{}" being the thing)
_VERBS = {
    "moves to the left": ("moves to the right", "move {} to the left"),
    "moves to the right": ("moves to the left", "move {} to the right"),
    "moves up": ("moves down", "move {} up"),
    "moves down": ("moves up", "move {} down"),
    "grows": ("shrinks", "make {} larger"),
    "shrinks": ("grows", "make {} smaller"),
    "turns clockwise": ("turns counterclockwise", "turn {} clockwise"),
    "turns counterclockwise": ("turns clockwise", "turn {} counterclockwise"),
}


@dataclass(frozen=True)
class Moment:
    """Frame number `index` of a video."""

    video: WorldVideo
    index: int

    @property
    def scene(self) -> Scene:
        return self.video.scene_at(self.index)


def motions_between(first: Moment, last: Moment) -> list[tuple[Thing, str]]:
    """What moves from the one to the other of one video, and its verb; the things are as in `first`."""
    if first.index == last.index:
        return []
    forward = last.index > first.index
    pairs = zip(first.scene.things, first.video.motions, strict=True)
    return [(thing, m.verb if forward else _VERBS[m.verb][0]) for thing, m in pairs if m != STILL]


def reversed_motions(motions: list[tuple[Thing, str]]) -> list[tuple[Thing, str]]:
    return [(thing, _VERBS[verb][0]) for thing, verb in motions]


def as_order(motions: list[tuple[Thing, str]]) -> str:
    """For example "Move the red circle up and make the blue star larger."."""
    words = enumerate_words([_VERBS[verb][1].format(f"the {thing.name}") for thing, verb in motions])
    return f"{words[0].upper()}{words[1:]}."


def recolouring(video: WorldVideo) -> tuple[Thing, Thing]:
    """A thing of the video's first frame, and the same in another colour that is free; never one of UNSEEN_PAIRS."""
    taken = {thing.pair for thing in video.scene.things}
    old = video.scene.things[video.seed % len(video.scene.things)]
    free = [color for color, shape in SEEN_PAIRS if shape == old.shape and (color, shape) not in taken]
    return old, replace(old, color=free[video.seed % len(free)])
