"""Batches of one layout: samples wait in the bucket of their frame sizes and text length until one is full, so that
only text is padded, and that little.

Dropout of text and of input frames for guidance happens here, the latter for whole batches, since it changes
the layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from unireal.data.mixture import Mixture, Source
from unireal.sample import Batch, Layout, Sample
from unireal.transforms import collate

_TEXT_STEP = 80  # characters; about 16 tokens


@dataclass(frozen=True)
class DataConfig:
    """What is trained on.

    sources:      the data sets and their weights.
    batch_size:   samples of a batch and process.
    seed:         of the order of samples.
    text_dropout: share of samples without instruction and context; input_dropout: of batches without input frames;
    context_dropout: share of samples without context prompt alone.
    """

    sources: tuple[Source, ...] = (Source("data_builders.world.stream:WorldStream"),)
    batch_size: int = 64
    seed: int = 0
    text_dropout: float = 0.05
    input_dropout: float = 0.02
    context_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {self.batch_size}")
        for name in ("text_dropout", "input_dropout", "context_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name} is a share in 0..1, got {getattr(self, name)}")


class BucketedBatches(torch.utils.data.IterableDataset):
    """Endless (batch, state) pairs; `state` resumes after that batch. Made for a DataLoader with batch_size=None.

    Samples that wait in a bucket are not saved but drawn again: the state holds where the mixture stood before each.
    """

    def __init__(self, config: DataConfig, rank: int = 0, world_size: int = 1, state: dict[str, Any] | None = None):
        self.config, self.rank, self.world_size, self.initial = config, rank, world_size, state

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, Any]]]:
        mixture = Mixture(self.config.sources, self.config.seed, self.rank, self.world_size)
        buckets: dict[tuple[Layout, int], list[tuple[dict, Sample]]] = {}
        number = 0
        if self.initial is not None:
            number = self.initial["number"]
            for before in self.initial["waiting"]:
                mixture.load_state(before)
                sample = next(mixture)
                buckets.setdefault(_key(sample), []).append((before, sample))
            mixture.load_state(self.initial["mixture"])
        while True:
            before = mixture.state()
            sample = next(mixture)
            bucket = buckets.setdefault(_key(sample), [])
            bucket.append((before, sample))
            if len(bucket) < self.config.batch_size:
                continue
            del buckets[_key(sample)]
            batch = self._batch([s for _, s in bucket], number)
            number += 1
            waiting = [b for full in buckets.values() for b, _ in full]
            yield batch, {"number": number, "mixture": mixture.state(), "waiting": waiting}

    def _batch(self, samples: list[Sample], number: int) -> Batch:
        rng = np.random.default_rng((self.config.seed, self.rank, number))
        without_inputs = rng.random() < self.config.input_dropout
        dropped = []
        for sample in samples:
            if rng.random() < self.config.text_dropout:
                sample = replace(sample, instruction="", context="")
            elif rng.random() < self.config.context_dropout:
                sample = replace(sample, context="")
            dropped.append(replace(sample, inputs=()) if without_inputs else sample)
        return collate(dropped)


def _key(sample: Sample) -> tuple[Layout, int]:
    """Samples of one bucket have frames of the same sizes and texts of about the same length."""
    return sample.layout, len(sample.instruction) // _TEXT_STEP


def batches(
    config: DataConfig, rank: int = 0, world_size: int = 1, state: dict[str, Any] | None = None, workers: int = 1
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """Endless (batch, state) pairs, made ahead in a worker process (workers=1) or here (workers=0)."""
    stream = BucketedBatches(config, rank, world_size, state)
    options = {"num_workers": 1, "prefetch_factor": 4} if workers else {}
    return iter(torch.utils.data.DataLoader(stream, batch_size=None, **options))
