"""What all recipes share: the random choices of one sample, and where pictures differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_builders.frames import canvas, result
from data_builders.world.scene import (
    SEEN_PAIRS,
    UNSEEN_PAIRS,
    Scene,
    T,
    Thing,
    pick,
    sample_scene,
)
from unireal.sample import Frame


@dataclass(frozen=True)
class Draw:
    """The random choices of one sample.

    rng: the only source of chance; size: (height, width) in pixels of canvases and results.
    unseen: the sample is about one of UNSEEN_PAIRS; photo_share: how likely backgrounds are photographs, 0..1.
    tint_share: how likely things whose colour the text leaves to a picture have any colour at all, 0..1.
    """

    rng: np.random.Generator
    size: tuple[int, int]
    unseen: bool = False
    photo_share: float = 0.0
    tint_share: float = 0.0

    @property
    def asset_size(self) -> tuple[int, int]:
        """Half of `size`."""
        return max(8, self.size[0] // 2), max(8, self.size[1] // 2)

    def pick(self, options: Iterable[T]) -> T:
        return pick(self.rng, options)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def scene(self, num_things: int | None = None, *, photos: bool = False, unseen: bool | None = None) -> Scene:
        """A scene whose first thing is an unseen pair if the sample is about one."""
        unseen = self.unseen if unseen is None else unseen
        return sample_scene(self.rng, num_things, unseen=unseen, photo_share=self.photo_share * photos)

    def target(self, scene: Scene) -> Thing:
        """The thing that the sample is about."""
        return scene.things[0] if self.unseen else self.pick(scene.things)

    def free_pairs(self, scene: Scene, *, new: bool = False) -> list[tuple[str, str]]:
        """(color, shape) pairs that the scene does not hold. new: for a thing that the sample brings in."""
        unseen_only = self.unseen and new
        pairs = UNSEEN_PAIRS if unseen_only else SEEN_PAIRS + UNSEEN_PAIRS * self.unseen
        taken = {thing.pair for thing in scene.things}
        return [pair for pair in pairs if pair not in taken]


@dataclass(frozen=True)
class Made:
    """What a recipe makes: a sample without its origin, and the scene of its truth.

    scene: the canvas's, or the first result's where there is no canvas.
    target: JSON-serialisable facts about what is edited, asked for or brought in.
    facts: further JSON-serialisable facts.
    """

    instruction: str
    inputs: tuple[Frame, ...]
    results: tuple[Frame, ...]
    scene: Scene
    target: dict[str, Any]
    mask: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def changed_picture(
    instruction: str,
    before: np.ndarray,
    after: np.ndarray,
    scene: Scene,
    target: dict[str, Any],
    facts: dict[str, Any] | None = None,
) -> Made:
    """One canvas, one result, both uint8 (H, W, 3), and where they differ."""
    frames = (canvas(before),), (result(after),)
    return Made(instruction, *frames, scene, target, changed(before, after), facts or {})


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """bool (H, W): where two pictures uint8 (H, W, 3) differ, and one pixel around."""
    return dilate((before != after).any(axis=2))


def dilate(mask: np.ndarray) -> np.ndarray:
    """bool (H, W) grown by one pixel in all eight directions."""
    tall = mask.copy()
    tall[1:] |= mask[:-1]
    tall[:-1] |= mask[1:]
    wide = tall.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide
