"""The frames that samples are made of, out of arrays: one place says what a canvas, a mask or a hole looks like."""

from __future__ import annotations

import numpy as np

from unireal.sample import Frame, Role

HOLE = 127  # grey level of pixels that are to be filled


def canvas(image: np.ndarray) -> Frame:
    return Frame(image, Role.CANVAS)


def asset(image: np.ndarray) -> Frame:
    return Frame(image, Role.ASSET)


def result(image: np.ndarray, kind: str = "image") -> Frame:
    return Frame(image, Role.RESULT, kind)


def mask_frame(mask: np.ndarray, role: Role = Role.RESULT) -> Frame:
    """bool (H, W) as a white on black frame."""
    return Frame(grey(mask.astype(np.uint8) * np.uint8(255)), role, "mask")


def grey(values: np.ndarray) -> np.ndarray:
    """uint8 (H, W) as uint8 (H, W, 3)."""
    return np.repeat(values[..., None], 3, axis=-1)


def erase(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The image uint8 (H, W, 3) with the pixels of hole bool (H, W) unknown."""
    return np.where(hole[..., None], np.uint8(HOLE), image)
