"""A weighted mixture of data sets that can be resumed to the sample.

The draws of a run are one numbered sequence. Which data set draw number i takes, and which sample of it, follow from
the seed alone, so the sequence can be dealt to any number of processes, and dealt anew when their number changes.
A *place* says where in it something is: {"draw": a number, "counts": how many draws before it each data set had,
"source": the number of the data set that it takes}.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Sized
from typing import Any

import numpy as np

from unireal.data.records import check_sample
from unireal.data.sources import Source
from unireal.sample import Sample

_FEW = 1000  # records that have to be read before the share of bad ones is taken at its word
_FAR = 1 << 30  # a place in endless streams that training never reaches

_log = logging.getLogger("unireal.data")


class TooManyBadRecordsError(ValueError):
    """More records than allowed cannot be used; the message sums up how many, and the first of them."""


class Mixture:
    """An endless iterator over samples; `state` and `load_state` resume it.

    rank, world_size: this one draws numbers rank, rank + world_size, ... of the common sequence.
    bad_share: a record that cannot be used is told, counted and skipped; TooManyBadRecordsError is raised when more
        than this share of the records (of 1000 records, while fewer are read) was bad.
    """

    def __init__(
        self, sources: Sequence[Source], seed: int = 0, rank: int = 0, world_size: int = 1, bad_share: float = 0.01
    ):
        if not sources:
            raise ValueError("a mixture needs at least one data set; give data.sources")
        self.weights = [s.weight for s in sources]
        self.probabilities = np.array(self.weights) / sum(self.weights)
        self.paths = [s.path for s in sources]
        self.sources = [s.open() for s in sources]
        for path, samples in zip(self.paths, self.sources, strict=True):
            if isinstance(samples, Sized) and not len(samples):
                raise ValueError(f"data set {path!r} has no samples; leave it out")
        self.seed, self.rank, self.world_size, self.bad_share = seed, rank, world_size, bad_share
        self.draw = 0  # how many numbers of the common sequence are used up
        self.counts = [0] * len(sources)  # how many of them each data set had
        self.read, self.bad = 0, 0  # records that were read here, and how many of them were bad
        self.first_bad = ""
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # per data set: number of its pass, and the order there

    def __iter__(self) -> Mixture:
        return self

    def __next__(self) -> Sample:
        return self.next_placed()[1]

    def next_placed(self) -> tuple[dict[str, Any], Sample]:
        """The next good sample, after its place."""
        while True:
            place = self.step()
            if place["draw"] % self.world_size == self.rank and (sample := self.at(place)) is not None:
                return place, sample

    def at(self, place: dict[str, Any]) -> Sample | None:
        """The sample at a place, without going there; None for a bad record."""
        return self.read_checked(*self.record(place))

    def record(self, place: dict[str, Any]) -> tuple[int, int]:
        """The data set of a place, and the number of the record there."""
        # a checkpoint knows the data set; with other weights the same draw would choose another
        source = place["source"] if "source" in place else self._choose(place["draw"])
        return source, self._index(source, place["counts"][source])

    def where(self, source: int, index: int) -> str:
        """Data set, file and row of a record; for messages."""
        return f"{self.paths[source]}, {self._location(source, index)}"

    def _location(self, source: int, index: int) -> str:
        samples = self.sources[source]
        return samples.location(index) if hasattr(samples, "location") else str(index)

    def read_checked(self, source: int, index: int) -> Sample | None:
        """Sample `index` of a data set; None for a bad record, which is told and counted."""
        samples = self.sources[source]
        self.read += 1
        try:
            sample = samples[index]
            check_sample(sample)
        except ValueError as error:
            location = self._location(source, index)
            self._skip(f"{self.paths[source]}, {location}: {str(error).removeprefix(f'{location}: ')}")
            return None
        return sample

    def step(self) -> dict[str, Any]:
        """Uses up one number of the common sequence, and returns its place."""
        source = self._choose(self.draw)
        place = {"draw": self.draw, "counts": list(self.counts), "source": source}
        self.counts[source] += 1
        self.draw += 1
        return place

    def _choose(self, number: int) -> int:
        """The data set that a draw takes."""
        return int(np.random.default_rng((self.seed, number)).choice(len(self.sources), p=self.probabilities))

    def _skip(self, message: str) -> None:
        self.bad += 1
        self.first_bad = self.first_bad or message
        if self.bad > self.bad_share * max(self.read, _FEW):
            raise TooManyBadRecordsError(
                f"{self.bad} of {self.read} records cannot be used, more than the share of {self.bad_share:g} that "
                f"data.bad_share allows; the first is {self.first_bad}"
            )
        _log.warning("skipped a bad record: %s", message)

    def _index(self, source: int, count: int) -> int:
        """The count-th sample of a data set: a new permutation in every pass, or simply the count for a stream."""
        samples = self.sources[source]
        if not isinstance(samples, Sized):
            return count
        length = len(samples)
        turn = count // length
        if self._orders.get(source, (None,))[0] != turn:
            self._orders[source] = turn, np.random.default_rng((self.seed, source, turn)).permutation(length)
        return int(self._orders[source][1][count % length])

    def state(self) -> dict[str, Any]:
        names = ("draw", "counts", "read", "bad", "first_bad", "seed", "weights")
        return {name: getattr(self, name) for name in names} | {"counts": list(self.counts)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes to a place or a state; a place leaves the count of bad records as it is.

        The weights stay: where a state has others, unireal.data.buckets.deal makes one that goes on with these.
        """
        self.draw, self.counts = state["draw"], list(state["counts"])
        self.read, self.bad = state.get("read", self.read), state.get("bad", self.bad)
        self.first_bad = state.get("first_bad", self.first_bad)

    def go_far(self) -> None:
        """Goes to where endless streams hold what training does not reach. Finite data sets have no such place."""
        far = [0 if hasattr(s, "__len__") or getattr(s, "sequential", False) else _FAR for s in self.sources]
        self.load_state({"draw": 0, "counts": far})
