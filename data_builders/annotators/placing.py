"""Where each annotator runs, and how many workers may call it at a time.

Every worker has all annotators of its build, so that frames and masks stay in one process (docs/data.md tells why).
What differs between annotators is the device that holds a model, and how many calls a device or a server can bear.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from filelock import BaseFileLock, FileLock, Timeout

from data_builders.annotators.protocols import Annotators

GATES = ".gate-*"  # files in the folder of a build
_GATE = ".gate-{}-{}"

A = TypeVar("A", bound=Annotators)


@dataclass(frozen=True)
class Devices:
    """usual: of all parts but those in `by_part`."""

    usual: str = "cpu"
    by_part: Mapping[str, str] = field(default_factory=dict)

    def of(self, part: str) -> str:
        return self.by_part.get(part, self.usual)

    @classmethod
    def parse(cls, text: str, parts: Iterable[str]) -> Devices:
        """Of "cuda", "cuda:0,depth=cuda:1" or "depth=cuda". Raises ValueError for a part that there is not."""
        words = [word.strip() for word in text.split(",")]
        usual = [word for word in words if "=" not in word]
        if len(usual) > 1 or not all(words):
            raise ValueError(
                f"--device is one device, and PART=DEVICE for parts on others, as in cuda:0,depth=cuda:1, got {text!r}"
            )
        by_part = _by_part("--device", [word for word in words if "=" in word], parts)
        return cls(usual[0] if usual else "cpu", by_part)


def parse_concurrency(text: str, parts: Iterable[str]) -> dict[str, int]:
    """Part to number, of "depth=1,captioner=4". Raises ValueError for a part that there is not, or no number."""
    limits = _by_part("--concurrency", [word.strip() for word in text.split(",") if word.strip()], parts)
    if wrong := [f"{part}={limit}" for part, limit in limits.items() if not limit.isdecimal() or int(limit) < 1]:
        raise ValueError(f"--concurrency takes PART=N with N from 1, got {wrong[0]!r}")
    return {part: int(limit) for part, limit in limits.items()}


def _by_part(option: str, words: Iterable[str], parts: Iterable[str]) -> dict[str, str]:
    found, known = {}, tuple(parts)
    for word in words:
        part, equals, value = (piece.strip() for piece in word.partition("="))
        if not equals or not value or part not in known:
            raise ValueError(f"{option} takes PART=VALUE with PART one of {', '.join(known)}, got {word!r}")
        found[part] = value
    return found


def limited(annotators: A, limits: Mapping[str, int], folder: Path) -> A:
    """The same annotators, of whose parts no more workers are at work at a time than `limits` says.

    folder: the one that all workers of the build share.
    """
    given = {part: getattr(annotators, part) for part in limits}
    parts = {part: _Limited(one, _Gate(folder, part, limits[part])) for part, one in given.items() if one is not None}
    return replace(annotators, **parts) if parts else annotators


class _Limited:
    """An annotator whose methods wait for their turn."""

    def __init__(self, annotator: Any, gate: _Gate):
        self._annotator, self._gate = annotator, gate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._annotator, name)
        return self._in_turn(found) if callable(found) else found

    def _in_turn(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self._gate.turn():
                return method(*arguments, **options)

        return call


class _Gate:
    """Lets so many workers in at a time; one that dies makes room, since the system takes its locks back."""

    def __init__(self, folder: Path, part: str, places: int):
        self._places = [FileLock(folder / _GATE.format(part, place)) for place in range(places)]

    @contextmanager
    def turn(self) -> Iterator[None]:
        place = self._enter()
        try:
            yield
        finally:
            place.release()

    def _enter(self) -> BaseFileLock:
        """The lock of a free place, or of one that is waited for."""
        for place in random.sample(self._places, len(self._places)):
            try:
                place.acquire(blocking=False)
                return place
            except Timeout:
                continue
        place = random.choice(self._places)
        place.acquire()
        return place
