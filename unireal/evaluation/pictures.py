"""Pictures of a benchmark item, loaded once each, with what networks need of them; decoded by threads ahead of use."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from unireal.evaluation.results import Item, Load

S = TypeVar("S")
T = TypeVar("T")


@dataclass(eq=False)
class Picture:
    """pixels: uint8 (H, W, 3). memo: what was computed of it, so that the copy baseline costs nothing twice."""

    pixels: np.ndarray
    memo: dict[Any, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def view(self, key: Any, make: Callable[[Picture], T]) -> T:
        """make(self), kept under the key."""
        if key not in self.memo:
            self.memo[key] = make(self)
        return self.memo[key]

    def resized(self, size: tuple[int, int]) -> Picture:
        """At size (H, W), by PIL's bicubic filter as the reference scripts do; itself where it has that size."""
        if size == self.size:
            return self
        return self.view(("resized", size), lambda picture: Picture(resize_bicubic(picture.pixels, size)))


_RECENT: deque[Picture] = deque(maxlen=64)  # shared pictures that are kept although nobody holds them


class Shared:
    """A loader of a picture that neighbouring items share: while it is in use it is loaded once, and seen once."""

    def __init__(self, load: Load):
        self._load = load
        self._kept: Callable[[], Picture | None] = lambda: None

    @property
    def picture(self) -> Picture:
        picture = self._kept()
        if picture is None:
            picture = Picture(self._load())
            self._kept = weakref.ref(picture)
            _RECENT.append(picture)
        return picture

    def __call__(self) -> np.ndarray:
        return self.picture.pixels


@dataclass(eq=False)
class Case:
    """One item and one system's output: `frames`, a picture or the frames of a video.

    given: the pictures and arrays of the item, shared by the cases of all systems.
    failed: measures that have no score for the case, and why.
    """

    item: Item
    frames: list[Picture]
    given: Given
    memo: dict[Any, Any] = field(default_factory=dict)
    failed: dict[Any, str] = field(default_factory=dict)

    @property
    def output(self) -> Picture:
        return self.frames[0]


@dataclass(eq=False)
class Given:
    """What an item brings along, loaded when it is asked for. Raises ValueError for what it does not have."""

    item: Item
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def sources(self) -> list[Picture]:
        return [_picture(load) for load in self.item.sources]

    @property
    def source(self) -> Picture:
        return self.sources[0]

    @cached_property
    def truth(self) -> Picture:
        if self.item.truth is None:
            raise ValueError(f"item {self.item.id!r} has no truth")
        return _picture(self.item.truth)

    @cached_property
    def references(self) -> list[Picture]:
        return [_picture(load) for load in self.item.references]

    def reference(self, name: str) -> Picture:
        """The "source" or the "truth"."""
        return self.truth if name == "truth" else self.source

    def array(self, name: str) -> np.ndarray:
        """For example the "mask", bool (H, W)."""
        if name not in self.arrays:
            if name not in self.item.arrays:
                raise ValueError(f"item {self.item.id!r} has no {name}")
            self.arrays[name] = self.item.arrays[name]()
        return self.arrays[name]

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """The mask of the edit at size (H, W), nearest pixel."""
        return resize_mask(self.array("mask"), size)


def _picture(load: Load) -> Picture:
    return load.picture if isinstance(load, Shared) else Picture(load())


def resize_bicubic(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) at size (H, W)."""
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) at another size."""
    if mask.shape == size:
        return mask
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize((size[1], size[0]), Image.Resampling.NEAREST)) > 127


def ahead(work: Callable[[S], T], tasks: Iterable[S], workers: int, window: int) -> Iterator[T]:
    """work(task) of each task in order, done by `workers` threads up to `window` tasks ahead of the consumer.

    With 0 workers the work is done by the caller. What work raises is raised here.
    """
    if workers < 1:
        yield from map(work, tasks)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) > window:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
