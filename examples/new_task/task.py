"""A new task in one file: show a scene at night.

    python train.py examples/new_task/run.yaml
    python infer.py night --plugin examples/new_task/task.py --lora runs/run/lora \
        --canvas examples/room.png --output night.png
"""

from __future__ import annotations

import numpy as np

from data_builders.world.recipes import world_sample
from unireal.sample import Frame, Role, Sample
from unireal.tasks import CANVAS, TaskSpec, register

NIGHT = register(
    TaskSpec(
        name="night",
        summary="show a scene at night",
        slots=(CANVAS,),
        default_prompt="Show IMG1 at night.",
        edit_types=("overall style change",),
    )
)
MOONLIGHT = (0.25, 0.3, 0.55)  # how much of red, green and blue is left


def at_night(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) by moonlight."""
    return (image * np.array(MOONLIGHT) + 0.5).astype(np.uint8)


class Nights:
    """Endless pairs of a room of the procedural world by day and at night. `unireal.data.mixture` asks for number i."""

    def __init__(self, seed: int = 0, size: tuple[int, int] = (64, 64)):
        self.seed, self.size = seed, tuple(size)

    def __getitem__(self, number: int) -> Sample:
        day = world_sample("t2i", seed=self.seed + number, size=self.size).results[0].image
        night = Frame(at_night(day), Role.RESULT)
        return Sample(NIGHT.name, NIGHT.default_prompt, NIGHT.context, (Frame(day, Role.CANVAS),), (night,))
