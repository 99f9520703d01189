"""Batches of one layout: samples wait in the bucket of their frame sizes and text length until one is full, so that
only text is padded, and that little.

An optimizer step takes A batches: one for each process and each turn of an accumulation. The common sequence of
samples is dealt to A *lanes*, and every lane makes one batch for every step. So a step sees the same samples whether
its batches are shared out to processes or accumulated in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from unireal.data.encoded import EncodedSample, collate_encoded
from unireal.data.mixture import Mixture
from unireal.data.preparation import CutPrompts, DataConfig, prepared
from unireal.sample import Batch, Layout, Sample
from unireal.transforms import collate

_TEXT_STEP = 80  # characters; about 16 tokens
CutOff = Callable[[str], tuple[int, str]]  # unireal.model.text_encoder.TextEncoder.cut_off


class Lane:
    """Lane `number` of `count`: an endless iterator over batches that can be resumed after any of them.

    Samples that wait in a bucket are not saved but read again: `state` holds the place of each, and of those that are
    still `owed` from before the lanes were dealt anew. `pace` says which step of the stage takes a number of the
    sequence: the number `draw` step `step`, and each of `size` more the next one. With `cut_off`, prompts that are too
    long are told and counted.
    """

    def __init__(
        self,
        config: DataConfig,
        number: int,
        count: int,
        state: dict[str, Any] | None = None,
        cut_off: CutOff | None = None,
    ):
        self.config = config
        self.cut = None if cut_off is None else CutPrompts(cut_off)
        self.mixture = Mixture(config.sources, config.seed, number, count, config.bad_share)
        self.buckets: dict[tuple[Layout, int], list[tuple[dict[str, Any], Sample]]] = {}
        self.owed: list[dict[str, Any]] = []
        self.pace = {"draw": 0, "step": 0.0, "size": config.batch_size * count}
        if state is not None:
            self.pace = _pace_from(state, self.pace)
            for place in state["waiting"]:
                self._put(place, self.mixture.at(place))
            self.mixture.load_state(state["mixture"])
            self.owed = list(state.get("owed", ()))
            if self.cut is not None:
                self.cut.count = state.get("cut", 0)

    def __iter__(self) -> Lane:
        return self

    def __next__(self) -> Batch:
        while True:
            if self.owed:
                place = self.owed.pop(0)
                sample = self.mixture.at(place)
            else:
                place, sample = self.mixture.next_placed()
            key = self._put(place, sample)
            # Samples that waited at a resume may overfill a bucket, with other weights or smaller batches.
            if key is not None and len(self.buckets[key]) >= self.config.samples_of(key[0]):
                return self._batch(self._taken(key))

    def state(self) -> dict[str, Any]:
        waiting = [place for bucket in self.buckets.values() for place, _ in bucket]
        waiting.sort(key=lambda place: place["draw"])  # streams are read in order
        state = {"mixture": self.mixture.state(), "waiting": waiting, "owed": list(self.owed), "pace": self.pace}
        return state if self.cut is None else state | {"cut": self.cut.count}

    def _put(self, place: dict[str, Any], sample: Sample | None) -> tuple[Layout, int] | None:
        """Puts a sample into its bucket and returns the bucket's key; None for a record that was bad."""
        if sample is None:
            return None
        number = place["draw"]
        sample = prepared(sample, number, _step_of(number, self.pace), self.config)
        if self.cut is not None:
            self.cut.check(sample, lambda: self.mixture.where(*self.mixture.record(place)))
        key = sample.layout, len(sample.instruction) // _TEXT_STEP
        self.buckets.setdefault(key, []).append((place, sample))
        return key

    def _taken(self, key: tuple[Layout, int]) -> list[tuple[dict[str, Any], Sample]]:
        """One batch of a bucket; what is left waits on."""
        bucket, size = self.buckets.pop(key), self.config.samples_of(key[0])
        if len(bucket) > size:
            self.buckets[key] = bucket[size:]
        return bucket[:size]

    def _batch(self, bucket: list[tuple[dict[str, Any], Sample]]) -> Batch:
        samples = [sample for _, sample in bucket]
        encoded = [sample for sample in samples if isinstance(sample, EncodedSample)]
        if 0 < len(encoded) < len(samples):
            raise ValueError("data.sources mixes precomputed latents with pictures; precompute all of them or none")
        batch = collate_encoded(encoded) if encoded else collate(samples)
        batch.numbers = [place["draw"] for place, _ in bucket]
        return batch


def _step_of(number: int, pace: dict[str, Any]) -> float:
    return pace["step"] + (number - pace["draw"]) / pace["size"]


def _pace_from(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The pace of a state, which changes there if steps take more or fewer samples now."""
    before, draw = state.get("pace", own), state["mixture"]["draw"]
    return before if before["size"] == own["size"] else own | {"draw": draw, "step": _step_of(draw, before)}


class BucketedBatches(torch.utils.data.IterableDataset):
    """Endless (batch, state) pairs of one process; `state` resumes after that batch. Made for a DataLoader with
    batch_size=None.

    turns: batches of an optimizer step in this process; its lanes are rank, rank + world_size, ..., one for each turn.
    state: one lane's state for each turn.
    """

    def __init__(
        self,
        config: DataConfig,
        rank: int = 0,
        world_size: int = 1,
        state: Sequence[dict[str, Any]] | None = None,
        turns: int = 1,
        cut_off: CutOff | None = None,
    ):
        self.config, self.initial, self.cut_off = config, state, cut_off
        self.lanes, self.count = [rank + turn * world_size for turn in range(turns)], turns * world_size

    def __iter__(self) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
        states = self.initial or (None,) * len(self.lanes)
        lanes = [Lane(self.config, n, self.count, s, self.cut_off) for n, s in zip(self.lanes, states, strict=True)]
        while True:
            for lane in lanes:
                batch = next(lane)
                yield batch, [lane.state() for lane in lanes]


def deal(states: Sequence[dict[str, Any]], count: int, config: DataConfig) -> list[dict[str, Any]]:
    """States of `count` lanes that go on where len(states) lanes stopped, so that every sample is seen exactly once.

    Lanes do not stop at the same number of the sequence. What some of them waited with, or had not reached yet, is
    owed: the new lanes take it first. So it is when the weights change: up to the farthest lane the former ones hold.
    """
    weights = [source.weight for source in config.sources]
    weights_before = states[0]["mixture"].get("weights", weights)
    if len(states) == count and weights_before == weights:
        return list(states)
    sources = [replace(s, weight=weight) for s, weight in zip(config.sources, weights_before, strict=True)]
    mixture = Mixture(sources, config.seed)
    owed = [place for state in states for place in (*state["waiting"], *state.get("owed", ()))]
    ahead = max(states, key=lambda state: state["mixture"]["draw"])
    farthest = ahead["mixture"]
    for lane, state in enumerate(states):
        mixture.load_state(state["mixture"])
        while mixture.draw < farthest["draw"]:
            place = mixture.step()
            if place["draw"] % len(states) == lane:
                owed.append(place)
    owed.sort(key=lambda place: place["draw"])
    read, bad = (sum(state["mixture"].get(name, 0) for state in states) for name in ("read", "bad"))
    cut = sum(state.get("cut", 0) for state in states)
    first = next((m["first_bad"] for m in (state["mixture"] for state in states) if m.get("first_bad")), "")
    start = {"draw": farthest["draw"], "counts": farthest["counts"], "first_bad": first}
    dealt = []
    for lane in range(count):
        counted = {"read": len(range(lane, read, count)), "bad": len(range(lane, bad, count))}
        rest = {"owed": owed[lane::count], "cut": len(range(lane, cut, count))}
        dealt.append(ahead | {"mixture": start | counted, "waiting": []} | rest)
    return dealt


class _Stopped:
    """Takes an error from a worker process to this one, which it otherwise reaches with the worker's traceback."""

    def __init__(self, error: ValueError):
        self.error = error


class _Guarded(torch.utils.data.IterableDataset):
    def __init__(self, stream: BucketedBatches):
        self.stream = stream

    def __iter__(self) -> Iterator[tuple[Batch, list[dict[str, Any]]] | _Stopped]:
        try:
            yield from self.stream
        except ValueError as error:
            yield _Stopped(error)


def batches(
    config: DataConfig,
    rank: int = 0,
    world_size: int = 1,
    state: Sequence[dict[str, Any]] | None = None,
    workers: int = 1,
    turns: int = 1,
    cut_off: CutOff | None = None,
) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
    """Endless (batch, state) pairs, made ahead in a worker process (workers=1) or here (workers=0).

    cut_off: of the text encoder that is trained with, for prompts that it does not read to their end.

    Raises TooManyBadRecordsError, a ValueError, if the data is not worth going on.
    """
    stream = _Guarded(BucketedBatches(config, rank, world_size, state, turns, cut_off))
    options: dict[str, Any] = {"num_workers": 1, "prefetch_factor": 4} if workers else {}
    for made in torch.utils.data.DataLoader(stream, batch_size=None, **options):
        if isinstance(made, _Stopped):
            raise made.error
        yield made
