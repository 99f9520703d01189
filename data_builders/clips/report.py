"""What curation did to every input: nothing is left out without a reason."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_builders.clips.config import CurationConfig
from data_builders.clips.decode import EARLY
from data_builders.clips.measure import Overview

# Reasons for which parts of a video are dropped.
DAMAGED = "damaged"
BLACK = "black"
BLURRED = "blurred"
LETTERBOXED = "letterboxed"
SHORT = "too short"
REST = "rest of a shot"
SLOW = "too little motion"
DUPLICATE = "near-duplicate"
_LISTED = 10  # of the files that are not read, and of the videos that give nothing; report.json has all


@dataclass
class VideoReport:
    """Of one input. error: why it, or the rest of it, cannot be read; None if all of it can.

    kept, dropped (by reason): how many stretches; kept_seconds, dropped_seconds: together, the seconds read.
    duplicates: (id of a clip, id of the kept clip that it resembles).
    """

    path: str
    video: str | None = None
    size: tuple[int, int] | None = None
    fps: float = 0.0
    seconds: float = 0.0
    shots: int = 0
    kept: int = 0
    kept_seconds: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_seconds: Counter[str] = field(default_factory=Counter)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    error: str | None = None

    def start(self, video: str, overview: Overview) -> None:
        self.video, self.size, self.fps, self.error = video, overview.size, overview.fps, overview.stopped
        self.seconds, self.shots = overview.duration, len(overview.shots)
        if overview.damaged > EARLY:
            self.drop(DAMAGED, overview.damaged)

    def keep(self, seconds: float) -> None:
        self.kept += 1
        self.kept_seconds += seconds

    def drop(self, reason: str, seconds: float) -> None:
        self.dropped[reason] += 1
        self.dropped_seconds[reason] += seconds  # type: ignore[assignment]  # a Counter of seconds

    @property
    def reason(self) -> str | None:
        """Why nothing of the video is kept; None if something is."""
        if self.kept:
            return None
        parts = [f"{count} {reason}" for reason, count in self.dropped.most_common()]
        left = [f"no clip is left: {', '.join(parts)}"] if parts else []
        return "; ".join([*([self.error] if self.error else []), *left])

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON takes."""
        dropped = {
            reason: {"count": count, "seconds": round(self.dropped_seconds[reason], 3)}
            for reason, count in self.dropped.items()
        }
        return {
            **{"path": self.path, "video": self.video, "size": self.size and list(self.size), "fps": self.fps},
            **{"seconds": round(self.seconds, 3), "shots": self.shots, "kept": self.kept},
            **{"kept_seconds": round(self.kept_seconds, 3), "dropped": dropped, "error": self.error},
            **{"reason": self.reason, "duplicates": [list(pair) for pair in self.duplicates]},
        }


@dataclass
class CurationReport:
    """videos: one per input, in order; ignored: files of folders that were not read, and why."""

    config: CurationConfig
    videos: list[VideoReport]
    ignored: dict[Path, str]

    def describe(self) -> str:
        """For people: how many were kept and dropped and why, and the first inputs that are damaged or give nothing."""
        config, videos = self.config, self.videos
        unreadable = sum(video.video is None for video in videos)
        giving = sum(video.kept > 0 for video in videos)
        kept = sum(video.kept for video in videos)
        enlarged = sum(v.kept for v in videos if v.size and config.size and _smaller(v.size, config.size))
        size = "" if config.size is None else f"{config.size[1]}x{config.size[0]}"
        lines = [
            f"{len(videos)} videos, {sum(v.seconds for v in videos):.1f} s, {sum(v.shots for v in videos)} shots: "
            f"{giving} give clips, {len(videos) - giving - unreadable} give none, {unreadable} cannot be read",
            f"kept: {kept} clips of {sum(v.kept_seconds for v in videos):.1f} s"
            + (f"; {enlarged} come from videos smaller than {size}" if enlarged else ""),
        ]
        counts: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        for video in videos:
            counts.update(video.dropped)
            seconds.update(video.dropped_seconds)
        lines += [f"dropped: {n} {reason}, {seconds[reason]:.1f} s" for reason, n in counts.most_common()]
        lines.append(
            f"compared by: {config.encoder or 'gradients of colour (no --encoder given; Ditto: CLIP ViT-L/14)'}"
        )
        lines.append(f"motion by: {config.tracker or 'sparse optical flow (no --tracker given; Ditto: CoTracker3)'}")
        poor = [video for video in videos if video.reason or video.error]
        for video in sorted(poor, key=lambda video: video.error is None)[:_LISTED]:
            used = "; what comes before is used" if video.kept else ""
            lines.append(f"{video.path}: {video.reason or video.error}{used}")
        if len(poor) > _LISTED:
            lines.append(f"and {len(poor) - _LISTED} more videos that give nothing, or not all")
        return "\n".join(lines + tell_ignored(self.ignored))

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON takes."""
        return {
            "config": self.config.to_dict(),
            "videos": [video.to_dict() for video in self.videos],
            "ignored": {str(path): reason for path, reason in self.ignored.items()},
        }


def tell_ignored(ignored: Mapping[Path, str]) -> list[str]:
    """Lines about the first files that are not read, and how many more there are."""
    lines = [f"{path}: {reason}" for path, reason in itertools.islice(ignored.items(), _LISTED)]
    return lines + [f"and {len(ignored) - _LISTED} more files that are not read"] * (len(ignored) > _LISTED)


def _smaller(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return size[0] < other[0] or size[1] < other[1]
