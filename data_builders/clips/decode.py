"""Decoding video files: frames one by one with their times, upright, and what goes wrong told in one line."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

EARLY = 1e-3  # seconds: times are rounded to the file's time base, so a frame may come this much early
_MAX_PIXELS = 1 << 27
_MISSING_SECONDS, _MISSING_SHARE = 0.5, 0.05  # headers are not exact; beyond, a file is said to be cut off
# Containers that do not tell of every frame when it is shown: FFmpeg guesses, wrongly for a while after a jump
_GUESSED, _GUESSING = ("avi", "mpeg"), 2.0  # seconds; a program stream of MPEG is to tell it every 0.7


class BadVideo(ValueError):  # noqa: N818  (a file, not a mistake of the program)
    """A file that cannot be read as a video; the message is one line and says why."""


class AbsentVideo(BadVideo):
    """A file that is not there, or may not be read, and may be another time."""


Decoded = Iterator[tuple[float, "VideoFrame | None"]]


@contextmanager
def open_video(path: str | Path, start: float = 0.0, fast: bool = False) -> Iterator[tuple[VideoStream, Decoded]]:
    """The first real video stream, and its decoded frames with their seconds from the first frame.

    The frames begin at or before `start` seconds. Times grow: one that does not is taken for the next moment.
    A frame is None from where something cannot be decoded to the next key frame, as far as the decoder tells: some
    hide small errors by guessing, and asked not to, they refuse files that are in order. fast: without the filter that
    smooths the borders of blocks, a quarter of the work of H.264; that does not show once pictures are scaled down.
    Raises BadVideo for what is no video, also while frames are decoded if the file cannot be read on, and AbsentVideo
    for a file that is not there or may not be read.
    """
    if start > 0:
        with _open(path, fast) as (container, stream):
            if decoded := _seek(container, stream, start):
                yield stream, decoded
                return
    with _open(path, fast) as (container, stream):
        yield stream, _decode(container, stream, _Clock(stream))


@contextmanager
def _open(path: str | Path, fast: bool) -> Iterator[tuple[InputContainer, VideoStream]]:
    import av

    if not Path(path).is_file():
        if os.path.exists(path):
            raise BadVideo("is no file")
        raise AbsentVideo("does not exist, or is a link that leads nowhere")
    try:
        # Only local files: a playlist must not fetch anything. "file:": names may hold colons.
        container = av.open(f"file:{path}", metadata_errors="replace", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        kind = AbsentVideo if isinstance(error, PermissionError) else BadVideo
        raise kind(f"cannot be opened as a video ({_reason(error)})") from error
    with container:
        pictured = av.stream.Disposition.attached_pic  # the cover of an album is no video
        stream = next((s for s in container.streams.video if not s.disposition & pictured), None)
        if stream is None:
            raise BadVideo("holds no video stream" + (", only audio" if container.streams.audio else ""))
        if stream.codec_context is None:
            raise BadVideo("is in a codec that the installed FFmpeg cannot decode")
        height, width = stream.height, stream.width
        if not 0 < height * width <= _MAX_PIXELS:
            raise BadVideo(f"says that its frames are {width}x{height} pixels; 1 to {_MAX_PIXELS} pixels are read")
        stream.codec_context.thread_count = 1  # many videos are read at a time; and errors come where they belong
        if fast:
            stream.codec_context.options = {"skip_loop_filter": "all"}
        yield container, stream


def _seek(container: InputContainer, stream: VideoStream, start: float) -> Decoded | None:
    """The frames from the key frame before `start`; None if the file has to be decoded from its beginning."""
    import av

    kind, clock = container.format.name, _Clock(stream)
    if stream.start_time is None or kind == "gif":  # every frame of a GIF builds on the one before
        return None
    guessed = kind in _GUESSED
    target = max(0.0, start - _GUESSING) if guessed else start
    try:
        container.seek(stream.start_time + int(target / _unit(stream)), stream=stream)
        decoded = _decode(container, stream, clock)
        first = next(decoded, None)
        if first is None or first[1] is None or first[1].pts is None or not first[1].key_frame:
            return None
        while guessed and first[0] <= start + EARLY and (following := next(decoded, None)):
            if kind == "mpeg" and clock.went_back:  # it was guessed too late, and all after it are late
                return None
            if following[0] > start + EARLY:
                return itertools.chain([first, following], decoded)
            first = following
    except (av.FFmpegError, BadVideo):
        return None
    return None if first[0] > start + EARLY else itertools.chain([first], decoded)


def _decode(container: InputContainer, stream: VideoStream, clock: _Clock) -> Decoded:
    import av

    packets = container.demux(stream)
    damaged = True  # without the key frame that they build on, frames are not what they were
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise BadVideo(f"cannot be read beyond {clock.next():.2f} s ({_reason(error)})") from error
        if packet is None:
            return
        try:
            frames = packet.decode()
        except (av.FFmpegError, ValueError):
            damaged = True
            yield clock.next(), None
            continue
        if packet.is_keyframe and packet.is_discard:  # an edit list hides the key frame that shown ones build on
            damaged = False
        for frame in frames:
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            yield clock.read(frame), None if damaged else frame


class _Clock:
    """Seconds of frames from the start of the stream, in order. went_back: whether a time stamp did not grow."""

    _BACK = 5  # frames: by so many, time stamps may jump back before nothing can be made of them

    def __init__(self, stream: VideoStream):
        self._origin = None if stream.start_time is None else float(stream.start_time * _unit(stream))
        self._spacing, self._last, self.went_back = 1 / rate_of(stream), -math.inf, False

    def next(self) -> float:
        """When the next frame is due."""
        return max(self._last + self._spacing, 0.0)

    def read(self, frame: VideoFrame) -> float:
        """Raises BadVideo if the time of the frame lies far before that of another one."""
        if frame.pts is None:
            seconds = self.next()
        else:
            self._origin = frame.time if self._origin is None else self._origin
            seconds = max(frame.time - self._origin, 0.0)
        if seconds < self._last - self._BACK * self._spacing:
            raise BadVideo(f"has time stamps that jump back, from {self._last:.2f} s to {seconds:.2f} s")
        self.went_back |= seconds <= self._last
        self._last = seconds if seconds > self._last else self.next()
        return self._last


def _unit(stream: VideoStream) -> Fraction:
    """Of time stamps, in seconds."""
    assert stream.time_base is not None  # a stream that is decoded has one
    return stream.time_base


def rate_of(stream: VideoStream) -> float:
    """Mean frames a second, as the header says; 25 if it says nothing that can be."""
    rates = (float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate)
    return next((rate for rate in rates if 0.01 <= rate <= 1000), 25.0)


def promised_seconds(stream: VideoStream) -> float:
    """How long the header says the video is, 0 if it says nothing."""
    seconds = float((stream.duration or 0) * (stream.time_base or 0))
    if stream.container.format.name == "avi":  # where FFmpeg scales them down if the file is shorter than it should be
        return max(seconds, stream.frames / rate_of(stream))
    return seconds


def cut_off(seconds: float, promised: float) -> str | None:
    """That a video of so many seconds should have many more, in words; None if it need not."""
    if promised - seconds > max(_MISSING_SECONDS, _MISSING_SHARE * promised):
        return f"ends after {seconds:.2f} s, though its header says {promised:.2f} s"
    return None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().splitlines()[0]


def upright_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """(height, width) as the frame is meant to be seen: turned by its metadata, with square pixels."""
    height, width = frame.height, frame.width
    aspect = stream.sample_aspect_ratio
    if aspect and 0.1 < aspect < 10:
        width = max(1, round(width * aspect))
    return (width, height) if frame.rotation % 180 else (height, width)


class Converter:
    """Frames as uint8 arrays of one size (height, width): upright, scaled to cover it, cut at the centre.

    format: "rgb24" or "bgr24" for (H, W, 3), "gray" for (H, W); interpolation: one of swscale's, as PyAV names it.
    A call raises BadVideo for a frame that cannot be converted.
    """

    def __init__(self, size: tuple[int, int], stream: VideoStream, format: str = "rgb24", interpolation: str = "AREA"):
        from av.video.reformatter import VideoReformatter

        self._size, self._stream, self._format, self._interpolation = size, stream, format, interpolation
        self._reformatter = VideoReformatter()
        self._key: tuple[int, int, int] | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        key = frame.height, frame.width, frame.rotation
        if key != self._key:  # once a video, as a rule
            self._key, self._layout = key, self._lay_out(frame)
        height, width, turns, top, left = self._layout
        try:
            if self._format == "rgb24" and frame.format.name.startswith("yuv"):  # done in one go, it comes out darker
                frame = self._reformatted(frame, width, height, "yuv444p")
            scaled = self._reformatted(frame, width, height, self._format).to_ndarray()
        except (OSError, ValueError) as error:  # FFmpeg's errors are of both
            raise BadVideo(f"has frames of {frame.format.name} that cannot be converted ({_reason(error)})") from error
        picture = np.rot90(scaled, turns) if turns else scaled
        return np.ascontiguousarray(picture[top : top + self._size[0], left : left + self._size[1]])

    def _reformatted(self, frame: VideoFrame, width: int, height: int, format: str) -> VideoFrame:
        return self._reformatter.reformat(frame, width, height, format, interpolation=self._interpolation, threads=1)

    def _lay_out(self, frame: VideoFrame) -> tuple[int, int, int, int, int]:
        """Height, width to scale the stored picture to, quarter turns counterclockwise, cut at the top, at the left."""
        (height, width), (tall, wide) = self._size, upright_size(frame, self._stream)
        scale = max(height / tall, width / wide)
        tall, wide = max(height, round(tall * scale)), max(width, round(wide * scale))
        turns = round(frame.rotation / 90) % 4
        stored = (wide, tall) if turns % 2 else (tall, wide)
        return *stored, turns, (tall - height) // 2, (wide - width) // 2
