"""What curation keeps, drops and cuts, at the very values of its thresholds, from made-up measures of videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from video_files import sliding_scene, write_video

from data_builders.builders.sources import whole_clips
from data_builders.clips import curate as curation
from data_builders.clips.config import CurationConfig
from data_builders.clips.curate import Curator, Examined
from data_builders.clips.measure import Measure, Overview, Shot, black_bars, measure
from data_builders.clips.motion import is_dynamic

DITTO = CurationConfig()
SPACING = 0.2  # seconds between measures
ONE_CLIP = DITTO.num_frames / DITTO.fps
FINE = Measure(0.0, 0.5, 1.0, (0.0, 0.0, 0.0, 0.0), 20.0, np.full((18, 32, 3), 100, np.uint8))
Curate = Callable[..., Examined]


def measures(seconds: float, start: float = 0.0, **values) -> list[Measure]:
    return [replace(FINE, time=start + time, **values) for time in np.arange(0, seconds - 1e-6, SPACING)]


def shot(seconds: float, **values) -> Shot:
    return Shot(0.0, seconds, measures(seconds, **values))


@pytest.fixture
def examine(tmp_path, monkeypatch) -> Curate:
    """Examines a video that has these shots, whatever a decoder would say."""
    path = tmp_path / "video.mp4"
    path.write_bytes(b"a video")

    def examined(shots: Sequence[Shot], config: CurationConfig = DITTO) -> Examined:
        overview = Overview((360, 640), 25.0, shots[-1].end, shots=list(shots))
        monkeypatch.setattr(curation, "measure", lambda *given: overview)
        return Curator(config)(path)

    return examined


@pytest.mark.parametrize(
    ("name", "kept", "dropped", "reason"),
    [
        ("luma", 0.06, 0.0599, "black"),
        ("sharpness", 0.15, 0.1499, "blurred"),
        ("bars", (0.04, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0401), "letterboxed"),
        ("motion", 15.0, 14.99, "too little motion"),
    ],
)
def test_a_clip_is_dropped_beyond_the_threshold_and_not_at_it(examine, name, kept, dropped, reason):
    found = examine([shot(ONE_CLIP, **{name: kept})])
    assert (found.report.kept, found.report.dropped) == (1, {}) and len(found.candidates) == 1
    found = examine([shot(ONE_CLIP, **{name: dropped})])
    assert (found.report.kept, found.report.dropped) == (0, {reason: 1}) and not found.candidates
    assert found.report.dropped_seconds[reason] == pytest.approx(ONE_CLIP)


@pytest.mark.parametrize(
    ("option", "value", "spoilt"),
    [
        ("min_luma", 0.3, {"luma": 0.2}),
        ("min_sharpness", 0.4, {"sharpness": 0.3}),
        ("max_bar", 0.01, {"bars": (0.0, 0.0, 0.02, 0.0)}),
        ("min_motion", 30.0, {"motion": 20.0}),
    ],
)
def test_options_move_the_thresholds(examine, option, value, spoilt):
    assert examine([shot(ONE_CLIP, **spoilt)]).report.kept == 1
    assert examine([shot(ONE_CLIP, **spoilt)], replace(DITTO, **{option: value})).report.kept == 0


def test_bars_that_do_not_stay_are_no_letterbox(examine):
    seen = shot(ONE_CLIP, bars=(0.2, 0.2, 0.0, 0.0))
    seen.measures[3] = replace(seen.measures[3], bars=(0.0, 0.0, 0.2, 0.2))
    assert examine([seen]).report.kept == 1


@pytest.mark.parametrize(("seconds", "clips", "dropped"), [
    (100 / 20, 0, {"too short": 1}), (101 / 20, 1, {}), (101.5 / 20, 1, {"rest of a shot": 1}), (202 / 20, 2, {}),
    (303 / 20 - 0.01, 2, {"rest of a shot": 1}),
])  # fmt: skip
def test_shots_are_cut_into_clips_of_full_length(examine, seconds, clips, dropped):
    found = examine([shot(seconds)])
    bounds = [bound for one in found.candidates for bound in (one.clip.start, one.clip.end)]
    assert bounds == pytest.approx([ONE_CLIP * (k + end) for k in range(clips) for end in (0, 1)])
    assert {one.clip.num_frames for one in found.candidates} <= {101}
    assert found.report.dropped == dropped
    told = found.report.kept_seconds + sum(found.report.dropped_seconds.values())
    assert told == pytest.approx(seconds)


def test_shorter_clips_are_kept_down_to_the_least_length(examine):
    config = replace(DITTO, num_frames=40, min_frames=20)
    found = examine([shot(60 / 20)], config)
    assert [one.clip.num_frames for one in found.candidates] == [40, 20]
    found = examine([shot(59 / 20)], config)
    assert [one.clip.num_frames for one in found.candidates] == [40] and found.report.dropped == {"rest of a shot": 1}


def test_every_clip_is_judged_by_its_own_measures(examine):
    """The first and the third part of a shot move; so does the second, a little and not enough."""
    moving = [(ONE_CLIP * k, 20.0 + k if k != 1 else 10.0) for k in range(3)]
    seen = Shot(0.0, 3 * ONE_CLIP, [])
    for start, motion in moving:
        seen.measures.extend(replace(FINE, time=start + time, motion=motion) for time in np.arange(0, ONE_CLIP, 0.2))
    found = examine([seen])
    assert [(one.clip.start, one.clip.motion) for one in found.candidates] == [(0.0, 20.0), (2 * ONE_CLIP, 22.0)]
    assert found.report.dropped == {"too little motion": 1}


def test_motion_is_the_mean_over_the_clip(examine):
    seen = shot(ONE_CLIP, motion=10.0)
    seen.measures[:] = [replace(m, motion=40.0 if k % 2 else None) for k, m in enumerate(seen.measures)]
    seen.measures[1] = replace(seen.measures[1], motion=10.0)
    (found,) = examine([seen]).candidates
    count = sum(m.motion is not None for m in seen.measures)
    assert found.clip.motion == pytest.approx((40.0 * (count - 1) + 10) / count, abs=1e-3)


def test_black_frames_in_a_shot_part_it(examine):
    parts = [measures(ONE_CLIP), measures(1.0, ONE_CLIP, luma=0.0), measures(ONE_CLIP, ONE_CLIP + 1.0)]
    found = examine([Shot(0.0, 2 * ONE_CLIP + 1.0, [m for part in parts for m in part])])
    assert [one.clip.start for one in found.candidates] == pytest.approx([0.0, ONE_CLIP + 1.0])
    assert found.report.dropped == {"black": 1} and found.report.dropped_seconds["black"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("motion", "change", "dynamic"), [(1.0, 0.0019, False), (1.01, 0.0, True), (0.0, 0.0021, True)]
)
def test_what_moves_or_changes_is_dynamic(examine, motion, change, dynamic):
    """change: mean squared difference between the first picture and one in the midst of the clip."""
    seen = shot(ONE_CLIP, motion=motion)
    first = FINE.thumbnail.copy()
    first[:] = 0
    other = np.zeros_like(first)
    other.flat[: round(change * first.size)] = 255
    seen.measures[:] = [replace(m, thumbnail=other if k == 7 else first) for k, m in enumerate(seen.measures)]
    (found,) = examine([seen], replace(DITTO, min_motion=0.0)).candidates
    assert found.clip.dynamic is dynamic
    (found,) = examine([seen], replace(DITTO, min_motion=0.0, static_motion=2.0, static_mse=0.1)).candidates
    assert found.clip.dynamic is False


def test_clips_have_the_size_that_is_asked_for_or_their_own(examine):
    assert examine([shot(ONE_CLIP)]).candidates[0].clip.size == (720, 1280)
    assert examine([shot(ONE_CLIP)], replace(DITTO, size=None)).candidates[0].clip.size == (360, 640)


def test_near_duplicates_are_counted_as_dropped_and_not_as_kept(tmp_path):
    """Two clips at a cosine of 0.85, of which nothing says that they are alike, and a third above it."""
    paths = [tmp_path / f"{number}.mp4" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    features = [np.array(v, np.float32) for v in ((1, 0, 0), (0.85, np.sqrt(1 - 0.85**2), 0), (0.86, 0, 0.51))]

    def found(curator: Curator, videos: Sequence[Path]) -> list[Examined]:
        made = []
        for path, feature in zip(videos, features, strict=True):
            clip = curation.Clip(str(path), path.stem, 0.0, 5.05, 20.0, (720, 1280))
            made.append(Examined(curation.VideoReport(str(path)), [curation.Candidate(clip, feature)]))
            made[-1].report.keep(5.05)
        return made

    clips, report = curation.curate(paths, replace(DITTO, max_similarity=float(np.float32(0.85))), map_videos=found)
    assert [clip.path for clip in clips] == [str(path) for path in paths[:2]]
    assert [(video.kept, video.kept_seconds) for video in report.videos] == [(1, 5.05), (1, 5.05), (0, 0.0)]
    assert report.videos[2].dropped == {"near-duplicate": 1} and report.videos[2].duplicates == [("2@0", "0@0")]
    features[2] = features[0] = np.array([1 + 1e-6, 0, 0], np.float32)  # the cosine of the same may be above 1
    assert len(curation.curate(paths, replace(DITTO, max_similarity=1.0), map_videos=found)[0]) == 3


# What is measured


class Told:
    """A detector that tells of a cut some frames late, as they do."""

    def __init__(self, cut: int, late: int):
        self.cut, self.late, self.count = cut, late, 0

    def push(self, picture: np.ndarray) -> list[int]:
        self.count += 1
        return [self.cut] if self.count == self.cut + self.late + 1 else []

    def finish(self) -> list[int]:
        return []


@pytest.fixture(scope="module")
def blurred_then_sharp(tmp_path_factory) -> Callable[[int], Path]:
    """A video of so many blurred frames and 15 sharp ones, 25 a second."""
    import cv2

    def written(blurred: int) -> Path:
        scenes = sliding_scene(blurred, (180, 320), seed=1), sliding_scene(15, (180, 320), seed=2)
        frames = [*(cv2.GaussianBlur(frame, (0, 0), 6) for frame in scenes[0]), *scenes[1]]
        return write_video(tmp_path_factory.mktemp("video") / "two.mkv", frames, "ffv1")

    return written


def test_a_shot_has_the_sharpness_of_its_own_frames_however_late_the_cut_is_told(blurred_then_sharp):
    """The frame at 1.2 s is measured before the cut there is known; within the second shot no other look is due."""
    before, after = measure(blurred_then_sharp(30), lambda fps: Told(30, 2), 5.0).shots
    assert (before.end, after.start) == (pytest.approx(1.2), pytest.approx(1.2))
    assert after.measures[0].time == pytest.approx(1.2) and len(after.measures) >= 3
    assert all(m.sharpness < 0.15 for m in before.measures)
    assert all(m.sharpness > 0.5 for m in after.measures)


def test_motion_is_not_measured_across_a_cut(blurred_then_sharp):
    """At 1.2 s the next picture, 50 ms later, is that of another shot."""
    before, after = measure(blurred_then_sharp(31), lambda fps: Told(31, 2), 5.0).shots
    assert before.measures[-1].time == pytest.approx(1.2) and before.measures[-1].motion is None
    assert all(m.motion is not None for m in before.measures[:-1])
    assert after.measures[0].motion is not None


def test_bars_are_as_wide_as_they_are():
    grey = np.full((20, 40), 20, np.uint8)
    assert black_bars(grey) == (1, 1, 1, 1)
    grey[2:-4, 8:-6] = 21  # the first that is not black
    assert black_bars(grey) == pytest.approx((2 / 20, 4 / 20, 8 / 40, 6 / 40))
    grey[0, 0] = grey[-1, -1] = 255
    assert black_bars(grey) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", ["loading.mp4", "index-last.avi"])
def test_a_file_that_is_cut_off_is_told(tmp_path, name):
    """An MP4 file whose header comes first, and an AVI file, which FFmpeg takes for as long as its bytes allow."""
    import av

    path, frames = tmp_path / name, sliding_scene(100)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert measure(path, lambda fps: Told(1000, 0), 5.0).stopped is None
    assert not whole_clips([path]).failures
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: positions[70]])  # between two frames, so that none is damaged
    found = measure(path, lambda fps: Told(1000, 0), 5.0)
    assert 1 < found.duration < 3.5
    assert found.stopped == f"ends after {found.duration:.2f} s, though its header says 4.00 s"
    assert [failure.reason for failure in whole_clips([path]).failures] == [found.stopped]


def test_a_pair_of_frames_is_dynamic_from_the_usual_thresholds_on():
    """10 pixels of 1280, that is 1.25 of 160; a change of brightness by 12 of 255 has a mean square of 0.0022."""
    flat = np.full((90, 160, 3), 100, np.uint8)
    assert not is_dynamic(flat, flat + np.uint8(11)) and is_dynamic(flat, flat + np.uint8(12))
    for step, dynamic in ((0.0, False), (1.0, False), (3.0, True)):
        pale = [100 + frame // 10 for frame in sliding_scene(2, (90, 160), seed=1, step=step)]
        assert np.square(pale[0] / 255 - pale[1] / 255).mean() < 0.002
        assert is_dynamic(*pale) is dynamic


# What is told


def test_damaged_seconds_and_enlarged_videos_are_told(monkeypatch, tmp_path):
    overview = Overview((720, 640), 25.0, ONE_CLIP + 1, damaged=1.0, shots=[shot(ONE_CLIP)])
    monkeypatch.setattr(curation, "measure", lambda *given: overview)
    (tmp_path / "a.mp4").write_bytes(b"a video")
    clips, report = curation.curate([tmp_path / "a.mp4"])
    assert len(clips) == 1 and report.videos[0].dropped == {"damaged": 1}
    told = report.describe()
    assert "1 videos, 6.0 s, 1 shots: 1 give clips, 0 give none, 0 cannot be read" in told
    assert "kept: 1 clips of 5.0 s; 1 come from videos smaller than 1280x720" in told
    assert "dropped: 1 damaged, 1.0 s" in told


@pytest.mark.parametrize("wrong", [
    {"min_frames": 0}, {"min_frames": 102}, {"max_bar": 1.01}, {"min_luma": 1.01}, {"min_luma": -0.1},
    {"min_sharpness": -0.1}, {"min_motion": -1.0}, {"static_mse": -1.0}, {"static_motion": float("nan")},
    {"min_shot_seconds": -1.0}, {"fps": 0.0}, {"measures_per_second": 1001.0}, {"max_similarity": 1.01},
])  # fmt: skip
def test_thresholds_that_make_no_sense_are_told(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CurationConfig(**wrong)
