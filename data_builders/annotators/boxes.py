"""Boxes of masks, and how much two boxes overlap. A box is (x0, y0, x1, y1) in pixels, the last two exclusive."""

from __future__ import annotations

import numpy as np

from data_builders.annotators.protocols import Box


def bounding_box(mask: np.ndarray) -> Box:
    """Of bool (H, W). Raises ValueError if nothing is True."""
    if not mask.any():
        raise ValueError("an empty mask has no box; drop the object, or take a frame where it is visible")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, 0..1."""
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    common = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / (areas - common) if common else 0.0


def clipped(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of the box within a picture of `size`, (height, width); None if there is none."""
    height, width = size
    x0, y0 = max(0.0, box[0]), max(0.0, box[1])
    x1, y1 = min(float(width), box[2]), min(float(height), box[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
