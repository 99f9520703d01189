"""Video files of all sorts for tests, of a textured scene that slides sideways."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np


def sliding_scene(
    frames: int = 24, size: tuple[int, int] = (48, 64), seed: int = 0, step: float = 2.0
) -> list[np.ndarray]:
    """uint8 (H, W, 3) RGB pictures of random blots with sharp edges; each shows them `step` pixels further left."""
    import cv2

    height, width = size
    rng = np.random.default_rng(seed)
    wide = width + int(abs(step) * frames) + 2
    coarse = rng.integers(0, 256, (max(2, height // 8), max(2, wide // 8), 3), dtype=np.uint8)
    texture = cv2.resize(coarse, (wide, height), interpolation=cv2.INTER_CUBIC) // 64 * 64 + 32
    return [texture[:, round(step * k) :][:, :width].copy() for k in range(frames)]


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    fps: int = 25,
    times: Sequence[int] | None = None,
    muxer: str | None = None,
    **options: str,
) -> Path:
    """times: of the frames in milliseconds, None for a constant rate; options: of the encoder."""
    import av

    with av.open(str(path), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path, codec: str = "aac", muxer: str | None = None) -> Path:
    """Half a second of a tone, and no picture."""
    import av

    with av.open(str(path), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=16000, layout="mono")
        wave = (8000 * np.sin(np.arange(8000) / 5)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# Display matrices of MP4 for a picture that has to be turned clockwise by so many degrees
_TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def turn_by_metadata(path: Path, clockwise: int) -> Path:
    """Changes the display matrix in the track header of an MP4 file, as telephones do."""

    def matrix(a: int, b: int, c: int, d: int) -> bytes:
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    data = path.read_bytes()
    start = data.index(b"tkhd")
    at = data.index(matrix(*_TURNS[0]), start)
    path.write_bytes(data[:at] + matrix(*_TURNS[clockwise]) + data[at + 36 :])
    return path
