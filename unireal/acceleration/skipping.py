"""Steps in which no block runs: when, and what the blocks would have added.

Both plug-ins that do so look at the residual of the whole stack of blocks, its output minus its input, of the result
tokens only; so memory is (order + 1) tensors (B, n, D) for each guidance branch, whatever the depth.

Axes: B batch, n computed result tokens, D model width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

Signal = Callable[[], torch.Tensor]  # makes the modulated input of the first block, (B, n, D)


class Forecast:
    """The polynomial through the last order + 1 values of a sequence.

    Of order 0 it is the last value, of order 1 a line: TaylorSeer's prediction (arXiv 2503.06923). Beyond, TaylorSeer
    takes backward differences for derivatives, which is off by their spacing; the polynomial is exact for any spacing.
    """

    def __init__(self, order: int):
        self._points: deque[tuple[int, torch.Tensor]] = deque(maxlen=order + 1)

    def __len__(self) -> int:
        return len(self._points)

    def add(self, step: int, value: torch.Tensor) -> None:
        self._points.append((step, value))

    def predict(self, step: int) -> torch.Tensor:
        """The value at a step, by Lagrange's formula; there must be at least one."""
        total: torch.Tensor | None = None
        for i, (at, value) in enumerate(self._points):
            weight = 1.0
            for j, (other, _) in enumerate(self._points):
                weight *= (step - other) / (at - other) if i != j else 1.0
            total = weight * value if total is None else total + weight * value
        if total is None:
            raise ValueError("nothing to predict from; add a value first")
        return total

    def gather(self, positions: torch.Tensor) -> None:
        """Goes on with the tokens at these positions of dimension 1 only."""
        self._points = deque(((s, v.index_select(1, positions)) for s, v in self._points), self._points.maxlen)

    def clear(self) -> None:
        self._points.clear()


class Skipping:
    """State of one guidance branch. Every step calls `follow`, `wants`, and then either `residual` or `computed`."""

    def __init__(self, order: int = 0):
        self.forecast = Forecast(order)
        self._tokens: torch.Tensor | None = None

    def wants(self, step: int, signal: Signal) -> bool:
        """Whether the step may be skipped. It is asked in every step, also in those that run in any case."""
        raise NotImplementedError

    def residual(self, step: int) -> torch.Tensor:
        """What the blocks are taken to add in a skipped step, (B, n, D)."""
        return self.forecast.predict(step)

    def computed(self, step: int, residual: torch.Tensor) -> None:
        """Takes what the blocks did add, (B, n, D)."""
        self.forecast.add(step, residual)

    def follow(self, tokens: torch.Tensor) -> None:
        """Takes the ascending ids (n,) of the computed result tokens. If there are fewer than before, state goes on
        with those; if there are others, it starts anew."""
        old, self._tokens = self._tokens, tokens
        if old is None or torch.equal(old, tokens):
            return
        positions = torch.searchsorted(old, tokens).clamp(max=len(old) - 1)
        if torch.equal(old[positions], tokens):
            self.gather(positions)
        else:
            self.clear()

    def gather(self, positions: torch.Tensor) -> None:
        self.forecast.gather(positions)

    def clear(self) -> None:
        self.forecast.clear()
