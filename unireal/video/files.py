"""Video files, read and written frame by frame, so that their length does not matter for memory.

Every frame keeps its time, so a variable frame rate stays as it is. Sound is copied packet by packet, never encoded
again. Times are seconds on the file's own clock, exact as fractions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from unireal.video.sound import JUMP, Sound, holds_sound, open_media, set_anew

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

# Suffix of a file that is written -> its encoder.
ENCODERS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
# With x264's macroblock tree, the same small frames make another file now and then
_QUALITY = {
    "libx264": {"crf": "16", "x264-params": "mbtree=0"},
    "libvpx-vp9": {"crf": "16", "b": "0", "deadline": "good", "cpu-used": "4"},
}
_STILL = ("image2", "ico")  # FFmpeg's formats of pictures, as are all that end in _pipe
_BT709, _LIMITED = 1, 1  # ITU-T H.273's numbers for the colours of HD video, and their range 16..235
DEFAULT_RATE = Fraction(8)  # frames a second of a video that is made from nothing


@dataclass(frozen=True)
class TimedFrame:
    """image: uint8 (H, W, 3) RGB, upright. time: when it is shown; duration: for how long, None where unknown."""

    image: np.ndarray
    time: Fraction
    duration: Fraction | None = None


class VideoFile:
    """A video to read. It can be iterated over as often as wanted; each pass decodes the file anew.

    size: (H, W) of the upright frames in pixels; rate: mean frames a second; time_base: unit of the frames' times.
    pixel_aspect: width of a pixel over its height. audio: codecs of the sound tracks. comment: the file's, "" if none.
    One frame is a video as well; a still picture is none. Raises ValueError if the path is no file, no video, a still
    picture, or holds sound alone or no frame.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(
                f"video {str(path)!r} is not a file; give the path of an MP4, MOV, MKV, WebM or other video"
            )
        with self._open() as container:
            stream = self._stream(container)
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.time_base = stream.time_base or 1 / self.rate
            self.audio = [sound.name or "of an unknown codec" for sound in container.streams.audio]
            self.comment = {name.lower(): text for name, text in container.metadata.items()}.get("comment", "")
            aspect = stream.sample_aspect_ratio or Fraction(1)
            if container.format.name.endswith("_pipe") or container.format.name in _STILL:
                raise ValueError(
                    f"video {str(path)!r} is read as a still picture; edit it as a picture, or give a video"
                )
            frame = next(self._decoded(container, stream), None)
        if frame is None:
            raise ValueError(f"video {str(path)!r} holds no frames that can be decoded; give an intact file")
        turned = _quarter_turns(frame) % 2
        self.size = (frame.width, frame.height) if turned else (frame.height, frame.width)
        self.pixel_aspect = 1 / aspect if turned else aspect

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames' images alone."""
        return (frame.image for frame in self.frames())

    def frames(self) -> Iterator[TimedFrame]:
        """Raises ValueError where the file is damaged, its clock is set anew, or the size of its frames changes."""
        with self._open() as container:
            for frame, time in self._timed(self._decoded(container, self._stream(container))):
                image = np.ascontiguousarray(np.rot90(_rgb(frame), _quarter_turns(frame)))
                if image.shape[:2] != self.size:
                    given = f"{image.shape[1]}x{image.shape[0]} after {self.size[1]}x{self.size[0]} pixels"
                    raise ValueError(f"video {str(self.path)!r} changes its size to {given}; convert it to one size")
                unit = frame.time_base or self.time_base
                yield TimedFrame(image, time, frame.duration * unit if frame.duration else None)

    def _timed(self, frames: Iterator[VideoFrame]) -> Iterator[tuple[VideoFrame, Fraction]]:
        """Times that rise, as encoders need them. Where a file's do not, as in AVI with B-frames, those of the packets
        are taken from then on, as FFmpeg's players do."""
        last: Fraction | None = None
        by_packet = False
        for frame in frames:
            unit = frame.time_base or self.time_base
            shown, decoded = (None if stamp is None else stamp * unit for stamp in (frame.pts, frame.dts))
            if last is not None and shown is not None:
                if shown < last - JUMP:
                    raise set_anew(self.path, last)
                by_packet |= shown <= last and decoded is not None
            time = decoded if by_packet else shown
            if time is None:
                time = Fraction(0) if last is None else last + 1 / self.rate
            last = time if last is None or time > last else last + self.time_base
            yield frame, last

    def _open(self) -> InputContainer:
        import av

        try:
            return open_media(self.path)
        except (av.FFmpegError, ValueError) as error:
            reason = "it is empty" if self.path.stat().st_size == 0 else _reason(error)
            raise ValueError(f"{str(self.path)!r} cannot be read as a video ({reason}); give an intact file") from error

    def _stream(self, container: InputContainer) -> VideoStream:
        from av.stream import Disposition

        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            what = "sound alone" if container.streams.audio else "no video"
            raise ValueError(f"{str(self.path)!r} holds {what}; give a file with pictures that move")
        if streams[0].codec_context is None:
            raise ValueError(f"{str(self.path)!r} is in a codec that cannot be decoded here; convert it to H.264")
        streams[0].thread_type = "AUTO"
        return streams[0]

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        import av

        count = 0
        try:
            for frame in container.decode(stream):
                yield frame
                count += 1
        except av.FFmpegError as error:
            told = f"cannot be decoded after frame {count} ({_reason(error)})"
            raise ValueError(f"video {str(self.path)!r} {told}; give an intact file") from error


def _rgb(frame: VideoFrame) -> np.ndarray:
    """uint8 (H, W, 3). Colours of half the size are enlarged first: done in one go, swscale makes it all darker."""
    if frame.format.name.startswith("yuv"):
        frame = frame.reformat(format="yuv444p", interpolation="BICUBIC")
    return frame.to_ndarray(format="rgb24")


def _quarter_turns(frame: VideoFrame) -> int:
    """Counterclockwise, that make the frame upright; phones store how they were held instead of turning pixels."""
    return round(frame.rotation / 90) % 4


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().splitlines()[0]


def check_video_output(path: Path, source: VideoFile | None = None) -> None:
    """Raises ValueError unless the suffix is one of ENCODERS, and such a file can hold the sound of `source`."""
    if path.suffix.lower() not in ENCODERS:
        raise ValueError(f"output {str(path)!r} must end in one of {', '.join(ENCODERS)}")
    if source is None or not source.audio or holds_sound(path.suffix.lower(), source.path):
        return
    able = [suffix for suffix in ENCODERS if holds_sound(suffix, source.path)]
    told = f"the sound of {source.path.name!r} is {', '.join(source.audio)}, which {path.suffix} files cannot hold"
    raise ValueError(f"{told}; {f'write a {able[-1]}, or ' if able else ''}remove or convert the sound first")


class VideoWriter:
    """Writes a video under a temporary name; it gets its own name when the `with` block ends without an error.

    path: with a suffix of ENCODERS. rate: frames a second, for players and for frames without a time.
    source: its clock, the shape of its pixels and its sound are taken over. trim: sound ends with the last frame.
    comment: text that is kept in the file.
    Pictures with even sides are stored as 4:2:0, which every player knows, others as 4:4:4, so that no size changes.
    Raises ValueError for what check_video_output refuses, OSError if the file cannot be written.
    """

    def __init__(self, path: Path, rate: Fraction = DEFAULT_RATE, source: VideoFile | None = None, trim: bool = False,
                 comment: str | None = None):  # fmt: skip
        check_video_output(path, source)
        self.path, self.rate, self.source, self.trim, self.comment = path, rate, source, trim, comment
        self.time_base = 1 / rate if source is None else source.time_base
        self.count = 0
        self._temporary = path.with_name(f".{path.stem}.tmp{os.getpid()}{path.suffix}")
        self._container: OutputContainer | None = None
        self._stream: Any = None
        self._end = Fraction(0)
        self._sound: Sound | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, image: np.ndarray, time: Fraction | None = None, duration: Fraction | None = None) -> None:
        """image: uint8 (H, W, 3), all of one size; time, duration: seconds, by the rate if None."""
        from av import VideoFrame

        if self._container is None:
            self._begin(image.shape[:2])
        time = self.count / self.rate if time is None else time
        duration = 1 / self.rate if duration is None else duration
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = frame.reformat(format=self._stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.time_base = self.time_base
        frame.pts, frame.duration = round(time / self.time_base), max(1, round(duration / self.time_base))
        self.count, self._end = self.count + 1, time + duration
        self._mux(self._stream.encode(frame))

    def _begin(self, size: tuple[int, int]) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        # QuickTime's usual comments end after 64 KiB
        options = {"movflags": "use_metadata_tags"} if self.path.suffix.lower() == ".mov" else {}
        self._container = av.open(f"file:{self._temporary}", "w", options=options)
        if self.comment is not None:
            self._container.metadata["comment"] = self.comment
        encoder = ENCODERS[self.path.suffix.lower()]
        stream: Any = self._container.add_stream(encoder, rate=self.rate, options=_QUALITY[encoder])
        stream.height, stream.width = size
        stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base = self.time_base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        if self.source is not None:
            if tuple(size) == self.source.size:
                context.sample_aspect_ratio = self.source.pixel_aspect
            self._sound = Sound(self.source.path, self._container) if self.source.audio else None
        self._stream = stream

    def _mux(self, packets: list[Any]) -> None:
        """Sound goes in up to the time of each packet, so that neither waits for the other in memory."""
        assert self._container is not None
        for packet in packets:
            if self._sound is not None and packet.dts is not None:
                self._sound.copy(packet.dts * packet.time_base)
            self._container.mux(packet)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._container is not None and kind is None:
                self._mux(self._stream.encode(None))
                if self._sound is not None:
                    self._sound.copy(self._end if self.trim else None)
            self._close()
            if self._container is not None and kind is None:
                os.replace(self._temporary, self.path)
        finally:
            self._close()
            self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        for opened in (self._container, self._sound):
            if opened is not None:
                opened.close()
