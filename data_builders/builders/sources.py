"""From the videos of a command line to clips, worked out once a build: whole shots by default, or as Ditto curates."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_builders.clips.clip import Clip, find_files, probe, read_frames, video_id
from data_builders.clips.command import read_clips
from data_builders.clips.config import CurationConfig
from data_builders.clips.curate import Candidate, Examined, curate
from data_builders.clips.decode import BadVideo, cut_off
from data_builders.clips.examine import EXAMINED, MapVideos, examine_all, facts, forget_examined, read_stored
from data_builders.clips.report import VideoReport, tell_ignored
from data_builders.engine import Placing
from data_builders.files import write_text
from data_builders.shards import Failure

STORED = "clips.json"  # in the folder of a build
FOUND = (STORED, EXAMINED)  # what is known of the videos, which depends on them and on the curation
_NO_FEATURE = np.zeros(0, np.float32)  # of clips that are not compared

# name: the thresholds of data_builders.clips, None for none at all
CURATIONS: dict[str, CurationConfig | None] = {
    "shots": CurationConfig(size=None, num_frames=400, min_frames=2, min_motion=0.0),
    "ditto": CurationConfig(),
    "none": None,
}


@dataclass(frozen=True)
class FoundClips:
    """clips: in the order of their videos; failures: videos that give none, or not all; report: what curation says of
    everything, told: the same in words, for people."""

    clips: list[Clip]
    failures: list[Failure]
    told: str = ""
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Named:
    """What a command line names: clips, or videos, and why other files of their folders are left out."""

    clips: list[Clip] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    ignored: dict[Path, str] = field(default_factory=dict)


def named_by(options: argparse.Namespace) -> Named:
    """What --clips or --videos name. Raises ValueError for paths that do not exist or hold no video."""
    if options.clips is not None:
        return Named(_present(read_clips(options.clips), options.clips))
    videos, ignored = find_files(options.videos)
    if not videos:
        raise ValueError(f"no videos in {', '.join(map(str, options.videos))}; give files, or folders that hold some")
    return Named([], videos, ignored)


def clips_of(named: Named, options: argparse.Namespace, placing: Placing) -> FoundClips:
    """The clips of what is named; those of videos are kept in the output, and count until one of the files changes."""
    if options.clips is not None:
        return _once(FoundClips(named.clips, []))
    videos, ignored = named.videos, named.ignored
    stored, key = options.output / STORED, [facts(path) for path in videos]
    if (told := read_stored(stored)) and told["videos"] == key:
        failures = [Failure(**failure) for failure in told["failures"]]
        return FoundClips([Clip.from_dict(clip) for clip in told["clips"]], failures, told["told"], told["report"])
    config = CURATIONS[options.curation]
    if config is not None:
        found = curated(options.videos, config, options.output, placing)
    else:
        found = whole_clips(videos, partial(examine_all, folder=options.output, placing=placing))
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
    forget_examined(options.output)
    return found


def _present(clips: list[Clip], named: Path) -> list[Clip]:
    """The clips. Raises ValueError if none of their files is there; single ones that lack are failures of the build."""
    if not any(os.path.exists(clip.path) for clip in clips):
        told = f"none of the videos that {named} names is here, as {clips[0].path}"
        raise ValueError(f"{told}; their names count from the folder where it was made: run there, or make it anew")
    return clips


def _once(found: FoundClips) -> FoundClips:
    """Copies of a file have the same clips, and would make the same records; those of the first are kept."""
    first: dict[str, Clip] = {}
    for clip in found.clips:
        first.setdefault(clip.id, clip)
    copies = {clip.path: first[clip.id].path for clip in found.clips if clip is not first[clip.id]}
    failures = [Failure(path, "", f"has clips that {original} has too") for path, original in copies.items()]
    return replace(found, clips=list(first.values()), failures=found.failures + failures)


def whole_clips(videos: Sequence[Path], map_videos: MapVideos = map) -> FoundClips:
    """Every video as one clip with its own size and rate, as far as it can be read. map_videos: as of curate."""
    examined = list(map_videos(_whole, videos))
    clips = [candidate.clip for one in examined for candidate in one.candidates]
    failures = [Failure(one.report.path, "", one.report.error) for one in examined if one.report.error]
    return FoundClips(clips, failures)


def _whole(path: Path) -> Examined:
    report, last = VideoReport(str(path)), 0.0
    try:
        info = probe(path)
        try:
            for seconds, _ in read_frames(path, size=(2, 2)):  # interlaced ones have a row of each field
                last = seconds
            report.error = cut_off(last + 1 / info.fps, info.duration)
        except BadVideo as error:
            report.error = f"after {last:.3f} s it {error}"
        clip = Clip(str(path), video_id(path), 0.0, last + 1 / info.fps, info.fps, info.size)
        return Examined(report, [Candidate(clip, _NO_FEATURE)])
    except BadVideo as error:
        return Examined(replace(report, error=str(error)))


def curated(paths: Sequence[Path], config: CurationConfig, folder: Path, placing: Placing) -> FoundClips:
    """What data_builders.clips makes of the videos, which workers examine; the folder holds what they found so far."""
    examine_them = partial(examine_all, folder=folder, placing=placing, settings=config.to_dict())
    clips, report = curate(paths, config, map_videos=examine_them)
    reasons = ((video.path, video.reason or video.error) for video in report.videos)
    failures = [Failure(path, "", reason) for path, reason in reasons if reason]
    return FoundClips(clips, failures, report.describe(), report.to_dict())
