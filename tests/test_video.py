"""Video files keep their times, size, colours and sound; windows join without seams, in the memory of one window."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import write_video

from data_builders.world.video import WorldVideo
from unireal.request import Request
from unireal.video.command import save_video
from unireal.video.files import VideoFile, VideoWriter, check_video_output
from unireal.video.windows import open_clip, video_frames

av = pytest.importorskip("av")

RATE = Fraction(30000, 1001)


def _pictures(count: int, size: tuple[int, int] = (48, 64), seed: int = 3) -> np.ndarray:
    return WorldVideo(seed, size, count, movers=1).frames


def _write(
    path: Path,
    frames: np.ndarray,
    times: list[Fraction] | None = None,
    sound: float = 0.0,
    rotation: int = 0,
    codec: str = "libx264",
    audio_codec: str = "aac",
    pixel_aspect: Fraction = Fraction(1),
) -> Path:
    """A video as a camera makes it, by PyAV alone. times: seconds of the frames; sound: seconds of a tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options={"crf": "10"} if codec == "libx264" else {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90000)
        stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        tone = container.add_stream(audio_codec, rate=48000) if sound else None
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            time = index / RATE if times is None else times[index]
            frame.time_base, frame.pts = Fraction(1, 90000), round(time * 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            wave = 0.3 * np.sin(np.arange(int(48000 * sound)) * 2 * np.pi * 440 / 48000)
            samples = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 48000, 0
            container.mux(tone.encode(samples))
            container.mux(tone.encode(None))
    return path


def _sound(path: Path) -> list[tuple[float, bytes]]:
    """(seconds, bytes) of every packet of sound."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.dts is not None]
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets]


def _copy(source: Path, target: Path, **options) -> None:
    save_video(iter, target, VideoFile(source), **options)


def _close(one: np.ndarray, other: np.ndarray, tolerance: float = 4.0) -> bool:
    """Whether two pictures are equal but for what compression does."""
    return np.abs(one.astype(float) - other.astype(float)).mean() < tolerance


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_a_copied_video_has_the_same_frames_at_the_same_times(tmp_path, suffix):
    frames = _pictures(7)
    source = _write(tmp_path / "in.mp4", frames)
    _copy(source, tmp_path / f"out{suffix}")
    old, new = VideoFile(source), VideoFile(tmp_path / f"out{suffix}")
    assert new.size == old.size == (48, 64)
    assert float(new.rate) == pytest.approx(float(RATE), rel=1e-3)
    pairs = list(zip(old.frames(), new.frames(), strict=True))
    assert len(pairs) == 7
    for a, b in pairs:
        assert abs(a.time - b.time) <= Fraction(1, 1000)  # MKV and WebM count in milliseconds
        assert _close(a.image, b.image)
    assert [p.name for p in sorted(tmp_path.iterdir())] == sorted({"in.mp4", f"out{suffix}"})


@pytest.mark.parametrize(
    "name", ["12:30:00.mp4", "100% %03d.mkv", "two\nlines.mov", "http://x/视频.mp4", "lat\udcef.mp4"]
)
def test_files_may_have_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "in.mp4", _pictures(3), sound=0.2)
    _copy(Path("in.mp4"), Path(name))
    _copy(Path(name), Path("again.mp4"))
    assert len(list(VideoFile("again.mp4"))) == 3 and len(_sound(Path("again.mp4"))) > 5


def test_times_of_a_variable_rate_stay(tmp_path):
    times = [Fraction(t, 100) for t in (0, 3, 4, 20, 21, 60)]
    source = _write(tmp_path / "in.mp4", _pictures(6), times)
    _copy(source, tmp_path / "out.mp4")
    assert [f.time for f in VideoFile(tmp_path / "out.mp4").frames()] == times


def test_times_in_the_wrong_order_do_not_make_a_video_jerk(tmp_path):
    """As files have them whose packets were stored without their times of showing."""
    ordered = write_video(tmp_path / "ordered.mp4", _pictures(20), fps=10, bf="3")
    with av.open(str(ordered)) as given, av.open(str(tmp_path / "in.mp4"), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.stream = packet.dts, stream
                container.mux(packet)
    times = [frame.time for frame in VideoFile(tmp_path / "in.mp4").frames()]
    gaps = [float(b - a) for a, b in pairwise(times)]
    assert len(gaps) > 15 and max(gaps) < 0.21
    assert gaps[4:] == [pytest.approx(0.1)] * (len(gaps) - 4)  # before, nothing is known to be wrong


def test_sound_is_copied_bit_for_bit(tmp_path):
    source = _write(tmp_path / "in.mp4", _pictures(30), sound=1.0)
    for name in ("out.mp4", "out.mkv"):
        _copy(source, tmp_path / name)
        before, after = _sound(source), _sound(tmp_path / name)
        assert [data for _, data in after] == [data for _, data in before] and len(after) > 20
        # MKV starts at 0 where MP4 starts before it, with what the decoder drops
        shift = after[0][0] - before[0][0]
        np.testing.assert_allclose([t for t, _ in after], [t + shift for t, _ in before], atol=2e-3)
        assert 0 <= shift < 0.05


def test_tracks_keep_their_languages(tmp_path):
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for language in ("deu", "fra"):
            tone = container.add_stream("aac", rate=48000, layout="mono")
            tone.metadata["language"] = language
        for image in _pictures(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for tone in container.streams.audio:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 48000, 0
            container.mux([*tone.encode(samples), *tone.encode(None)])
        container.mux(stream.encode(None))
    for name in ("out.mkv", "out.mp4"):
        _copy(tmp_path / "in.mkv", tmp_path / name)
        with av.open(str(tmp_path / name)) as container:
            assert [track.metadata["language"] for track in container.streams.audio] == ["deu", "fra"]


def test_sound_ends_with_a_video_that_is_cut(tmp_path):
    source = _write(tmp_path / "in.mp4", _pictures(30), sound=1.0)

    def first_ten(frames):
        return (image for _, image in zip(range(10), frames, strict=False))

    assert save_video(first_ten, tmp_path / "out.mp4", VideoFile(source), trim=True) == 10
    assert 0.25 < _sound(tmp_path / "out.mp4")[-1][0] < 10 / RATE


def test_sound_that_the_new_file_cannot_hold(tmp_path):
    source = VideoFile(_write(tmp_path / "in.mp4", _pictures(4), sound=0.2))
    with pytest.raises(ValueError, match=r"aac, which \.webm files cannot hold; write a \.mkv"):
        check_video_output(tmp_path / "out.webm", source)


def test_sound_that_only_its_codec_could_be_in_the_new_file(tmp_path):
    """MP4 holds PCM, but not without the places of its channels, which AVI does not tell."""
    source = VideoFile(_write(tmp_path / "in.avi", _pictures(4), sound=0.2, audio_codec="pcm_s16le"))
    with pytest.raises(ValueError, match=r"pcm_s16le, which \.mp4 files cannot hold; write a \.mkv"):
        check_video_output(tmp_path / "out.mp4", source)
    _copy(source.path, tmp_path / "out.mkv")
    assert len(_sound(tmp_path / "out.mkv")) == len(_sound(source.path))


def test_joined_recordings_have_a_clock_that_jumps(tmp_path):
    one = _write(tmp_path / "one.ts", _pictures(60), sound=2.0).read_bytes()
    (tmp_path / "joined.ts").write_bytes(one + one)
    with pytest.raises(ValueError, match=r"jump back at 2\.\d\d s.*; write it with one clock first, as with ffmpeg"):
        _copy(tmp_path / "joined.ts", tmp_path / "out.mp4")
    with pytest.raises(ValueError, match=r"jump back at 2\.\d\d s"):
        list(VideoFile(tmp_path / "joined.ts"))
    assert not list(tmp_path.glob("*out*"))


def test_titles_come_in_any_encoding(tmp_path):
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        container.metadata["title"] = "cafXX"
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for image in _pictures(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "in.mkv").write_bytes((tmp_path / "in.mkv").read_bytes().replace(b"cafXX", b"caf\xe9\xff"))
    assert len(list(VideoFile(tmp_path / "in.mkv"))) == 3


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotated_videos_come_upright(tmp_path, degrees):
    frames = _pictures(3)
    source = VideoFile(_write(tmp_path / "in.mp4", frames, rotation=degrees))
    upright = [np.rot90(image, degrees // 90) for image in frames]
    assert source.size == upright[0].shape[:2]
    assert all(_close(a, b) for a, b in zip(source, upright, strict=True))
    _copy(source.path, tmp_path / "out.mp4")  # and stay so, without a mark to turn them again
    again = VideoFile(tmp_path / "out.mp4")
    assert again.size == source.size and all(_close(a, b) for a, b in zip(again, upright, strict=True))


@pytest.mark.parametrize(("degrees", "expected"), [(0, Fraction(4, 3)), (90, Fraction(3, 4))])
def test_the_shape_of_pixels_is_kept(tmp_path, degrees, expected):
    source = _write(tmp_path / "in.mp4", _pictures(3), rotation=degrees, pixel_aspect=Fraction(4, 3))
    _copy(source, tmp_path / "out.mp4")
    assert VideoFile(source).pixel_aspect == VideoFile(tmp_path / "out.mp4").pixel_aspect == expected


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("size", [(33, 47), (64, 48), (2, 2)])
def test_sizes_and_colours_are_kept(tmp_path, size, suffix):
    image = np.zeros((*size, 3), np.uint8)
    image[: size[0] // 2], image[size[0] // 2 :] = (222, 38, 38), (42, 78, 226)
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, RATE) as writer:
        for _ in range(3):
            writer.write(image)
    video = VideoFile(path)
    assert video.size == size
    for shown in video:
        assert np.abs(shown[0, 0].astype(int) - image[0, 0]).max() <= 4 if min(size) > 2 else True
        assert shown.shape == image.shape and _close(shown, image, 8.0 if min(size) > 2 else 80.0)


def test_a_copy_is_not_darker(tmp_path):
    picture = np.asarray(Image.open(Path(__file__).parents[1] / "examples" / "room.png").convert("RGB"))
    with VideoWriter(tmp_path / "out.mp4", RATE) as writer:
        for _ in range(3):
            writer.write(picture)
    for shown in VideoFile(tmp_path / "out.mp4"):
        assert np.abs((shown.astype(int) - picture).mean(axis=(0, 1))).max() < 0.5


def test_nothing_is_left_of_a_video_that_fails(tmp_path):
    def failing(frames):
        yield next(frames)
        raise RuntimeError("out of memory")

    source = VideoFile(_write(tmp_path / "in.mp4", _pictures(3), sound=0.2))
    with pytest.raises(RuntimeError, match="memory"):
        save_video(failing, tmp_path / "out.mp4", source)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_video_of_one_frame_is_read_and_written(tmp_path, suffix):
    picture = _pictures(2)[0]
    _write(tmp_path / "in.mp4", picture[None])
    _copy(tmp_path / "in.mp4", tmp_path / f"out{suffix}")
    (made,) = VideoFile(tmp_path / f"out{suffix}")
    assert made.shape == picture.shape and np.abs(made.astype(int) - picture).mean() < 4


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "text.mp4").write_text("no video " * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        tone = container.add_stream("aac", rate=48000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 48000
        container.mux(tone.encode(samples))
        container.mux(tone.encode(None))
    for name in ("still.png", "still.jpg", "still.tga"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    whole = _write(tmp_path / "whole.mkv", np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8))
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[:600])
    known = _write(tmp_path / "known.mp4", _pictures(3)).read_bytes()
    (tmp_path / "alien.mp4").write_bytes(known.replace(b"avc1", b"zzzz"))
    for name, told in (
        ("nothing.mp4", "is not a file"),
        (".", "is not a file"),
        ("text.mp4", "cannot be read as a video"),
        ("empty.mp4", "it is empty"),
        ("sound.mp4", "holds sound alone"),
        ("still.png", "is read as a still picture; edit it as a picture, or give a video"),
        ("still.jpg", "is read as a still picture"),
        ("still.tga", "is read as a still picture"),
        ("alien.mp4", "in a codec that cannot be decoded here; convert it"),
        ("cut.mkv", "no frames that can be decoded|cannot be decoded"),
    ):
        with pytest.raises(ValueError, match=told) as caught:
            VideoFile(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("video", [5, Image.new("RGB", (8, 8))])
def test_what_is_no_video_at_all(video):
    with pytest.raises(ValueError, match="a video is the path of a file or a list of pictures"):
        open_clip(video)


def test_frames_of_one_video_have_one_size():
    frames = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)]
    with pytest.raises(ValueError, match="frame 2 has 9x8 pixels, the first 8x8"):
        list(open_clip(frames))


# Windows


class Recorder:
    """A stand-in for a model whose answers are known: brightens by `gain`, or by what the reference was brightened."""

    def __init__(self, gain: int = 20, drift: int = 0):
        self.gain, self.drift, self.windows = gain, drift, []

    def __call__(self, sample):
        canvases = [frame.image for frame in sample.inputs if frame.role == "canvas"]
        self.windows.append(sample)
        offset = self.gain + self.drift * (len(self.windows) - 1)
        return [image + np.uint8(offset) for image in canvases]

    def forgetful(self, sample):
        made = self(sample)
        self.windows.clear()
        return made


def _numbered(count: int, size: tuple[int, int] = (8, 8)) -> list[np.ndarray]:
    """Frame number i is grey level i."""
    return [np.full((*size, 3), i, np.uint8) for i in range(count)]


EDIT = Request("video_edit", "Make the red circle green.")


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 8, 10, 13, 14])
def test_every_frame_is_edited_once_and_in_order(count):
    model = Recorder()
    frames = list(video_frames(EDIT, iter(_numbered(count)), (64, 64), model))
    assert [int(frame[0, 0, 0]) for frame in frames] == [i + 20 for i in range(count)]
    assert all(len(window.results) == 4 for window in model.windows)


def test_later_windows_are_given_how_their_first_frame_came_out():
    model = Recorder(gain=50)
    list(video_frames(EDIT, iter(_numbered(9)), (64, 64), model))
    assert [[int(f.image[0, 0, 0]) for f in window.inputs] for window in model.windows] == [
        [0, 1, 2, 3],
        [3, 4, 5, 6, 53],  # the asset comes last, so that the canvases keep their names
        [5, 6, 7, 8, 55],  # the last window is as long as the others
    ]
    assert [window.inputs[-1].role for window in model.windows] == ["canvas", "asset", "asset"]


def test_a_reference_of_the_user_is_for_the_first_window():
    model = Recorder()
    request = Request("video_edit", "Make it green.", asset=[np.full((8, 8, 3), 99, np.uint8)])
    list(video_frames(request, iter(_numbered(7)), (64, 64), model))
    assert [int(window.inputs[-1].image[0, 0, 0]) for window in model.windows] == [99, 23]


def test_a_seam_is_no_jump():
    """A model that answers each window 8 grey levels brighter: the frame that two windows share lies between."""
    frames = list(video_frames(EDIT, iter([np.zeros((8, 8, 3), np.uint8)] * 10), (64, 64), Recorder(0, drift=8)))
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 0, 0, 4, 8, 8, 12, 16, 16, 16]


def test_num_frames_and_longer_windows():
    model = Recorder()
    request = Request("video_edit", "Make it green.", num_frames=9, num_results=6)
    assert len(list(video_frames(request, iter(_numbered(20)), (64, 64), model))) == 9
    assert [len(window.results) for window in model.windows] == [6, 6]


def test_a_video_goes_on_from_its_last_frame():
    def brighter(sample):
        start = int(sample.inputs[0].image[0, 0, 0]) if sample.inputs else 0
        return [np.full((*sample.results[0].size, 3), start + 1 + i, np.uint8) for i in range(len(sample.results))]

    made = list(video_frames(Request("t2v", "A red circle.", num_frames=10), None, (16, 24), brighter))
    assert [int(f[0, 0, 0]) for f in made] == list(range(1, 11)) and made[9].shape == (16, 24, 3)
    first = np.full((8, 12, 3), 100, np.uint8)
    made = list(video_frames(Request("t2v", "It moves up.", canvas=[first]), None, (16, 24), brighter))
    assert [int(f[0, 0, 0]) for f in made] == [100, 101, 102, 103, 104]
    np.testing.assert_array_equal(made[0], first)


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({}, [4]),
        ({"num_frames": 2}, [4]),
        ({"num_frames": 6}, [6]),
        ({"num_frames": 16}, [8, 8]),
        ({"num_frames": 18}, [6, 6, 6]),
        ({"num_frames": 16, "num_results": 4}, [4] * 4),
        ({"canvas": [np.zeros((8, 8, 3), np.uint8)]}, [4]),
        ({"canvas": [np.zeros((8, 8, 3), np.uint8)], "num_frames": 17}, [8, 8]),
    ],
)
def test_new_videos_are_made_in_few_windows_of_one_length(options, lengths):
    """Each window loses a little of what it goes on from."""
    made = []

    def blank(sample):
        made.append(len(sample.results))
        return [frame.image for frame in sample.results]

    frames = list(video_frames(Request("t2v", "A red circle.", **options), None, (8, 8), blank))
    assert made == lengths and len(frames) == options.get("num_frames", 4 + len(options.get("canvas", ())))


def _peak(run) -> int:
    """Bytes that Python and numpy held at most, above what they held before."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_holds_a_window_whatever_the_length(tmp_path):
    picture = _pictures(2, (64, 64))[0]
    held = []
    for count in (40, 600):
        source = VideoFile(_write(tmp_path / f"{count}.mkv", np.broadcast_to(picture, (count, 64, 64, 3)), sound=0.5))

        def edit(source=source, count=count):
            made = save_video(
                lambda frames: video_frames(EDIT, frames, (64, 64), Recorder().forgetful), tmp_path / "out.mkv", source
            )
            assert made == count

        held.append(_peak(edit))
    assert held[1] < 40 * picture.nbytes and held[1] < 1.3 * held[0]
