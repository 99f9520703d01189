"""Keys and values that outlive a step: what attention reads for tokens that are not computed.

Axes: B batch, N tokens of the whole sequence, M of them computed, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from unireal.model.embeddings import apply_rotary

Rotary = tuple[torch.Tensor, ...] | None  # one row per token in each; None where positions were added to the tokens
Turn = Callable[[torch.Tensor, Any], torch.Tensor]


@dataclass(frozen=True)
class Blend:
    """SpotFusion: tokens that are kept are attended to as weight * their own key + (1 - weight) * the canvas's.

    kept, reference: int64 (n,), rows of the sequence: kept result tokens and the canvas's tokens at the same places.
    weight:    0..1 of what was stored; recursive: the blend is stored and blended again in the next step.
    """

    kept: torch.Tensor
    reference: torch.Tensor
    weight: float
    recursive: bool


class KeyValueStore:
    """The key/value memory of one guidance branch; a `KeyValueMemory` for the blocks.

    Every token keeps its position, so keys are stored as rotated. Only blending, which mixes keys of different
    positions, needs them as they were before rotation (after the QK norm): `originals` keeps those too.

    filled: for every kind of token ("text", "input", "result"), the last step in which all of the kind were computed.
    turn:   rotates keys by their positions' angles; axis: that of tokens in keys and values, here 2.
    """

    def __init__(self, originals: bool = False, turn: Turn = apply_rotary, axis: int = 2):
        self.filled: dict[str, int] = {}
        self._originals, self._turn_by, self._axis = originals, turn, axis
        self._stored: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # rotated keys and values (B, heads, N, E)
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the same before rotation and blending
        self._rows: torch.Tensor | None = None
        self._rotary: Rotary = None
        self._blend: Blend | None = None

    def begin(self, rows: torch.Tensor | None, rotary: Rotary, blend: Blend | None = None) -> None:
        """Before a pass: the rows (M,) that it computes, None for all; rotary (N, E) of the whole sequence."""
        self._rows, self._rotary, self._blend = rows, rotary, blend

    def exchange(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores new keys and values (B, heads, M, E); returns those of the whole sequence (B, heads, N, E)."""
        turned = self._turn(key, rotary)
        if self._rows is None:
            self._stored[layer] = _copy(turned), _copy(value)
            if self._originals:
                self._before[layer] = _copy(key), _copy(value)
            return turned, value
        stored = self._stored[layer]
        self._write(stored, self._rows, turned, value)
        if self._originals:
            self._write(self._before[layer], self._rows, key, value)
        if self._blend is not None:
            self._apply(self._blend, layer)
        return stored

    def _apply(self, blend: Blend, layer: int) -> None:
        before = self._before[layer]
        key, value = (
            blend.weight * x.index_select(self._axis, blend.kept)
            + (1 - blend.weight) * x.index_select(self._axis, blend.reference)
            for x in before
        )
        if blend.recursive:
            self._write(before, blend.kept, key, value)
        rotary = None if self._rotary is None else tuple(angles[blend.kept] for angles in self._rotary)
        self._write(self._stored[layer], blend.kept, self._turn(key, rotary), value)

    def _turn(self, key: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return key if rotary is None else self._turn_by(key, rotary)

    def _write(
        self, stored: tuple[torch.Tensor, torch.Tensor], rows: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        for old, new in zip(stored, (key, value), strict=True):
            old.index_copy_(self._axis, rows, new.to(old.dtype))


def _copy(x: torch.Tensor) -> torch.Tensor:
    """Of its own memory, heads apart: reading it in every step is faster so."""
    return x.clone(memory_format=torch.contiguous_format)
