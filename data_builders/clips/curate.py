"""Curation of raw videos into clips, as in Ditto (arXiv 2510.15742, section 3.1)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from data_builders.clips.clip import Clip, find_files, video_id
from data_builders.clips.config import CurationConfig
from data_builders.clips.decode import BadVideo
from data_builders.clips.duplicates import find_duplicates
from data_builders.clips.features import ImageEncoder, colour_gradients
from data_builders.clips.measure import Measure, Overview, Shot, measure
from data_builders.clips.motion import CoTracker, Tracker, grid_points, mean_squared_difference, motion_of_tracks
from data_builders.clips.report import (
    BLACK,
    BLURRED,
    DUPLICATE,
    LETTERBOXED,
    REST,
    SHORT,
    SLOW,
    CurationReport,
    VideoReport,
)
from data_builders.clips.shots import ShotDetector, detector_factory

_ENCODED_FRAMES = 4  # of a clip, evenly spaced
_ENCODED_SIDE = 224  # pixels of the shorter side; the encoder's processor does the rest
_TRACKED_SIDE = 512  # pixels of the longer side: CoTracker's own
_SLACK = 1e-6  # frames


@dataclass
class Candidate:
    """A clip that passed all but the comparison with other clips; feature: float32 (D,), of length 1."""

    clip: Clip
    feature: np.ndarray


@dataclass
class Examined:
    """What curation found in one video. It can be pickled."""

    report: VideoReport
    candidates: list[Candidate] = field(default_factory=list)


class Curator:
    """Examines videos one by one; a call depends on nothing but the file and the settings.

    Models are loaded when they are first needed, so a Curator can be sent to other processes before.
    tracker: follows the grid's points through whole clips, in place of sparse optical flow.
    Raises ValueError for settings that make no sense; a call raises ValueError only for models that cannot be loaded.
    """

    def __init__(self, config: CurationConfig, tracker: Tracker | None = None):
        self.config = config
        self._tracker = tracker

    def __call__(self, path: str | Path) -> Examined:
        """A video that cannot be read, or is damaged in parts, is told in the report."""
        examined = Examined(VideoReport(str(path)))
        try:
            overview = measure(path, self._new_detector, self.config.measures_per_second)
            examined.report.start(video_id(path), overview)
            for clip, measures in self._stretches(examined.report, overview):
                self._judge(clip, measures, examined)
        except BadVideo as error:
            examined.report.error = str(error)
        return examined

    @cached_property
    def _new_detector(self) -> Callable[[float], ShotDetector]:
        config = self.config
        return detector_factory(config.shots, config.shot_threshold, config.min_shot_seconds, config.device)

    @cached_property
    def _encoder(self) -> ImageEncoder:
        assert self.config.encoder is not None  # asked for only where duplicates are looked for
        return ImageEncoder(self.config.encoder, self.config.device)

    @cached_property
    def _point_tracker(self) -> Tracker | None:
        if self._tracker is None and self.config.tracker:
            return CoTracker.from_safetensors(self.config.tracker, self.config.device)
        return self._tracker

    def _stretches(self, report: VideoReport, overview: Overview) -> Iterator[tuple[Clip, list[Measure]]]:
        """Pieces of shots with their measures, as long as clips are; what is not fit to be one is dropped."""
        config = self.config
        for shot in overview.shots:
            if self._letterboxed(shot):
                report.drop(LETTERBOXED, shot.end - shot.start)
                continue
            for verdict, start, end, measures in self._runs(shot):
                if verdict is not None:
                    report.drop(verdict, end - start)
                    continue
                reason = SHORT
                while (frames := int((end - start) * config.fps + _SLACK)) >= config.min_frames:
                    until = start + min(frames, config.num_frames) / config.fps
                    size = config.size or overview.size
                    clip = Clip(report.path, report.video or "", start, until, config.fps, size)
                    before = [m for m in measures if m.time < until]
                    # A clip shorter than their spacing has those nearest to it; the first lies behind the cut.
                    yield clip, [m for m in before if m.time >= start] or before[-1:] or measures[:1]
                    start, reason = until, REST
                if end - start > _SLACK:
                    report.drop(reason, end - start)

    def _letterboxed(self, shot: Shot) -> bool:
        """Bars count if they stay through the shot, apart from its black frames."""
        bars = [m.bars for m in shot.measures if m.luma >= self.config.min_luma]
        return bool(bars) and max(map(min, zip(*bars, strict=True))) > self.config.max_bar

    def _runs(self, shot: Shot) -> Iterator[tuple[str | None, float, float, list[Measure]]]:
        """(what is wrong or None, start, end, measures) of stretches whose frames are of one sort."""
        runs = [(verdict, list(group)) for verdict, group in itertools.groupby(shot.measures, key=self._verdict)]
        if not runs:
            yield SHORT, shot.start, shot.end, []
        starts = [shot.start, *(measures[0].time for _, measures in runs[1:]), shot.end]
        for (verdict, measures), start, end in zip(runs, starts, starts[1:], strict=False):
            yield verdict, start, end, measures

    def _verdict(self, measured: Measure) -> str | None:
        if measured.luma < self.config.min_luma:
            return BLACK
        return BLURRED if measured.sharpness < self.config.min_sharpness else None

    def _judge(self, clip: Clip, measures: list[Measure], examined: Examined) -> None:
        motion = self._motion(clip, measures)
        if motion < self.config.min_motion:
            examined.report.drop(SLOW, clip.end - clip.start)
            return
        first, *others = (m.thumbnail for m in measures)
        change = max((mean_squared_difference(first, other) for other in others), default=0.0)
        dynamic = motion > self.config.static_motion or change > self.config.static_mse
        feature = self._feature(clip, measures)
        examined.report.keep(clip.end - clip.start)
        examined.candidates.append(Candidate(replace(clip, motion=round(motion, 3), dynamic=dynamic), feature))

    def _motion(self, clip: Clip, measures: list[Measure]) -> float:
        if self._point_tracker is not None:
            size = _scaled(clip.size, _TRACKED_SIDE / max(clip.size))
            frames = np.stack([frame for _, frame in clip.frames(size)])
            return motion_of_tracks(self._point_tracker.track(frames, grid_points(size)), size[1], clip.fps)
        motions = [m.motion for m in measures if m.motion is not None]
        return float(np.mean(motions)) if motions else 0.0

    def _feature(self, clip: Clip, measures: list[Measure]) -> np.ndarray:
        if self.config.encoder is None:
            return colour_gradients([m.thumbnail for m in measures])
        fps = _ENCODED_FRAMES / (clip.end - clip.start)
        size = _scaled(clip.size, _ENCODED_SIDE / min(clip.size))
        return self._encoder([frame for _, frame in replace(clip, fps=fps).frames(size)])


def curate(
    paths: Iterable[str | Path],
    config: CurationConfig | None = None,
    *,
    tracker: Tracker | None = None,
    map_videos: Callable[[Curator, Sequence[Path]], Iterable[Examined]] = map,
) -> tuple[list[Clip], CurationReport]:
    """The clips worth keeping of videos, and what became of every input. No broken video raises.

    paths: files, and folders with videos at any depth; config: None for the papers' thresholds; tracker: in place of
    config.tracker. map_videos: calls the Curator with every path and gives the results in order, as `map` does; another
    one may use many processes.
    Raises ValueError for paths that do not exist, for settings that make no sense and models that cannot be loaded.
    """
    config = config or CurationConfig()
    videos, ignored = find_files(paths)
    examined = list(map_videos(Curator(config, tracker), videos))
    candidates = [(one.report, candidate) for one in examined for candidate in one.candidates]
    duplicates = _duplicates([candidate.feature for _, candidate in candidates], config.max_similarity)
    clips = []
    for number, (report, candidate) in enumerate(candidates):
        if number not in duplicates:
            clips.append(candidate.clip)
            continue
        original = candidates[duplicates[number]][1].clip
        report.kept -= 1
        report.kept_seconds -= candidate.clip.end - candidate.clip.start
        report.drop(DUPLICATE, candidate.clip.end - candidate.clip.start)
        report.duplicates.append((candidate.clip.id, original.id))
    return clips, CurationReport(config, [one.report for one in examined], ignored)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _duplicates(features: list[np.ndarray], above: float) -> dict[int, int]:
    return find_duplicates(np.stack(features), above) if features and above < 1 else {}
