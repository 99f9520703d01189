"""What infer.py adds for videos: its options, and a result that is written while it is made."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from unireal.tasks import TaskSpec
from unireal.video.files import DEFAULT_RATE, VideoFile, VideoWriter, check_video_output

MAX_RATE = 240

Make = Callable[[Iterable[np.ndarray] | None], Iterator[np.ndarray]]  # source frames -> frames, uint8 (H, W, 3)


def add_video_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("videos").add_argument
    add("--video", metavar="PATH", help="video to edit")
    add("--num-frames", type=int, metavar="N",
        help="how many frames come out (default: all; of a new video 4, besides a canvas)")  # fmt: skip
    add("--fps", type=_rate, metavar="R", help=f"frames a second of a new video (default: {DEFAULT_RATE})")


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= MAX_RATE:
        raise argparse.ArgumentTypeError(f"{text!r} is no frame rate above 0 up to {MAX_RATE}, such as 8 or 30000/1001")
    return rate


def open_source(options: argparse.Namespace, spec: TaskSpec, output: Path) -> VideoFile | None:
    """The video to edit, if one is given. Raises ValueError for options that do not fit the task or one another."""
    if options.fps is not None and (not spec.video or options.video is not None):
        reason = "a video that is edited keeps its own" if spec.video else f"task {spec.name!r} makes pictures"
        raise ValueError(f"--fps is the frame rate of a new video, but {reason}; leave it out")
    source = None if options.video is None else VideoFile(options.video)
    if spec.video:
        check_video_output(output, source)
    return source


def save_video(
    make: Make,
    output: Path,
    source: VideoFile | None,
    rate: Fraction | None = None,
    trim: bool = False,
    comment: str | None = None,
) -> int:
    """Writes what `make` gives, frame by frame, with the times and the sound of the source; returns how many.

    rate: frames a second where there is no source. trim: sound ends with the last frame. comment: kept in the file.
    """
    if source is None:
        with VideoWriter(output, rate or DEFAULT_RATE, comment=comment) as writer:
            for image in make(None):
                writer.write(image)
        return writer.count
    shown: deque[tuple[Fraction, Fraction | None]] = deque()  # times and durations of frames read and not yet written

    def images() -> Iterator[np.ndarray]:
        for frame in source.frames():
            shown.append((frame.time, frame.duration))
            yield frame.image

    with VideoWriter(output, source.rate, source, trim, comment) as writer:
        for image in make(images()):
            writer.write(image, *shown.popleft())
    return writer.count
