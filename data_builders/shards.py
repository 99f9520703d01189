"""What a build consists of: shards, each some clips of one video, each one Parquet file.

What a shard holds follows from its clips, the settings and the seed alone, so it does not matter who makes it, when, or
after how many interruptions. It is written under a temporary name and renamed, so a file that exists is complete; what
came to nothing in it, and why, is in its footer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from data_builders.annotators.protocols import Annotators
from data_builders.builders.base import Footage, Options, VideoBuilder, clip_rng
from data_builders.clips.clip import Clip, read_frames
from data_builders.clips.decode import AbsentVideo
from unireal.data.records import shard_metadata, write_shard
from unireal.sample import Sample

_KEY = "data_builders"  # of a shard's metadata


@dataclass(frozen=True)
class Job:
    """Everything that decides what a shard holds.

    load: makes the annotators, in the process of the worker; fps, frames: how clips are read, None for what the builder
    says.
    """

    builder: VideoBuilder
    options: Options
    output: Path
    load: Callable[[], Annotators]
    seed: int = 0
    fps: float | None = None
    frames: int | None = None


@dataclass(frozen=True)
class Shard:
    """Clips of one video whose samples lie in one file; the name follows from them."""

    clips: tuple[Clip, ...]

    @property
    def name(self) -> str:
        spans = json.dumps([(clip.id, clip.end, clip.fps, clip.size) for clip in self.clips])
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", self.clips[0].video)[:60]
        return f"{stem}-{hashlib.sha256(spans.encode()).hexdigest()[:12]}.parquet"


@dataclass(frozen=True)
class Failure:
    """A clip, or a whole video (clip ""), that came to nothing, and why.

    damaged: the input is at fault, so that another try is in vain.
    """

    path: str
    clip: str
    reason: str
    damaged: bool = True


@dataclass
class Outcome:
    """What a build, or one shard of it, came to.

    dropped: reason to the number of views that gave no sample; empty: the sound clips of which none is left.
    """

    clips: int = 0
    rows: int = 0
    failures: list[Failure] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    empty: list[Failure] = field(default_factory=list)
    reused: int = 0  # shards that were there already

    def add(self, other: Outcome) -> None:
        self.clips, self.rows = self.clips + other.clips, self.rows + other.rows
        self.failures += other.failures
        self.dropped += other.dropped
        self.empty += other.empty

    def to_json(self) -> str:
        failures, empty = ([vars(failure) for failure in group] for group in (self.failures, self.empty))
        told = {"clips": self.clips, "rows": self.rows, "failures": failures, "dropped": self.dropped}
        return json.dumps(told | ({"empty": empty} if empty else {}))

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Outcome:
        failures, empty = ([Failure(**values) for values in told.get(key, ())] for key in ("failures", "empty"))
        return cls(told["clips"], told["rows"], failures, Counter(told["dropped"]), empty)


def plan(clips: Iterable[Clip], clips_per_shard: int = 8) -> list[Shard]:
    """Shards of consecutive clips of one video each. Raises ValueError for clips_per_shard below 1."""
    if clips_per_shard < 1:
        raise ValueError(f"--clips-per-shard must be at least 1, got {clips_per_shard}")
    shards: dict[str, Shard] = {}
    for _, group in groupby(clips, lambda clip: clip.video):
        of_video = list(group)
        for first in range(0, len(of_video), clips_per_shard):
            shard = Shard(tuple(of_video[first : first + clips_per_shard]))
            shards.setdefault(shard.name, shard)  # a video that is given twice is built once
    return list(shards.values())


def build_shard(
    job: Job,
    shard: Shard,
    annotators: Annotators,
    deadly: Mapping[str, Failure] | None = None,
    note: Callable[[str], object] = lambda clip: None,
) -> Outcome:
    """Makes the samples of a shard and writes its file; a clip that fails is listed and leaves no sample.

    deadly: clips, by id, that are not tried, and what they failed with; note: told which clip is under way, "" for
    none. Raises OSError if the file cannot be written.
    """
    deadly = deadly or {}
    outcome = Outcome(len(shard.clips))
    metadata: dict[str, str] = {}

    def samples() -> Iterator[Sample]:
        for clip in shard.clips:
            if clip.id in deadly:
                outcome.failures.append(deadly[clip.id])
                continue
            note(clip.id)
            made = _attempt(job, clip, annotators, outcome)
            note("")
            yield from made
        metadata[_KEY] = outcome.to_json()

    write_shard(samples(), job.output / shard.name, metadata)
    return outcome


def _attempt(job: Job, clip: Clip, annotators: Annotators, outcome: Outcome) -> list[Sample]:
    dropped: Counter[str] = Counter()
    try:
        samples = job.builder.build(read_clip(job, clip), annotators, job.options, dropped)
    except Exception as error:  # models and decoders fail in any way, and the other clips go on
        reason = " ".join(f"{error}".split()) or type(error).__name__
        reason = reason if isinstance(error, ValueError) else f"{type(error).__name__}: {reason}"
        damaged = isinstance(error, ValueError) and not isinstance(error, AbsentVideo)
        outcome.failures.append(Failure(clip.path, clip.id, reason[:500], damaged))
        return []
    finally:
        outcome.dropped += dropped
    if not samples:
        reasons = "; ".join(dropped) or "it shows nothing that the builder looks for"
        outcome.empty.append(Failure(clip.path, clip.id, f"no record is left: {reasons}"[:500]))
    outcome.rows += len(samples)
    return samples


def read_clip(job: Job, clip: Clip) -> Footage:
    """The clip's frames as the builder wants them. Raises BadVideo if the file cannot be decoded that far."""
    fps = job.fps or job.builder.fps or clip.fps
    limit = job.frames or job.builder.frames
    frames = list(read_frames(clip.path, clip.start, clip.end, min(fps, clip.fps), clip.size, limit))
    if not frames:
        raise ValueError("the clip holds no frame")
    times, images = zip(*frames, strict=True)
    return Footage(clip, list(images), list(times), clip_rng(job.seed, job.builder.name, clip))


def holds_records(path: Path) -> bool:
    """Whether there is any in the file; a damaged one holds none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows > 0
    except (OSError, pa.ArrowException):
        return False


def finished(path: Path) -> Outcome | None:
    """What the shard came to, None if it is not there, damaged, or to be made anew."""
    if not path.exists():
        return None
    try:
        told = shard_metadata(path).get(_KEY)
    except ValueError:  # a crash of the machine may leave a part of a file under its name
        return None
    outcome = told and Outcome.from_dict(json.loads(told))
    return outcome if outcome and all(failure.damaged for failure in outcome.failures) else None
