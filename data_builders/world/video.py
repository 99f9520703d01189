"""Scenes in motion: short videos with exact captions, masks, tracks and depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from data_builders.world.render import Rendering, render
from data_builders.world.scene import Scene, sample_scene


@dataclass(frozen=True)
class WorldVideo:
    """scenes: one per frame. mover: index of the thing that moves most and that the caption is about."""

    scenes: tuple[Scene, ...]
    mover: int
    caption: str

    @classmethod
    def draw(cls, rng: np.random.Generator, scene: Scene, num_frames: int) -> WorldVideo:
        """Lets one thing of the scene move by about a third of the picture, turn and grow; the others drift a little."""
        mover = int(rng.integers(len(scene.things)))
        motions = [rng.uniform(-0.02, 0.02, 2) for _ in scene.things]
        way, step = list(_WAYS.items())[rng.integers(len(_WAYS))]
        start = scene.things[mover]
        end = np.clip(np.array([start.x, start.y]) + np.array(step) * rng.uniform(0.25, 0.35), 0.12, 0.88)
        motions[mover] = end - (start.x, start.y)
        spin, growth = float(rng.uniform(-0.3, 0.3)), float(rng.uniform(0.9, 1.1))
        scenes = []
        for share in np.linspace(0, 1, num_frames):
            things = []
            for i, (thing, motion) in enumerate(zip(scene.things, motions, strict=True)):
                moved = replace(thing, x=thing.x + float(share * motion[0]), y=thing.y + float(share * motion[1]))
                if i == mover:
                    moved = replace(
                        moved, angle=thing.angle + share * spin, radius=thing.radius * (1 + share * (growth - 1))
                    )
                things.append(moved)
            scenes.append(replace(scene, things=tuple(things)))
        return cls(tuple(scenes), mover, f"The {start.name} moves {way}.")

    @classmethod
    def from_seed(cls, seed: int, num_frames: int = 16, photo_share: float = 0.0) -> WorldVideo:
        rng = np.random.default_rng((seed, 1 << 20))
        return cls.draw(rng, sample_scene(rng, photo_share=photo_share), num_frames)

    def frames(self, size: tuple[int, int] = (64, 64)) -> list[Rendering]:
        """Every frame with its masks (one per thing) and depth."""
        return [render(scene, size) for scene in self.scenes]

    @cached_property
    def tracks(self) -> np.ndarray:
        """Centres of all things, float32 (frames, things, 2), x and y as fractions of the picture."""
        return np.array([[(t.x, t.y) for t in scene.things] for scene in self.scenes], np.float32)


_WAYS = {
    "to the left": (-1.0, 0.0),
    "to the right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
