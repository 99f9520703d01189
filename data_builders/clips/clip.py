"""Clips, and reading the frames of a video file one after another.

Curation, which finds the clips of raw videos, is data_builders.clips.curate.curate(paths, CurationConfig()).
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_builders.clips.decode import (
    EARLY,
    AbsentVideo,
    BadVideo,
    Converter,
    Decoded,
    open_video,
    promised_seconds,
    rate_of,
    upright_size,
)

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# What find_videos takes from folders; a file that is named itself is taken whatever its suffix.
SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts"),
    *(".wmv", ".flv", ".ogv", ".3gp", ".gif"),
)
_COMPANIONS = (".json", ".npz")  # beside a video of their name they are facts about it, such as the world's
_NO_SUFFIX = "has no suffix of a video; give the file itself to have it read"
_HASHED_BYTES = 1 << 20  # from each end of the file
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # in names of files: line breaks, bytes that are no UTF-8


@dataclass(frozen=True)
class Clip:
    """A stretch of a video inside one shot.

    path: the file; video: the id of its content, as from `video_id`; start, end: seconds from the first frame of the
    video, start <= t < end; fps, size: what its frames are read at: frames a second, and (height, width) in pixels,
    upright; motion: mean path of tracked points in pixels a frame, for pictures 1280 pixels wide at 20 frames a
    second, None if not measured; dynamic: whether what is seen moves or changes, None if not measured.
    """

    path: str
    video: str
    start: float
    end: float
    fps: float
    size: tuple[int, int]
    motion: float | None = None
    dynamic: bool | None = None

    @property
    def id(self) -> str:
        """Unlike that of any other clip: the video's id and the start in milliseconds."""
        return f"{self.video}@{round(self.start * 1000)}"

    @property
    def num_frames(self) -> int:
        return math.ceil((self.end - self.start - EARLY) * self.fps)

    def frames(
        self, size: tuple[int, int] | None = None, limit: int | None = None
    ) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds in the video, uint8 (H, W, 3) RGB) at the clip's fps and its size, or another; see read_frames."""
        return read_frames(self.path, self.start, self.end, self.fps, size or self.size, limit)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON takes."""
        return asdict(self) | {"size": list(self.size)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Clip:
        """Raises ValueError for missing or unknown keys and for a size that is not [H, W]."""
        try:
            clip = cls(**values)
            height, width = clip.size
        except (TypeError, ValueError) as error:
            names = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"a clip has {names} with size [H, W], got {dict(values)!r}") from error
        return cls(**{**values, "size": (int(height), int(width))})


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video says, which need not be true.

    size: (height, width) of the upright picture with square pixels; fps: mean rate; duration: seconds, 0 if unknown;
    rotation: degrees counterclockwise that are applied to the stored picture, a multiple of 90.
    """

    path: str
    size: tuple[int, int]
    fps: float
    duration: float
    rotation: int
    codec: str


def find_videos(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are given, and those with a video's suffix in folders at any depth, in order; each file once.

    Links are followed, but no folder is entered twice, so loops of links end. Raises ValueError for a path that does
    not exist.
    """
    return find_files(paths)[0]


def find_files(paths: Iterable[str | Path]) -> tuple[list[Path], dict[Path, str]]:
    """What find_videos finds, and the other files of the folders with the reason why they are left out.

    Facts beside a video (NAME.json and NAME.npz of NAME.mkv) are neither.
    """
    given = [Path(path) for path in paths]
    if missing := [path for path in given if not os.path.lexists(path)]:
        raise ValueError(f"{str(missing[0])!r} does not exist; give video files or folders that hold some")
    entered: set[str] = set()
    others: dict[Path, str] = {}
    listed = [
        (path, within)
        for one in given
        for path, within in (_walk(one, entered, others) if one.is_dir() else [(one, False)])
    ]
    videos: dict[str, Path] = {}  # by the real path, rather the file itself than a link to it
    for path, within in sorted(listed, key=lambda item: item[0].is_symlink()):
        if not within or path.suffix.lower() in SUFFIXES:
            videos.setdefault(os.path.realpath(path), path)
    first_names = set(videos.values())
    chosen = dict.fromkeys(path for path, _ in listed if path in first_names)
    names = {path.with_suffix("") for path in chosen}
    for path, _ in listed:
        companion = path.suffix in _COMPANIONS and path.with_suffix("") in names
        if path not in chosen and not companion:
            first = videos.get(os.path.realpath(path))
            others[path] = f"is the same file as {first}" if first else _NO_SUFFIX
    return list(chosen), others


def _walk(folder: Path, entered: set[str], closed: dict[Path, str]) -> Iterator[tuple[Path, bool]]:
    """The files within the folder, at any depth, and True. Folders that cannot be listed go into `closed`."""

    def tell(error: OSError) -> None:
        closed[Path(os.fsdecode(error.filename))] = f"is a folder that cannot be listed ({error.strerror})"

    for root, folders, files in os.walk(folder, followlinks=True, onerror=tell):
        real = os.path.realpath(root)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        yield from ((Path(root, name), True) for name in sorted(files))


def video_id(path: str | Path) -> str:
    """Stem and 8 hexadecimal digits of the content (size, first and last MiB), text of one line in any encoding.

    Raises AbsentVideo if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(str(length).encode())
            digest.update(file.read(_HASHED_BYTES))
            file.seek(max(0, length - _HASHED_BYTES))
            digest.update(file.read(_HASHED_BYTES))
    except OSError as error:
        raise AbsentVideo(f"cannot be opened ({error.strerror or error})") from error
    stem = _NO_TEXT.sub(lambda found: ascii(found[0])[1:-1], Path(path).stem)
    return f"{stem}-{digest.hexdigest()[:8]}"


def probe(path: str | Path) -> VideoInfo:
    """Reads the header and the first frame. Raises BadVideo if there is none."""
    with open_video(path) as (stream, decoded):
        frame = next((frame for _, frame in decoded if frame is not None), None)
        if frame is None:
            raise BadVideo("holds no frame that can be decoded")
        size, rate, promised = upright_size(frame, stream), rate_of(stream), promised_seconds(stream)
        return VideoInfo(str(path), size, rate, promised, frame.rotation, stream.codec_context.name)


def read_frames(
    path: str | Path,
    start: float = 0.0,
    end: float | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds from the first frame, uint8 (H, W, 3) RGB) of a video, decoded one by one, upright, with square pixels.

    start, end: seconds, start <= t < end. fps: the frames on screen at start, start + 1 / fps, ..., whether the video's
    own rate is constant or not; None gives its own frames. size: (height, width), which the picture is scaled to cover
    and cut to at the centre; None gives that of the first frame. limit: of the number of frames.
    Raises ValueError for arguments that make no sense, and BadVideo for what is no video and, perhaps after some
    frames, where its decoder finds damage; the frames before that place are sound.
    """
    if start < 0 or (end is not None and end <= start):
        raise ValueError(f"start and end are seconds with 0 <= start < end, got {start:g} and {end}")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps must be above 0, got {fps}; None gives the video's own frames")
    if size is not None and min(size) < 1:
        raise ValueError(f"size is (height, width) in pixels, got {size}")
    return _read_frames(path, start, end, fps, size, limit)


def _read_frames(
    path: str | Path,
    start: float,
    end: float | None,
    fps: float | None,
    size: tuple[int, int] | None,
    limit: int | None,
) -> Iterator[tuple[float, np.ndarray]]:
    with open_video(path, start) as (stream, decoded):
        spacing = 1 / rate_of(stream)
        sound = _sound(decoded, start, end, spacing)
        chosen = _own_frames(sound, start, end) if fps is None else _at_rate(sound, start, end, fps, spacing)
        last, picture, converter = None, None, None
        for seconds, frame in itertools.islice(chosen, limit):
            if picture is None or frame is not last:
                converter = converter or Converter(size or upright_size(frame, stream), stream)
                last, picture = frame, converter(frame)
            yield seconds, picture


def _sound(decoded: Decoded, start: float, end: float | None, spacing: float) -> Iterator[tuple[float, VideoFrame]]:
    """The frames that are not damaged. What comes after `end` does not matter. Raises BadVideo for damage before."""
    sound, damage = 0.0, None  # seconds: up to where frames are sound; where damage began that lasts
    try:
        for seconds, frame in decoded:
            if frame is None:
                damage = seconds if damage is None else damage
                if end is not None and damage >= end - EARLY:
                    return
            elif damage is not None and seconds > start + EARLY:
                break
            else:
                sound, damage = seconds + spacing, None
                yield seconds, frame
        if damage is not None:
            raise BadVideo(f"is damaged at {damage:.2f} s")
    except BadVideo:
        if end is None or sound < end - EARLY:
            raise


def _own_frames(
    frames: Iterator[tuple[float, VideoFrame]], start: float, end: float | None
) -> Iterator[tuple[float, VideoFrame]]:
    for seconds, frame in frames:
        if end is not None and seconds >= end - EARLY:
            return
        if seconds >= start - EARLY:
            yield seconds, frame


def _at_rate(
    frames: Iterator[tuple[float, VideoFrame]], start: float, end: float | None, fps: float, spacing: float
) -> Iterator[tuple[float, VideoFrame]]:
    """The frame on screen at start + k / fps; the last one stays there for `spacing` seconds."""
    times = (start + k / fps for k in itertools.count())
    time, current, shown = next(times), None, 0.0
    for seconds, frame in itertools.chain(frames, [(math.inf, None)]):
        until = min(seconds, shown + spacing) if frame is None else seconds
        while current is not None and time < until - EARLY:
            if end is not None and time >= end - EARLY:
                return
            yield time, current
            time = next(times)
        current, shown = frame, until
