"""From the videos of a command line to clips, worked out once per build: whole shots by default, or as Ditto curates.

What is found in a video is kept in a file of its own, so that an interrupted curation goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_builders.clips.clip import Clip, find_files, probe, read_frames, video_id
from data_builders.clips.command import read_clips
from data_builders.clips.config import CurationConfig
from data_builders.clips.curate import Candidate, Curator, Examined, curate
from data_builders.clips.decode import BadVideo
from data_builders.clips.report import VideoReport
from data_builders.engine import Placing, spread
from data_builders.shards import Failure, write_text

STORED = "clips.json"  # in the folder of a build
_EXAMINED = ".examined-{}.json"

# name: the thresholds of data_builders.clips, None for none at all
CURATIONS: dict[str, CurationConfig | None] = {
    "shots": CurationConfig(size=None, num_frames=400, min_frames=2, min_motion=0.0),
    "ditto": CurationConfig(),
    "none": None,
}


@dataclass(frozen=True)
class Found:
    """clips: in the order of their videos; failures: videos that give none, or not all; report: what curation says of
    everything, told: the same in words, for people."""

    clips: list[Clip]
    failures: list[Failure]
    told: str = ""
    report: dict[str, Any] = field(default_factory=dict)


def clips_of(options: argparse.Namespace, placing: Placing) -> Found:
    """The clips of --clips or --videos; these are kept in the output, and count until one of the files changes.

    Raises ValueError for paths that do not exist or hold no video.
    """
    if options.clips is not None:
        return Found(read_clips(options.clips), [])
    videos, _ = find_files(options.videos)
    if not videos:
        raise ValueError(f"no videos in {', '.join(map(str, options.videos))}; give files, or folders that hold some")
    stored, key = options.output / STORED, [_facts(path) for path in videos]
    if stored.exists() and (told := json.loads(stored.read_text()))["videos"] == key:
        failures = [Failure(**failure) for failure in told["failures"]]
        return Found([Clip.from_dict(clip) for clip in told["clips"]], failures, told["told"], told["report"])
    config = CURATIONS[options.curation]
    found = whole_clips(videos) if config is None else curated(options.videos, config, options.output, placing)
    content = {
        "videos": key,
        "clips": [clip.to_dict() for clip in found.clips],
        "failures": [asdict(failure) for failure in found.failures],
        "told": found.told,
        "report": found.report,
    }
    write_text(stored, json.dumps(content, indent=1) + "\n")
    for path in options.output.glob(_EXAMINED.format("*")):
        path.unlink()
    return found


def _facts(path: Path) -> list[Any]:
    """[path, bytes, time of change]; what cannot be looked at has neither."""
    status = os.stat(path) if path.exists() else None
    return [str(path), status and status.st_size, status and status.st_mtime_ns]


def whole_clips(videos: Sequence[Path]) -> Found:
    """Every video as one clip with its own size and rate, as far as it can be read."""
    clips, failures = [], []
    for path in videos:
        try:
            info, last = probe(path), 0.0
            try:
                for seconds, _ in read_frames(path, size=(1, 1)):
                    last = seconds
            except BadVideo as error:
                failures.append(Failure(str(path), "", f"after {last:.3f} s it {error}"))
            clips.append(Clip(str(path), video_id(path), 0.0, last + 1 / info.fps, info.fps, info.size))
        except BadVideo as error:
            failures.append(Failure(str(path), "", str(error)))
    return Found(clips, failures)


def curated(paths: Sequence[Path], config: CurationConfig, folder: Path, placing: Placing) -> Found:
    """What data_builders.clips makes of the videos, which workers examine; the folder holds what they found so far."""
    clips, report = curate(paths, config, map_videos=partial(_examine_all, folder=folder, placing=placing))
    reasons = ((video.path, video.reason or video.error) for video in report.videos)
    failures = [Failure(path, "", reason) for path, reason in reasons if reason]
    return Found(clips, failures, report.describe(), report.to_dict())


def _examine_all(curator: Curator, videos: Sequence[Path], folder: Path, placing: Placing) -> Iterator[Examined]:
    """In the order of the videos, after all are done."""
    from tqdm import tqdm

    names = {path: hashlib.sha256(json.dumps(_facts(path)).encode()).hexdigest()[:16] for path in videos}
    files = {names[path]: folder / _EXAMINED.format(names[path]) for path in videos}
    tasks = {name: str(path) for path, name in names.items() if not files[name].exists()}
    with tqdm(total=len(tasks), unit="video", disable=None if tasks else True) as bar:
        for name, told in spread(partial(_Examiner, curator), tasks, folder, placing):
            report = VideoReport(tasks[name], error="the process that examined it died twice")
            write_text(files[name], json.dumps(told or _to_dict(Examined(report))))
            bar.update()
    return (_from_dict(json.loads(files[names[path]].read_text())) for path in videos)


class _Examiner:
    def __init__(self, curator: Curator):
        self.curator = curator

    def __call__(self, path: str) -> str:
        return json.dumps(_to_dict(self.curator(path)))


def _to_dict(examined: Examined) -> dict[str, Any]:
    candidates = [{"clip": c.clip.to_dict(), "feature": c.feature.tolist()} for c in examined.candidates]
    return {"report": vars(examined.report), "candidates": candidates}


def _from_dict(told: Mapping[str, Any]) -> Examined:
    report = VideoReport(**told["report"])
    size = None if report.size is None else (report.size[0], report.size[1])
    pairs = [(kept, left_out) for kept, left_out in report.duplicates]
    counts: dict[str, Any] = {"dropped": Counter(report.dropped), "dropped_seconds": Counter(report.dropped_seconds)}
    report = replace(report, size=size, duplicates=pairs, **counts)
    features = [np.asarray(candidate["feature"], np.float32) for candidate in told["candidates"]]
    clips = [Clip.from_dict(candidate["clip"]) for candidate in told["candidates"]]
    return Examined(report, list(map(Candidate, clips, features)))
