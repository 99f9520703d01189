"""A weighted mixture of data sets that can be resumed to the sample.

A data set is anything with `__getitem__(int) -> Sample`; with a length it is shuffled anew in every pass, without one
it is an endless stream. Which data set draw number i takes, and which sample of it, follow from the seed alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from unireal.sample import Sample


class SampleSource(Protocol):
    def __getitem__(self, number: int) -> Sample: ...


@dataclass(frozen=True)
class Source:
    """One data set of a mixture.

    path:   a folder of Parquet shards (unireal.data.records), or "module:Class" of a stream.
    weight: its share of the draws, relative to the others'.
    options: keyword arguments of the stream's class.
    """

    path: str
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"the weight of {self.path!r} must be above 0, got {self.weight}")

    def open(self) -> SampleSource:
        """Raises ValueError if the stream's class or the folder does not exist."""
        if ":" in self.path:
            module, _, name = self.path.partition(":")
            try:
                return getattr(importlib.import_module(module), name)(**self.options)
            except (ImportError, AttributeError) as error:
                raise ValueError(f"no data stream {self.path!r} ({error}); expected 'module:Class'") from error
        from unireal.data.records import ParquetSamples

        return ParquetSamples(self.path)


class Mixture:
    """An endless iterator over samples; `state` and `load_state` resume it.

    rank, world_size: this process draws numbers rank, rank + world_size, ... of the common sequence.
    """

    def __init__(self, sources: Sequence[Source], seed: int = 0, rank: int = 0, world_size: int = 1):
        if not sources:
            raise ValueError("a mixture needs at least one data set; give data.sources")
        weights = np.array([s.weight for s in sources])
        self.probabilities = weights / weights.sum()
        self.sources = [s.open() for s in sources]
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.draw = 0  # how many numbers of the common sequence are used up
        self.counts = [0] * len(sources)  # how many of them each data set had
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # per data set: number of its pass, and the order there

    def __iter__(self) -> Mixture:
        return self

    def __next__(self) -> Sample:
        while True:
            number = self.draw
            source = int(np.random.default_rng((self.seed, number)).choice(len(self.sources), p=self.probabilities))
            count = self.counts[source]
            self.draw += 1
            self.counts[source] += 1
            if number % self.world_size == self.rank:
                return self.sources[source][self._index(source, count)]

    def _index(self, source: int, count: int) -> int:
        """The count-th sample of a data set: a new permutation in every pass, or simply the count for a stream."""
        if not hasattr(self.sources[source], "__len__"):
            return count
        length = len(self.sources[source])
        turn = count // length
        if self._orders.get(source, (None,))[0] != turn:
            self._orders[source] = turn, np.random.default_rng((self.seed, source, turn)).permutation(length)
        return int(self._orders[source][1][count % length])

    def state(self) -> dict[str, Any]:
        return {"draw": self.draw, "counts": list(self.counts)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.draw, self.counts = state["draw"], list(state["counts"])
