"""The data sets of a mixture: where each one lies and how it is opened.

| path                          | what                                                                               |
|-------------------------------|------------------------------------------------------------------------------------|
| a folder of .parquet files    | records (unireal.data.records), or latents (unireal.data.encoded); read at random  |
| a folder of .tar files, or a.tar | WebDataset-style archives, streamed (unireal.data.streams)                      |
| owner/name                    | a data set of the Hugging Face hub, streamed                                       |
| module:Class, file.py:Class   | a class with `__getitem__(number) -> Sample`; with `__len__` too if it is finite   |
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unireal.data.records import ParquetSamples
from unireal.plugins import load_object
from unireal.sample import Sample
from unireal.tasks import get_task

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class SampleSource(Protocol):
    """Samples by number. With `__len__` it is shuffled anew in every pass, without one it is an endless stream.

    Optional: `location(number) -> str` names a sample in messages; `sequential = True` says that high numbers are only
    reached by reading all before.
    """

    def __getitem__(self, number: int) -> Sample: ...


@dataclass(frozen=True)
class Source:
    """One data set of a mixture."""

    path: str
    """A folder, archive, hub data set or class; see unireal.data.sources."""
    weight: float = 1.0
    """Its share of the draws, relative to the others'."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the stream's class, or of unireal.data.streams.open_stream."""
    tasks: tuple[str, ...] = ()
    """Only the records of these tasks; all if there are none."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"the weight of {self.path!r} must be a number above 0, got {self.weight}")

    def open(self) -> SampleSource:
        """Raises ValueError if there is no such data set, or it does not take the options."""
        for task in self.tasks:
            get_task(task)
        folder = Path(self.path)
        if re.fullmatch(r".+:\w+", self.path) and not folder.exists():
            return self._instance()
        if folder.suffix == ".tar" or any(folder.glob("*.tar")) or (self.options and folder.is_dir()):
            return self._stream()
        if (folder / "encoded.json").is_file():
            from unireal.data.encoded import EncodedSamples

            return _of_tasks(EncodedSamples(folder), self.tasks)
        if _HUB_ID.fullmatch(self.path) and not folder.exists() and not folder.parent.is_dir():
            return self._stream()
        return _of_tasks(ParquetSamples(folder), self.tasks)

    def _instance(self) -> SampleSource:
        if self.tasks:
            raise ValueError(f"tasks of {self.path!r} cannot be chosen here; the class decides, give it options")
        try:
            return load_object(self.path)(**self.options)
        except (ImportError, AttributeError, TypeError) as error:
            raise ValueError(
                f"no data stream {self.path!r} ({error}); expected 'module:Class' or 'file.py:Class' and its options"
            ) from error

    def _stream(self) -> SampleSource:
        from unireal.data.streams import open_stream

        try:
            return open_stream(self.path, self.tasks, **self.options)
        except TypeError as error:
            raise ValueError(f"data set {self.path!r} does not take these options ({error})") from error


class _Chosen(Sequence[Sample]):
    """Some of a data set's records, in their order."""

    def __init__(self, samples: ParquetSamples, numbers: np.ndarray):
        self.samples, self.numbers = samples, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]  # no slices
        return self.samples[int(self.numbers[number])]

    def location(self, number: int) -> str:
        return self.samples.location(int(self.numbers[number]))


def _of_tasks(samples: ParquetSamples, tasks: tuple[str, ...]) -> Sequence[Sample]:
    """The records of these tasks, found by reading that column alone. Raises ValueError if there are none."""
    if not tasks:
        return samples
    import pyarrow.parquet as pq

    names = np.concatenate([pq.read_table(path, columns=["task"])["task"].to_numpy() for path in samples.paths])
    numbers = np.flatnonzero(np.isin(names.astype(str), tasks))
    if not len(numbers):
        found = ", ".join(sorted(set(names.astype(str))))
        raise ValueError(f"{str(samples.folder)!r} has no records of {', '.join(tasks)}; it has: {found}")
    return _Chosen(samples, numbers)
