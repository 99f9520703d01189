"""Workers look at videos one by one. What is found in each is kept in a file of its own until all are done."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_builders.clips.clip import Clip
from data_builders.clips.curate import Candidate, Examined
from data_builders.clips.report import VideoReport
from data_builders.engine import Placing, spread
from data_builders.files import write_text
from data_builders.workers import Died, Note

EXAMINED = ".examined-*.json"

Examine = Callable[[Path], Examined]
MapVideos = Callable[[Examine, Sequence[Path]], Iterable[Examined]]


def examine_all(
    examine: Examine, videos: Sequence[Path], folder: Path, placing: Placing, settings: Any = None
) -> Iterator[Examined]:
    """What `examine` finds in each video, in their order, after workers have done them all.

    folder: gets a file for each video, so that an interrupted run goes on where it stopped; settings: everything else
    that decides what is found, as values that JSON takes.
    """
    from tqdm import tqdm

    names = {path: hashlib.sha256(json.dumps([*facts(path), settings]).encode()).hexdigest()[:16] for path in videos}
    files = {names[path]: folder / EXAMINED.replace("*", names[path]) for path in videos}
    tasks = {name: json.dumps(str(path)) for path, name in names.items() if read_stored(files[name]) is None}
    with tqdm(total=len(tasks), unit="video", disable=None if tasks else True) as bar:
        for name, told in spread(partial(_Examiner, examine), tasks, folder, placing):
            if isinstance(told, Died):
                reason = f"the process that examined it died twice: {told.cause}"
                told = _to_dict(Examined(VideoReport(json.loads(tasks[name]), error=reason)))
            write_text(files[name], json.dumps(told))
            bar.update()
    return (_from_dict(json.loads(files[names[path]].read_text())) for path in videos)


def forget_examined(folder: Path) -> None:
    """Removes what `examine_all` has kept there."""
    for path in folder.glob(EXAMINED):
        path.unlink()


class _Examiner:
    def __init__(self, examine: Examine):
        self.examine = examine

    def __call__(self, path: str, note: Note) -> str:
        return json.dumps(_to_dict(self.examine(Path(json.loads(path)))))


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


def facts(path: Path) -> list[Any]:
    """[path, bytes, time of change]; what cannot be read has neither, until it can."""
    status = os.stat(path) if os.access(path, os.R_OK) else None
    return [str(path), status and status.st_size, status and status.st_mtime_ns]


def read_stored(path: Path) -> Any:
    """What a JSON file of an earlier run holds; None if it is not there, or a crash has left a part of it."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
