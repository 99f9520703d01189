"""Local edits of the procedural world with a chosen share of changed pixels.

The world's recipes change 4% to 27% of a picture. Here one thing of a held-out scene is given the size at which its
recolouring, replacement or removal changes the wanted share. A trained model has not seen things beyond the recipes'
sizes, but the truth is as exact.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data_builders.frames import canvas, result
from data_builders.world.draw import changed
from data_builders.world.render import render
from data_builders.world.scene import COLORS, SEEN_PAIRS, Scene, Thing, sample_scene
from data_builders.world.stream import TEST_SEEDS
from unireal.sample import Sample
from unireal.tasks import TASKS

EDITS = ("recolor", "replace", "remove")


def local_edit(edit: str, area: float, number: int, size: tuple[int, int]) -> Sample:
    """The held-out edit of that number which changes about `area` (0..1) of the pixels; size: (height, width).

    Raises ValueError for another edit than EDITS.
    """
    if edit not in EDITS:
        raise ValueError(f"unknown edit {edit!r}; choose from: {', '.join(EDITS)}")
    seed = TEST_SEEDS + number
    rng = np.random.default_rng([seed, EDITS.index(edit)])
    scene = sample_scene(rng, 1)
    new = _edited(edit, scene.things[0], rng)
    low, high = 0.01, 0.9  # of the radius: the changed area grows with it
    for _ in range(12):
        radius = (low + high) / 2
        before, after = _pictures(scene, new, radius, size)
        low, high = (radius, high) if changed(before, after).mean() < area else (low, radius)
    words = {
        "recolor": f"Make the {scene.things[0].name} {new.color if new else ''}.",
        "replace": f"Replace the {scene.things[0].name} by a {new.name if new else ''}.",
        "remove": f"Remove the {scene.things[0].name}.",
    }
    source = {"recipe": edit, "seed": seed, "radius": radius}
    inputs, results = (canvas(before),), (result(after),)
    return Sample("edit", words[edit], TASKS["edit"].context, inputs, results, changed(before, after), source)


def _edited(edit: str, thing: Thing, rng: np.random.Generator) -> Thing | None:
    if edit == "remove":
        return None
    if edit == "recolor":
        colors = [c for c in COLORS if (c, thing.shape) in SEEN_PAIRS and c != thing.color]
        return replace(thing, color=colors[rng.integers(len(colors))])
    pairs = [(c, s) for c, s in SEEN_PAIRS if s != thing.shape and c != thing.color]
    color, shape = pairs[rng.integers(len(pairs))]
    return replace(thing, color=color, shape=shape)


def _pictures(scene: Scene, new: Thing | None, radius: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Canvas and result, uint8 (H, W, 3), with things of that radius, inside the picture as far as they fit."""
    old, low = scene.things[0], min(radius, 0.5)
    place = {"radius": radius, "x": float(np.clip(old.x, low, 1 - low)), "y": float(np.clip(old.y, low, 1 - low))}
    sized = scene.swap(old, replace(old, **place))
    after = sized.swap(sized.things[0], None if new is None else replace(new, **place))
    return render(sized, size).image, render(after, size).image
