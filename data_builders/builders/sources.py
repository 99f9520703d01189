"""From the videos of a command line to clips, worked out once per build: whole shots by default, or as Ditto curates.

What is found in a video is kept in a file of its own, so that an interrupted curation goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_builders.clips.clip import Clip, find_files, probe, read_frames, video_id
from data_builders.clips.command import read_clips
from data_builders.clips.config import CurationConfig
from data_builders.clips.curate import Candidate, Examined, curate
from data_builders.clips.decode import BadVideo
from data_builders.clips.report import VideoReport, tell_ignored
from data_builders.engine import Placing, spread
from data_builders.files import write_text
from data_builders.shards import Failure
from data_builders.workers import Died, Note

STORED = "clips.json"  # in the folder of a build
_EXAMINED = ".examined-{}.json"
FOUND = (STORED, _EXAMINED.format("*"))  # what is known of the videos, which depends on them and on the curation
_NO_FEATURE = np.zeros(0, np.float32)  # of clips that are not compared

Examine = Callable[[Path], Examined]
MapVideos = Callable[[Examine, Sequence[Path]], Iterable[Examined]]

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
        return _once(Found(read_clips(options.clips), []))
    videos, ignored = find_files(options.videos)
    if not videos:
        raise ValueError(f"no videos in {', '.join(map(str, options.videos))}; give files, or folders that hold some")
    stored, key = options.output / STORED, [_facts(path) for path in videos]
    if stored.exists() and (told := json.loads(stored.read_text()))["videos"] == key:
        failures = [Failure(**failure) for failure in told["failures"]]
        return Found([Clip.from_dict(clip) for clip in told["clips"]], failures, told["told"], told["report"])
    config = CURATIONS[options.curation]
    if config is not None:
        found = curated(options.videos, config, options.output, placing)
    else:
        found = whole_clips(videos, partial(_examine_all, folder=options.output, placing=placing))
        report = {"ignored": {str(path): reason for path, reason in ignored.items()}}
        found = replace(found, told="\n".join(tell_ignored(ignored)), report=report)
    found = _once(found)
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


def _once(found: Found) -> Found:
    """Copies of a file have the same clips, and would make the same records; those of the first are kept."""
    first: dict[str, Clip] = {}
    for clip in found.clips:
        first.setdefault(clip.id, clip)
    copies = {clip.path: first[clip.id].path for clip in found.clips if clip is not first[clip.id]}
    failures = [Failure(path, "", f"has clips that {original} has too") for path, original in copies.items()]
    return replace(found, clips=list(first.values()), failures=found.failures + failures)


def _facts(path: Path) -> list[Any]:
    """[path, bytes, time of change]; what cannot be looked at has neither."""
    status = os.stat(path) if path.exists() else None
    return [str(path), status and status.st_size, status and status.st_mtime_ns]


def whole_clips(videos: Sequence[Path], map_videos: MapVideos = map) -> Found:
    """Every video as one clip with its own size and rate, as far as it can be read. map_videos: as of curate."""
    examined = list(map_videos(_whole, videos))
    clips = [candidate.clip for one in examined for candidate in one.candidates]
    failures = [Failure(one.report.path, "", one.report.error) for one in examined if one.report.error]
    return Found(clips, failures)


def _whole(path: Path) -> Examined:
    report, last = VideoReport(str(path)), 0.0
    try:
        info = probe(path)
        try:
            for seconds, _ in read_frames(path, size=(1, 1)):
                last = seconds
        except BadVideo as error:
            report.error = f"after {last:.3f} s it {error}"
        clip = Clip(str(path), video_id(path), 0.0, last + 1 / info.fps, info.fps, info.size)
        return Examined(report, [Candidate(clip, _NO_FEATURE)])
    except BadVideo as error:
        return Examined(replace(report, error=str(error)))


def curated(paths: Sequence[Path], config: CurationConfig, folder: Path, placing: Placing) -> Found:
    """What data_builders.clips makes of the videos, which workers examine; the folder holds what they found so far."""
    clips, report = curate(paths, config, map_videos=partial(_examine_all, folder=folder, placing=placing))
    reasons = ((video.path, video.reason or video.error) for video in report.videos)
    failures = [Failure(path, "", reason) for path, reason in reasons if reason]
    return Found(clips, failures, report.describe(), report.to_dict())


def _examine_all(examine: Examine, videos: Sequence[Path], folder: Path, placing: Placing) -> Iterator[Examined]:
    """In the order of the videos, after all are done."""
    from tqdm import tqdm

    names = {path: hashlib.sha256(json.dumps(_facts(path)).encode()).hexdigest()[:16] for path in videos}
    files = {names[path]: folder / _EXAMINED.format(names[path]) for path in videos}
    tasks = {name: str(path) for path, name in names.items() if not files[name].exists()}
    with tqdm(total=len(tasks), unit="video", disable=None if tasks else True) as bar:
        for name, told in spread(partial(_Examiner, examine), tasks, folder, placing):
            if isinstance(told, Died):
                reason = f"the process that examined it died twice: {told.cause}"
                told = _to_dict(Examined(VideoReport(tasks[name], error=reason)))
            write_text(files[name], json.dumps(told))
            bar.update()
    return (_from_dict(json.loads(files[names[path]].read_text())) for path in videos)


class _Examiner:
    def __init__(self, examine: Examine):
        self.examine = examine

    def __call__(self, path: str, note: Note) -> str:
        return json.dumps(_to_dict(self.examine(Path(path))))


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
