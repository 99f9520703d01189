"""What a judge replies: how it is read, why it may be none, what it may cost, and where it is kept.

A reply that cannot be read is a failure with its reason, never a number.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any, Protocol

from unireal.evaluation.judge.protocol import Question
from unireal.evaluation.results import write_json


@dataclass(frozen=True)
class Reply:
    """text: what was said; model: who says to have said it; tokens: read and written, 0 if unknown.

    stopped: "end", "length" if the limit on the reply's length cut it, or "refused".
    own_temperature: the endpoint takes no temperature but its own, so that other replies were as possible.
    """

    text: str
    model: str
    tokens: int = 0
    stopped: str = "end"
    own_temperature: bool = False


class JudgeError(RuntimeError):
    """No rating. kind: "no output", "no criteria", "unreachable", "rejected", "refused", "cut off", "unreadable" or
    "budget"."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


class Judge(Protocol):
    """A vision-language model.

    model: name with its version. settings: JSON, all else that its replies depend on. budget: what it may still ask.
    """

    budget: Budget

    @property
    def model(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def ask(self, text: str, pictures: Sequence[bytes]) -> Reply:
        """pictures: encoded files, in order. Raises JudgeError, and ValueError for what no further call can mend."""
        ...


@dataclass
class Budget:
    """Counts every request, also repeated ones. None is no limit; no request starts once a limit is reached, or after
    `stop`."""

    max_calls: int | None = None
    max_tokens: int | None = None
    calls: int = 0
    tokens: int = 0
    _lock: Any = field(default_factory=Lock, repr=False)
    _stopped: Event = field(default_factory=Event, repr=False)

    def call(self) -> None:
        """Counts a request that is about to start. Raises JudgeError if there is no budget left for it."""
        if self._stopped.is_set():
            raise JudgeError("budget", "the run was stopped")
        with self._lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise JudgeError("budget", f"the budget of {self.max_calls} calls is spent")
            if self.max_tokens is not None and self.tokens >= self.max_tokens:
                raise JudgeError("budget", f"the budget of {self.max_tokens} tokens is spent")
            self.calls += 1

    def spend(self, tokens: int) -> None:
        with self._lock:
            self.tokens += tokens

    def stop(self) -> None:
        """Nobody waits for replies any more."""
        self._stopped.set()

    def wait(self, seconds: float) -> None:
        """Before a request is repeated; ends early if all is stopped."""
        self._stopped.wait(seconds)


class Kept:
    """A judge whose replies are kept in a folder, one file each, so that no question is paid for twice.

    The file's name is a hash of all that the reply depends on: model, settings, text and pictures. Requests that failed
    are not kept. For any number of threads.
    """

    def __init__(self, judge: Judge, folder: Path):
        self.judge, self.folder = judge, folder
        self._locks: defaultdict[str, Any] = defaultdict(Lock)  # by key, so that equal questions wait for one reply

    def ask(self, text: str, pictures: Sequence[bytes]) -> Reply:
        """As the judge's. Raises ValueError for a damaged file."""
        asked = {
            "model": self.judge.model,
            "settings": dict(self.judge.settings),
            "text": text,
            "pictures": [hashlib.sha256(picture).hexdigest() for picture in pictures],
        }
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        path = self.folder / key[:2] / f"{key}.json"
        with self._locks[key]:
            if path.exists():
                return _kept(path)
            reply = self.judge.ask(text, pictures)
            write_json(path, {"asked": asked, "reply": asdict(reply)})
            return reply


def _kept(path: Path) -> Reply:
    try:
        return Reply(**json.loads(path.read_text(encoding="utf-8"))["reply"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"kept reply {path} is damaged; delete it") from error


def read_ratings(reply: Reply, question: Question) -> dict[str, float]:
    """The rating of each criterion. Raises JudgeError unless the reply holds exactly one JSON object, with exactly the
    criteria as keys and numbers on the scale as values."""
    if reply.stopped == "refused":
        raise JudgeError("refused", f"the judge refused: {_excerpt(reply.text)}")
    if reply.stopped == "length":
        raise JudgeError("cut off", f"the reply was cut off: {_excerpt(reply.text)}")
    found = _objects(reply.text)
    if len(found) != 1:
        raise JudgeError("unreadable", f"{len(found)} JSON objects in the reply, not 1: {_excerpt(reply.text)}")
    names = [criterion.name for criterion in question.criteria]
    keys = [key for key, _ in found[0]]
    if sorted(keys) != sorted(names):
        raise JudgeError("unreadable", f"the reply rates {', '.join(keys) or 'nothing'}, not {', '.join(names)}")
    low, high = question.scale
    for name, value in found[0]:
        if type(value) not in (int, float) or not (math.isfinite(value) and low <= value <= high):
            raise JudgeError("unreadable", f"{name} is {json.dumps(value)[:40]}, not a number from {low} to {high}")
    ratings = dict(found[0])
    return {name: float(ratings[name]) for name in names}


class _Pairs(list):
    """The keys and values of a JSON object, repeated keys included."""


def _objects(text: str) -> list[_Pairs]:
    """The JSON objects in a text, outermost only."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs)
    found, position = [], text.find("{")
    while position >= 0:
        try:
            value, position = decoder.raw_decode(text, position)
            found.append(value)
        except (ValueError, RecursionError):
            position += 1
        position = text.find("{", position)
    return found


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 120 else line[:117] + "...")
