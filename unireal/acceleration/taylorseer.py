"""TaylorSeer (arXiv 2503.06923): the blocks run every few steps; between, their residual is extrapolated.

The published method extrapolates every module of every layer. Here it is the residual of the whole stack (see
unireal.acceleration.skipping), which needs (order + 1) tensors for each guidance branch instead of for each module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from unireal.acceleration.base import Acceleration
from unireal.acceleration.skipping import Signal, Skipping
from unireal.diffusion.sampling import Call


@dataclass(frozen=True)
class TaylorSeer(Acceleration):
    """Runs the blocks every few steps, and extrapolates what they add in the steps between.

    interval: one step in so many runs the blocks; 1 is every step, as without plug-in.
    order:    of the extrapolation; it needs order + 1 computed steps, and is lower until there are as many.
    first:    steps at the start that always run, at least 1. The last step always runs.

    Raises ValueError for settings outside these ranges.
    """

    name: ClassVar[str] = "taylorseer"
    interval: int = 4
    order: int = 1
    first: int = 3

    def __post_init__(self) -> None:
        self._check_count("interval", "steps", least=1)
        self._check_count("order", "derivatives", least=0)
        self._check_count("first", "steps", least=1)

    def skipping(self, call: Call) -> Skipping:
        return _Extrapolated(self)


class _Extrapolated(Skipping):
    def __init__(self, settings: TaylorSeer):
        super().__init__(settings.order)
        self.settings = settings
        self.last_run = -1

    def wants(self, step: int, signal: Signal) -> bool:
        due = step - self.last_run >= self.settings.interval
        return bool(len(self.forecast)) and step >= self.settings.first and not due

    def computed(self, step: int, residual: torch.Tensor) -> None:
        super().computed(step, residual)
        self.last_run = step
