"""More than 200 inputs that are damaged or odd: none stops curation or a build, none is lost without a reason."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import sliding_scene, turn_by_metadata, write_sound, write_video

pytest.importorskip("av", reason="decoding needs the extra `data`")

from data_builders.__main__ import main as data_builders
from data_builders.clips.clip import Clip, find_files
from data_builders.clips.config import CurationConfig
from data_builders.clips.curate import curate
from data_builders.world.export import write_video as write_world_video
from data_builders.world.video import WorldVideo
from unireal.data.__main__ import main as unireal_data
from unireal.data.records import ParquetSamples

CONFIG = CurationConfig(
    size=None, fps=10, num_frames=8, min_frames=2, min_motion=0, max_similarity=1.0, min_sharpness=0
)
FORMATS = {
    "h264.mp4": {"g": "8"},
    "h264.ts": {"g": "8"},
    "vp9.webm": {"codec": "libvpx-vp9", "cpu-used": "8", "deadline": "realtime"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "ffv1.mkv": {"codec": "ffv1", "pixels": "yuv420p"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "wmv2.wmv": {"codec": "wmv2"},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "pal.gif": {"codec": "gif", "pixels": "rgb8"},
}

REASONS = {
    "sound.mp4": "only audio",
    "sound.avi": "only audio",
    "empty.mp4": "cannot be opened",
    "text.mp4": "cannot be opened",
    "playlist.mp4": "cannot be opened",
    "itself.mp4": "leads nowhere",
    "nowhere.mkv": "leads nowhere",
    "pipe.mp4": "is no file",
    "single-ffv1.mkv": "too short",
    "black.mkv": "black",
}
BUILD = ["restore", "--curation", "none", "--views", "2"]


def truncated(folder: Path, sound: dict[str, Path]) -> Iterator[Path]:
    """The sound videos, cut off after a part of their bytes."""
    for name, original in sound.items():
        data = original.read_bytes()
        for share in (0.0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999):
            path = folder / f"cut{share}-{name}"
            path.write_bytes(data[: int(len(data) * share)])
            yield path


def altered(folder: Path, sound: dict[str, Path]) -> Iterator[Path]:
    """The sound videos with wrong bytes, or with a part missing."""
    for name, original in sound.items():
        data = original.read_bytes()
        for seed in range(6):
            rng = random.Random(f"{name}{seed}")
            wrong = bytearray(data)
            for _ in range(1 << seed):
                wrong[rng.randrange(len(wrong))] = rng.randrange(256)
            path = folder / f"wrong{seed}-{name}"
            path.write_bytes(wrong)
            yield path
        third = len(data) // 3
        for kind, content in {"headless": data[third:], "gap": data[:third] + data[-third:]}.items():
            path = folder / f"{kind}-{name}"
            path.write_bytes(content)
            yield path


def misnamed(folder: Path, sound: dict[str, Path]) -> Iterator[Path]:
    """Zero bytes, and what the suffix does not say."""
    for suffix in (".mp4", ".mkv", ".avi", ".gif", ".webm", ".mov", ".mpg", ".ts"):
        path = folder / f"empty{suffix}"
        path.write_bytes(b"")
        yield path
    contents = {
        "text.mp4": b"This is no video.\n" * 50,
        "zeros.avi": bytes(5000),
        "noise.mkv": random.Random(0).randbytes(20000),
        "page.webm": b"<html><body>404</body></html>",
        "playlist.mp4": b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/stolen.ts\n#EXT-X-ENDLIST\n",
        "list.ts": f"ffconcat version 1.0\nfile '{sound['h264.mp4']}'\n".encode(),
        "archive.mp4": b"PK\x03\x04" + bytes(100),
    }
    for name, content in contents.items():
        path = folder / name
        path.write_bytes(content)
        yield path
    for name in ("picture.mp4", "picture.avi", "picture.gif"):
        path = folder / name
        Image.new("RGB", (40, 30), (200, 30, 30)).save(path, format="PNG")
        yield path
    for number, (name, original) in enumerate(sound.items()):
        yield shutil.copy(original, folder / f"{name}.{('mp4', 'avi', 'gif', 'mkv')[number % 4]}")
    yield shutil.copy(sound["h264.mp4"], folder / "video.txt")


def odd(folder: Path) -> Iterator[Path]:
    """Valid videos that few programs expect."""
    for name, codec, muxer in (
        ("sound.mp4", "aac", None),
        ("sound.mkv", "aac", None),
        ("sound.avi", "pcm_s16le", None),
        ("sound.webm", "libopus", None),
        ("mp3.mp4", "libmp3lame", "mp3"),
    ):
        yield write_sound(folder / name, codec, muxer)
    for name, options in FORMATS.items():
        yield write_video(folder / f"single-{name}", sliding_scene(1), **options)
    for height, width in (
        (1, 1),
        (1, 64),
        (64, 1),
        (3, 5),
        (15, 17),
        (16, 16),
        (33, 31),
        (49, 63),
        (127, 2),
        (20, 700),
    ):
        frames = sliding_scene(10, (height, width))
        yield write_video(folder / f"odd-{width}x{height}.mov", frames, "png", "rgb24")
        yield write_video(folder / f"odd-{width}x{height}.gif", frames, "gif", "rgb8")
    for number, times in enumerate(
        (
            [0, 10, 20, 500, 510, 900, 901, 2000, 2100, 5000],
            [k * k * 7 for k in range(10)],
            [k // 2 * 80 for k in range(10)],
        )
    ):
        frames = sliding_scene(10)
        yield write_video(folder / f"variable{number}.mkv", frames, "ffv1", times=times)
        strictly = [time + k for k, time in enumerate(times)]
        yield write_video(folder / f"variable{number}.mp4", frames, times=strictly)
    for turn in (90, 180, 270):
        path = write_video(folder / f"turned{turn}.mp4", sliding_scene(12))
        yield turn_by_metadata(path, turn)
    quiet = {"x265-params": "log-level=none"}
    for name, codec, pixels in (
        ("deep.mkv", "ffv1", "yuv420p10le"),
        ("deep.mov", "prores_ks", "yuv422p10le"),
        ("deep.mp4", "libx265", "yuv420p10le"),
        ("grey.mkv", "ffv1", "gray"),
        ("grey16.mkv", "ffv1", "gray16le"),
        ("alpha.mkv", "ffv1", "bgra"),
    ):
        yield write_video(folder / name, sliding_scene(12), codec, pixels, **quiet)
    yield write_video(folder / "black.mkv", [np.zeros((48, 64, 3), np.uint8)] * 12, "ffv1")


def linked(folder: Path, sound: dict[str, Path]) -> Iterator[Path]:
    """Links that loop or lead nowhere, and things that are no files."""
    for link, target in (
        ("itself.mp4", "itself.mp4"),
        ("one.mp4", "two.mp4"),
        ("two.mp4", "one.mp4"),
        ("nowhere.mkv", "missing.mkv"),
        ("again.mp4", str(sound["h264.mp4"])),
    ):
        os.symlink(target, folder / link)
        yield folder / link
    os.symlink("..", folder / "up")
    os.symlink(".", folder / "here")
    os.mkdir(folder / "folder.mp4")
    os.symlink(folder, folder / "folder.mp4" / "loop")
    os.mkfifo(folder / "pipe.mp4")
    yield folder / "pipe.mp4"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Path, dict[str, list[Path]]]:
    """A folder of inputs, and the same in groups."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("sound", "truncated", "altered", "misnamed", "odd", "linked"):
        (folder / name).mkdir()
    sound = {name: write_video(folder / "sound" / name, sliding_scene(), **o) for name, o in FORMATS.items()}
    groups = {
        "sound": list(sound.values()),
        "truncated": list(truncated(folder / "truncated", sound)),
        "altered": list(altered(folder / "altered", sound)),
        "misnamed": [Path(path) for path in misnamed(folder / "misnamed", sound)],
        "odd": list(odd(folder / "odd")),
        "linked": list(linked(folder / "linked", sound)),
    }
    return folder, groups


@pytest.fixture(scope="module")
def curated(inputs):
    """The inputs, and what curation makes of the folder that they lie in."""
    folder, groups = inputs
    return groups, *curate([folder], CONFIG)


def test_every_input_is_kept_or_listed_with_its_reason(curated):
    groups, clips, report = curated
    inputs = {path for group in groups.values() for path in group}
    assert len(inputs) - len(groups["sound"]) >= 200
    told = {Path(video.path): video for video in report.videos}
    assert len(told) == len(report.videos)
    assert inputs == set(told) | set(report.ignored)
    assert not set(told) & set(report.ignored)
    for path, video in told.items():
        assert video.kept == sum(clip.path == str(path) for clip in clips)
        assert video.kept > 0 or video.reason, path
        assert "\n" not in (video.reason or "")
    stored = {video["path"]: video["reason"] for video in report.to_dict()["videos"]}
    assert all(stored[str(path)] for path, video in told.items() if not video.kept)


def test_every_second_that_was_read_is_kept_or_dropped(curated):
    for video in curated[2].videos:
        assert video.kept_seconds + sum(video.dropped_seconds.values()) == pytest.approx(video.seconds, abs=2e-3), video


def test_sound_videos_are_kept(curated):
    groups, _, report = curated
    told = {Path(video.path): video for video in report.videos}
    for path in groups["sound"]:
        assert told[path].kept and not told[path].error, path
    for path in groups["odd"]:
        if path.name.startswith(("variable", "turned", "deep", "grey", "alpha")):
            assert told[path].kept, (path, told[path].reason)


def test_reasons_are_right(curated):
    report = curated[2]
    reasons = {Path(video.path).name: video.reason or "" for video in report.videos}
    for name, reason in REASONS.items():
        assert reason in reasons[name], (name, reasons[name])
    ignored = {path.name: reason for path, reason in report.ignored.items()}
    assert "suffix" in ignored["video.txt"]
    assert "same file" in ignored["again.mp4"]
    cut = [video for video in report.videos if "/truncated/" in video.path and not video.kept]
    assert len(cut) > 20  # they are not all read as if nothing were wrong


def test_the_sound_parts_of_damaged_videos_are_kept(curated):
    partly = [video for video in curated[2].videos if video.kept and video.dropped["damaged"]]
    assert len(partly) > 5
    assert all(video.dropped_seconds["damaged"] < video.seconds for video in partly)


def test_clips_of_damaged_videos_can_be_read(curated):
    """What curation keeps, read_frames reads: all frames of it, without an error."""
    for clip in curated[1]:
        shapes = {frame.shape for _, frame in clip.frames()}
        assert shapes == {(*clip.size, 3)}, clip
        assert sum(1 for _ in clip.frames((16, 16))) == clip.num_frames, clip


@pytest.fixture(scope="module")
def built(inputs, tmp_path_factory):
    """What a build makes of the folder: its output, the records of each file, the reasons of failures, and of others.

    Without curation, so that the builder meets everything that can be decoded at all.
    """
    folder, _ = inputs
    output = tmp_path_factory.mktemp("built") / "data"
    assert data_builders([*BUILD, "--videos", str(folder), "--output", str(output)]) == 0
    stored = json.loads((output / "clips.json").read_text())
    paths = {Clip.from_dict(clip).id: Path(clip["path"]) for clip in stored["clips"]}
    records = Counter(paths[sample.source["clip"]] for sample in ParquetSamples(output))
    failures = {}
    for line in (output / "failures.jsonl").read_text().splitlines():
        told = json.loads(line)
        failures[Path(told["path"])] = told["reason"]
    return output, records, failures, {Path(path): why for path, why in stored["report"]["ignored"].items()}


def test_a_build_makes_or_lists_every_input(inputs, built):
    groups, (_, records, failures, ignored) = inputs[1], built
    assert {path for group in groups.values() for path in group} == set(records) | set(failures) | set(ignored)
    assert not set(ignored) & (set(records) | set(failures))
    assert all(why.strip() and "\n" not in why for why in [*failures.values(), *ignored.values()])


def test_a_build_makes_what_is_sound(inputs, built):
    groups, (_, records, failures, _) = inputs[1], built
    odd = [path for path in groups["odd"] if path.name.startswith(("variable", "turned", "deep", "grey", "alpha"))]
    for path in groups["sound"] + odd:
        assert records[path] and path not in failures, (path, failures.get(path))
    assert unireal_data(["validate", str(built[0])]) == 0


def test_a_build_tells_the_right_reasons(built):
    _, _, failures, ignored = built
    reasons = {path.name: reason for path, reason in failures.items()}
    for name, reason in REASONS.items():
        if name not in ("black.mkv", "single-ffv1.mkv"):  # what curation finds fault with
            assert reason in reasons[name], (name, reasons[name])
    assert "suffix" in {path.name: why for path, why in ignored.items()}["video.txt"]
    assert any("damaged" in reason and reason.startswith("after") for reason in reasons.values())
    assert all("/picture.avi has too" in reasons[name] for name in ("picture.gif", "picture.mp4"))
    assert reasons["black.mkv"] == "no record is left: the frame has nothing to blur"


def test_a_build_over_broken_inputs_is_made_once(inputs, built, capsys):
    folder, output = inputs[0], built[0]
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.glob("*.parquet")}
    assert data_builders([*BUILD, "--videos", str(folder), "--output", str(output)]) == 0
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.glob("*.parquet")}
    assert before == after
    printed = capsys.readouterr().out
    assert f"{len(before)} shards were there" in printed and "failed" in printed and "video.txt" in printed


def test_a_broken_annotation_costs_its_video_alone(tmp_path, capsys):
    videos, output = tmp_path / "videos", tmp_path / "data"
    for number in range(4):
        write_world_video(WorldVideo(number, (24, 32), 6), videos, f"video-{number}")
    (videos / "video-0.json").write_text((videos / "video-0.json").read_text()[:100])
    (videos / "video-2.json").unlink()
    asked = ["text_to_image", "--captioner", "oracle", "--videos", str(videos), "--output", str(output)]
    assert data_builders([*asked, "--workers", "0"]) == 0
    failures = list(map(json.loads, (output / "failures.jsonl").read_text().splitlines()))
    told = {Path(failure["path"]).name: failure["reason"] for failure in failures}
    assert set(told) == {"video-0.mkv", "video-2.mkv"}
    assert all(name.replace(".mkv", ".json") in reason for name, reason in told.items())
    made = {sample.source["video"].rsplit("-", 1)[0] for sample in ParquetSamples(output)}
    assert made == {"video-1", "video-3"}


def test_a_build_of_broken_inputs_alone_is_an_error(inputs, tmp_path, capsys):
    broken = [str(path) for path in inputs[1]["misnamed"] if path.stat().st_size == 0]
    assert len(broken) == 8
    assert data_builders([*BUILD, "--workers", "0", "--videos", *broken, "--output", str(tmp_path / "data")]) == 2
    told = capsys.readouterr()
    assert "no clip gave a record; the first of 8 failures" in told.err and "Traceback" not in told.err
    assert len((tmp_path / "data" / "failures.jsonl").read_text().splitlines()) == 8


def test_facts_beside_a_video_are_no_lost_videos(tmp_path):
    for name in ("one.mp4", "one.json", "one.npz", "two.json"):
        (tmp_path / name).write_bytes(b"")
    videos, ignored = find_files([tmp_path])
    assert videos == [tmp_path / "one.mp4"]
    assert list(ignored) == [tmp_path / "two.json"]
