"""One pass over a video: its shots, and a few times a second how bright, sharp, letterboxed and moving it is.

Every frame is decoded once and scaled down at once; a few numbers and a thumbnail remain of some of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_builders.clips.decode import (
    EARLY,
    BadVideo,
    Converter,
    cut_off,
    open_video,
    promised_seconds,
    rate_of,
    upright_size,
)
from data_builders.clips.motion import REFERENCE_FPS, grid_displacement, reference_motion
from data_builders.clips.shots import ShotDetector

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_SIDE = 160  # pixels of the longer side of the pictures for shots and motion: PySceneDetect itself takes 256
_SHARP_SIDE = 640  # blur does not show in smaller pictures
_THUMBNAIL = (32, 18)  # width, height
_BAR = 20  # 0..255: rows and columns of black bars are no brighter
_SMALLEST = 16  # pixels of the shorter side: optical flow needs some room
_SHARPNESS_SPACING = 1.0  # seconds
_BANDS, _BAND = 6, 20  # sharpness is taken from so many bands of so many rows
_ROUNDING = 20 * (1.164**2 + 1) / 12  # in the squared Laplacian, from rounding luma to 16..235 and then to 0..255


@dataclass(frozen=True)
class Measure:
    """Of one frame. time: seconds; luma: mean, 0..1; sharpness: see `sharpness_of`, that of a frame within a second.

    bars: black (top, bottom, left, right), as fractions of the height and width; motion: mean displacement of the
    grid's points from here on in reference pixels a reference frame, None at the end of a stretch; thumbnail: uint8
    (18, 32, 3) RGB.
    """

    time: float
    luma: float
    sharpness: float
    bars: tuple[float, float, float, float]
    motion: float | None
    thumbnail: np.ndarray


@dataclass(frozen=True)
class Shot:
    """start, end: seconds; measures: those of its frames, in order; none in a shot shorter than their spacing."""

    start: float
    end: float
    measures: list[Measure]


@dataclass
class Overview:
    """What one pass found. size: (height, width), upright; fps: mean rate.

    duration: seconds up to the end of what was read; damaged: how many of them could not be decoded; stopped: why
    nothing could be read beyond, None at the end that the header tells; shots: in order, with no gaps but damage.
    """

    size: tuple[int, int]
    fps: float
    duration: float = 0.0
    damaged: float = 0.0
    stopped: str | None = None
    shots: list[Shot] = field(default_factory=list)


def measure(path: str | Path, new_detector: Callable[[float], ShotDetector], rate: float) -> Overview:
    """Decodes the whole video once. new_detector: is given the frames a second; rate: measures a second.

    Raises BadVideo if not even one frame can be decoded.
    """
    stretches: list[_Stretch] = []  # they are parted by damaged frames
    broken, first, last, stopped = True, None, 0.0, None
    with open_video(path, fast=True) as (stream, decoded):
        fps, size, promised = rate_of(stream), None, promised_seconds(stream)
        try:
            for seconds, frame in decoded:
                first, last = seconds if first is None else first, max(last, seconds)
                if frame is not None:
                    size = size or upright_size(frame, stream)
                    if broken:
                        stretches.append(_Stretch(size, stream, new_detector(fps), rate))
                    stretches[-1].add(seconds, frame)
                broken = frame is None
        except BadVideo as error:
            if size is None:
                raise
            stopped = str(error)
    if size is None or first is None:
        raise BadVideo("holds no frame that can be decoded")
    shots = [shot for stretch in stretches for shot in stretch.shots(1 / fps)]
    duration = max(last + 1 / fps, shots[-1].end) - first
    stopped = stopped or cut_off(duration, promised)
    return Overview(size, fps, duration, max(0.0, duration - sum(s.end - s.start for s in shots)), stopped, shots)


class _Stretch:
    """Frames without damage in between."""

    def __init__(self, size: tuple[int, int], stream: VideoStream, detector: ShotDetector, rate: float):
        self._detector, self._spacing = detector, 1 / rate
        self._small = Converter(_within(size, _SIDE), stream, "bgr24", "FAST_BILINEAR")
        self._grey = Converter(_within(size, _SHARP_SIDE), stream, "gray")
        self._due = self._sharpness_due = -1.0  # seconds: when to measure next
        self._sharpness, self._looked = 1.0, set[float]()  # the last one, and the times when it was measured
        self._times: list[float] = []
        self._cuts: list[int] = []
        self._open: tuple[Measure, np.ndarray] | None = None  # one that waits for its motion, and its grey picture
        self._closed: list[tuple[Measure, float]] = []  # and when the second picture of its motion was on screen

    def add(self, seconds: float, frame: VideoFrame) -> None:
        import cv2

        picture = self._small(frame)
        self._times.append(seconds)
        if cuts := self._detector.push(picture):
            self._cuts += cuts
            self._due = self._sharpness_due = seconds  # a shot is measured as soon as it is known
        if self._open and seconds >= self._open[0].time + 1 / REFERENCE_FPS - EARLY:
            opened, before = self._open
            path = grid_displacement(before, cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
            motion = reference_motion(path, picture.shape[1], seconds - opened.time)
            self._closed.append((replace(opened, motion=motion), seconds))
            self._open = None
        if not self._open and seconds >= self._due - EARLY:
            self._open = self._measure(seconds, frame, picture)
            self._due = seconds + self._spacing

    def _measure(self, seconds: float, frame: VideoFrame, picture: np.ndarray) -> tuple[Measure, np.ndarray]:
        import cv2

        if seconds >= self._sharpness_due - EARLY:  # it takes a large picture, and does not change quickly
            self._sharpness = sharpness_of(self._grey(frame))
            self._sharpness_due = seconds + _SHARPNESS_SPACING
            self._looked.add(seconds)
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        thumbnail = cv2.resize(picture, _THUMBNAIL, interpolation=cv2.INTER_AREA)[..., ::-1]
        return Measure(seconds, float(grey.mean()) / 255, self._sharpness, black_bars(grey), None, thumbnail), grey

    def shots(self, spacing: float) -> list[Shot]:
        """spacing: seconds that the last frame stays on screen."""
        cuts = sorted({*self._cuts, *self._detector.finish()} - {0})
        bounds = [self._times[0], *(self._times[cut] for cut in cuts), self._times[-1] + spacing]
        waiting = [(self._open[0], self._open[0].time)] if self._open else []
        measures = iter([*self._closed, *waiting])
        shots, following = [], next(measures, None)
        for start, end in itertools.pairwise(bounds):
            own = []
            while following is not None and following[0].time < end:
                own.append(following[0] if following[1] < end else replace(following[0], motion=None))
                following = next(measures, None)
            # Until its first picture was looked at for sharpness, a shot has that of the shot before.
            looked = next((m.sharpness for m in own if m.time in self._looked), None)
            for index, measured in enumerate(own):
                if looked is None or measured.time in self._looked:
                    break
                own[index] = replace(measured, sharpness=looked)
            shots.append(Shot(start, end, own))
        return shots


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The (height, width) of a picture scaled down so that its longer side has at most so many pixels."""
    scale = min(1.0, side / max(size))
    return max(_SMALLEST, round(size[0] * scale)), max(_SMALLEST, round(size[1] * scale))


def sharpness_of(grey: np.ndarray) -> float:
    """Energy of the second by that of the first derivatives of a uint8 (h, w) picture: above 0.5 for sharp ones.

    Unlike the variance of the Laplacian, it does not depend on how much there is to see: it falls with the square of
    the blur, and few edges or low contrast change nothing. A picture of one colour counts as sharp.
    """
    import cv2

    step = max(_BAND, len(grey) // _BANDS)
    bands = [grey[top : top + _BAND] for top in range(0, len(grey) - 2, step)]
    derivatives = [(cv2.Laplacian(band, cv2.CV_16S), *cv2.spatialGradient(band)) for band in bands]
    inner = [[array[1:-1, 1:-1] for array in arrays] for arrays in derivatives]  # on the border, they are made up
    pixels = sum(arrays[0].size for arrays in inner)
    second, *first = (sum(cv2.norm(a, cv2.NORM_L2SQR) for a in arrays) / pixels for arrays in zip(*inner, strict=True))
    slope = sum(first) / 64  # Sobel's filter gives 8 times the derivative
    return max(0.0, second - _ROUNDING) / slope if slope > _ROUNDING / 2 else 1.0


def black_bars(grey: np.ndarray) -> tuple[float, float, float, float]:
    """How far black reaches in from the (top, bottom, left, right) of a uint8 (h, w) picture, as fractions of it."""
    bars: list[float] = []
    for axis in (1, 0):
        bright = np.flatnonzero(grey.max(axis=axis) > _BAR)
        length = grey.shape[1 - axis]
        bars += [bright[0] / length, (length - 1 - bright[-1]) / length] if len(bright) else [1.0, 1.0]
    top, bottom, left, right = (float(bar) for bar in bars)
    return top, bottom, left, right
