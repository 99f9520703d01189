"""TeaCache (arXiv 2411.19108): a step whose input to the blocks has hardly changed reuses the last residual.

The change of the first block's modulated input predicts, through a polynomial that is fitted to the model
(`python -m unireal.acceleration.fit_teacache`), the change of the residual. Predicted changes add up over the steps;
while their sum is below the threshold, the blocks are skipped.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from unireal.acceleration.base import Acceleration
from unireal.acceleration.skipping import Signal, Skipping
from unireal.diffusion.sampling import Call
from unireal.notices import one_line


def relative_l1(new: torch.Tensor, old: torch.Tensor) -> float:
    """mean |new - old| / mean |old|."""
    return float((new - old).abs().mean() / old.abs().mean().clamp(min=1e-12))


def load_polynomial(path: Path) -> tuple[float, ...]:
    """The coefficients in a file of unireal.acceleration.fit_teacache. Raises ValueError if it is none."""
    try:
        if not path.is_file():  # reading a pipe or a device may never end
            raise FileNotFoundError("no such file")
        return tuple(json.loads(path.read_text())["polynomial"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"teacache: {str(path)!r} holds no polynomial ({one_line(error)}); "
            "make it with python -m unireal.acceleration.fit_teacache"
        ) from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class TeaCache(Acceleration):
    """Skips the blocks in steps whose input has changed little since they last ran.

    threshold:  sum of predicted relative changes below which steps are skipped; 0 skips none.
    polynomial: coefficients, highest power first, from the change of the input to that of the residual, or the file of
                unireal.acceleration.fit_teacache that holds them. They belong to a model; (1, 0) takes the change of
                the input for that of the residual.
    first, last: steps at the start and the end that always run, at least 1 each.
    order:      0 reuses the last residual, 1 extrapolates the last two linearly, and so on.

    Raises ValueError for settings outside these ranges, and for a file that holds no polynomial.
    """

    name: ClassVar[str] = "teacache"
    threshold: float = 0.15
    polynomial: tuple[float, ...] | str | Path = (1.0, 0.0)
    first: int = 1
    last: int = 1
    order: int = 0

    def __post_init__(self) -> None:
        given = self.polynomial
        numbers = load_polynomial(Path(given)) if isinstance(given, str | Path) else given
        if not isinstance(numbers, list | tuple) or not numbers or not all(map(_is_number, numbers)):
            raise ValueError(f"teacache: polynomial must be numbers, highest power first, got {numbers!r}")
        object.__setattr__(self, "polynomial", tuple(numbers))
        if not _is_number(self.threshold) or self.threshold < 0:
            raise ValueError(f"teacache: threshold must be a number of at least 0, got {self.threshold!r}")
        self._check_count("first", "steps", least=1)
        self._check_count("last", "steps", least=1)
        self._check_count("order", "derivatives", least=0)

    def predicted(self, change: float) -> float:
        """The relative change of the residual, at least 0."""
        value = 0.0
        assert isinstance(self.polynomial, tuple)  # __post_init__ has read the file
        for coefficient in self.polynomial:
            value = value * change + coefficient
        return max(value, 0.0)

    def skipping(self, call: Call) -> Skipping:
        return _Accumulated(self, call.num_steps)


class _Accumulated(Skipping):
    def __init__(self, settings: TeaCache, num_steps: int):
        super().__init__(settings.order)
        self.settings = settings
        self.steps = range(settings.first, num_steps - settings.last)
        self.total = 0.0
        self.previous: torch.Tensor | None = None  # the input of the previous step, whether it ran or not

    def wants(self, step: int, signal: Signal) -> bool:
        new, old = signal(), self.previous
        self.previous = new
        if old is None or not len(self.forecast):
            return False
        self.total += self.settings.predicted(relative_l1(new, old))
        return step in self.steps and self.total < self.settings.threshold

    def computed(self, step: int, residual: torch.Tensor) -> None:
        super().computed(step, residual)
        self.total = 0.0

    def gather(self, positions: torch.Tensor) -> None:
        super().gather(positions)
        if self.previous is not None:
            self.previous = self.previous.index_select(1, positions)

    def clear(self) -> None:
        super().clear()
        self.previous = None
