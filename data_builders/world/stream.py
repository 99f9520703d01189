"""Endless samples of the procedural world, addressed by number, for training."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_builders.world.recipes import TRAINED, get_recipe, world_sample
from unireal.sample import Sample

TEST_SEEDS = 1 << 40  # seeds from here on are for evaluation; training never reaches them


class WorldStream:
    """Sample number i, drawn by the recipes' weights.

    recipes: which recipes, by default all that are trained; sizes: (H, W) of frames, one drawn per sample; seed:
    another seed, other samples; photo_share: how many scenes have a photograph as background; tint_share: how many
    things whose colour the text leaves to a picture have any colour at all.
    Raises ValueError for recipes that are for evaluation only.
    """

    def __init__(
        self,
        seed: int = 0,
        recipes: tuple[str, ...] | None = None,
        sizes: tuple[tuple[int, int], ...] = ((64, 64),),
        photo_share: float = 0.0,
        tint_share: float = 0.0,
    ):
        self.names = tuple(recipes or TRAINED)
        weights = np.array([get_recipe(name).weight for name in self.names])
        if untrained := [name for name in self.names if name not in TRAINED]:
            raise ValueError(f"recipes {', '.join(untrained)} are for evaluation only; leave them out")
        self.probabilities = weights / weights.sum()
        self.seed, self.sizes = seed, tuple((height, width) for height, width in sizes)
        self.photo_share, self.tint_share = photo_share, tint_share

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng((self.seed, number))
        name = self.names[rng.choice(len(self.names), p=self.probabilities)]
        size = self.sizes[rng.integers(len(self.sizes))]
        seed = int(rng.integers(TEST_SEEDS))
        return world_sample(name, seed, size, photo_share=self.photo_share, tint_share=self.tint_share)


class WorldPool(WorldStream):
    """The first `count` samples of a stream, again in every pass: a finite data set, of which smaller ones are parts.

    count: at least 1, else ValueError; all other options as in WorldStream.
    """

    def __init__(self, count: int, **options: Any):
        if count < 1:
            raise ValueError(f"a pool holds at least 1 sample, got count={count}; give a positive number")
        super().__init__(**options)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Sample:
        """Raises IndexError beyond the last one."""
        if not 0 <= number < self.count:
            raise IndexError(f"sample {number} of a pool of {self.count}")
        return super().__getitem__(number)
