"""Short videos of the world: things move, grow, shrink and turn, and hide one another, and all is known exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from data_builders.world.render import Rendering, render
from data_builders.world.scene import SIZES, Scene, Thing, describe, enumerate_words, sample_scene

TRAVEL = 0.15  # fraction of the picture that a small motion covers
TURN = math.radians(40)  # and that a turn does
_MARGIN = 0.1


@dataclass(frozen=True)
class Motion:
    """How a thing changes from the first to the last frame, linearly in time.

    verb: "moves to the left"; dx, dy: fractions of width and height; growth: radius added; turn: radians, clockwise.
    """

    verb: str
    dx: float = 0.0
    dy: float = 0.0
    growth: float = 0.0
    turn: float = 0.0

    def apply(self, thing: Thing, time: float) -> Thing:
        """The thing at `time` in 0..1."""
        return replace(
            thing,
            x=thing.x + time * self.dx,
            y=thing.y + time * self.dy,
            radius=thing.radius + time * self.growth,
            angle=thing.angle + time * self.turn,
        )


STILL = Motion("stays")


def possible_motions(thing: Thing, travel: float) -> list[Motion]:
    """Motions that are visible and keep the thing's centre inside the picture."""
    growth = SIZES["large"] - SIZES["small"]
    motions = [
        Motion("moves to the left", dx=-travel),
        Motion("moves to the right", dx=travel),
        Motion("moves up", dy=-travel),
        Motion("moves down", dy=travel),
        Motion("grows", growth=growth) if thing.size_word == "small" else Motion("shrinks", growth=-growth),
    ]
    if thing.shape != "circle":
        motions += [Motion("turns clockwise", turn=TURN), Motion("turns counterclockwise", turn=-TURN)]
    low, high = _MARGIN, 1.0 - _MARGIN
    return [m for m in motions if low <= thing.x + m.dx <= high and low <= thing.y + m.dy <= high]


class WorldVideo:
    """A video of one scene, the same for the same arguments.

    size: (height, width) in pixels; num_frames: at least 2.
    movers: how many things move, at least 1, None for a random number.
    travel: fraction of the picture that moving things cross from the first to the last frame, None for a random one.
    unseen, photo_share: as in sample_scene.
    Raises ValueError for fewer than 2 frames or movers below 1.

    scene: that of the first frame; motions: one per thing, in the scene's order.
    """

    def __init__(
        self,
        seed: int,
        size: tuple[int, int] = (64, 64),
        num_frames: int = 16,
        *,
        movers: int | None = None,
        travel: float | None = None,
        unseen: bool = False,
        photo_share: float = 0.0,
    ) -> None:
        if num_frames < 2:
            raise ValueError(f"a video has at least 2 frames, got {num_frames}; ask for more, or render a scene")
        if movers is not None and movers < 1:
            raise ValueError(f"in a video at least 1 thing moves, got movers={movers}; render a scene for a still one")
        rng = np.random.default_rng((seed, num_frames))
        self.seed, self.size, self.num_frames = seed, size, num_frames
        self.scene: Scene = sample_scene(rng, unseen=unseen, photo_share=photo_share)
        travel = float(rng.uniform(TRAVEL, 3 * TRAVEL)) if travel is None else travel
        count = len(self.scene.things)
        # An unseen pair comes first in its scene, and it is what the video is about.
        order = [0, *range(1, count)] if unseen else [int(i) for i in rng.permutation(count)]
        moving = order[: int(rng.integers(1, count + 1)) if movers is None else movers]
        self.motions: list[Motion] = []
        for index, thing in enumerate(self.scene.things):
            options = possible_motions(thing, travel)
            self.motions.append(options[int(rng.integers(len(options)))] if index in moving else STILL)

    @property
    def caption(self) -> str:
        """For example "a sand room with a large red circle at the left; the red circle moves up"."""
        return f"{describe(self.scene)}; {self.motion_caption}"

    @property
    def motion_caption(self) -> str:
        """For example "the red circle moves up and the blue star grows"."""
        moving = [(t, m) for t, m in zip(self.scene.things, self.motions, strict=True) if m != STILL]
        return enumerate_words([f"the {thing.name} {motion.verb}" for thing, motion in moving])

    def scene_at(self, index: int) -> Scene:
        """The scene of frame 0..num_frames - 1."""
        time = index / (self.num_frames - 1)
        things = (motion.apply(thing, time) for thing, motion in zip(self.scene.things, self.motions, strict=True))
        return replace(self.scene, things=tuple(things))

    @cached_property
    def renderings(self) -> list[Rendering]:
        return [render(self.scene_at(i), self.size) for i in range(self.num_frames)]

    @property
    def frames(self) -> np.ndarray:
        """uint8 (T, H, W, 3) RGB."""
        return np.stack([r.image for r in self.renderings])

    @property
    def masks(self) -> np.ndarray:
        """bool (T, K, H, W): where each of the K things is visible."""
        return np.stack([np.stack(r.masks) for r in self.renderings])

    @property
    def depth(self) -> np.ndarray:
        """float32 (T, H, W), world units."""
        return np.stack([r.depth for r in self.renderings])

    @property
    def tracks(self) -> np.ndarray:
        """float32 (T, K, 2): x, y in pixels of each thing's centre, visible or not."""
        height, width = self.size
        scenes = [self.scene_at(i) for i in range(self.num_frames)]
        return np.array([[(t.x * width, t.y * height) for t in s.things] for s in scenes], np.float32)

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[Rendering]:
        return iter(self.renderings)
