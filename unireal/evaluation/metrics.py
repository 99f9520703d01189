"""Measures of one picture against the truth, and how they are averaged. Pure functions of arrays.

Pictures are uint8 (H, W, 3), regions and masks bool (H, W), depth maps float (H, W) in any unit above 0.
A measure that is undefined (an empty region) is NaN, and averages leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

_SMALLEST_DEPTH = 1e-6


def psnr(image: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB from the mean squared error inside `region` (None: everywhere).

    Infinite for equal pictures, NaN for an empty region. Raises ValueError if the sizes differ.
    """
    return _decibel(squared_error(image, truth, region))


def squared_error(image: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> float:
    """Mean squared error inside `region` (None: everywhere), in squared grey levels; NaN for an empty region.

    image, truth: uint8, or int where they are differences of pictures. Raises ValueError if the sizes differ.
    """
    _check_sizes(image, truth)
    error = (image.astype(np.float64) - truth.astype(np.float64)) ** 2
    if region is not None:
        _check_sizes(region, truth)
        error = error[region]
    return float(error.mean()) if error.size else math.nan


def _decibel(squared: float) -> float:
    return math.inf if squared == 0 else 10 * math.log10(255**2 / squared)


def overlap(mask: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two masks."""
    _check_sizes(mask, truth)
    return int((mask & truth).sum()), int((mask | truth).sum())


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union, 0..1; 1 if both masks are empty. Its mean over pictures is gIoU."""
    intersection, union = overlap(mask, truth)
    return intersection / union if union else 1.0


def align(
    depth: np.ndarray, truth: np.ndarray, limits: tuple[float, float], region: np.ndarray | None = None
) -> np.ndarray:
    """The depth with the scale and shift of least squared error to the truth inside `region` (None: everywhere),
    clipped to `limits`."""
    _check_sizes(depth, truth)
    inside = np.ones(truth.shape, bool) if region is None else region
    columns = np.stack([depth[inside], np.ones(inside.sum())], axis=1).astype(np.float64)
    (scale, shift), *_ = np.linalg.lstsq(columns, truth[inside].astype(np.float64), rcond=None)
    return np.clip(scale * depth + shift, *limits)


def abs_rel(depth: np.ndarray, truth: np.ndarray) -> float:
    """Mean of |depth - truth| / truth, 0 or more."""
    _check_sizes(depth, truth)
    return float(np.mean(np.abs(depth - truth) / truth))


def delta1(depth: np.ndarray, truth: np.ndarray) -> float:
    """Share of pixels at which the larger of depth / truth and truth / depth is below 1.25, 0..1."""
    _check_sizes(depth, truth)
    depth = np.maximum(depth, _SMALLEST_DEPTH)
    return float(np.mean(np.maximum(depth / truth, truth / depth) < 1.25))


def nearest(image: np.ndarray, candidates: np.ndarray, region: np.ndarray) -> int:
    """Index of the candidate, of uint8 (N, H, W, 3), with the least squared error to the image inside the region.

    Raises ValueError for an empty region, in which all candidates look alike.
    """
    _check_sizes(image, candidates[0])
    if not region.any():
        raise ValueError("the region to compare in is empty; leave such samples out")
    difference = candidates[:, region].astype(np.float64) - image[region].astype(np.float64)
    return int((difference**2).sum(axis=(1, 2)).argmin())


def mean(values: Iterable[float]) -> tuple[float, float, int]:
    """Mean, its standard error (NaN where undefined) and the number of values, NaN left out."""
    kept = np.array([value for value in values if not math.isnan(value)], np.float64)
    if not len(kept):
        return math.nan, math.nan, 0
    defined = len(kept) > 1 and np.isfinite(kept).all()
    error = kept.std(ddof=1) / math.sqrt(len(kept)) if defined else math.nan
    return float(kept.mean()), float(error), len(kept)


def known(number: float) -> float | None:
    """As reports have it: None for what is undefined."""
    return None if math.isnan(number) else number


def pooled_psnr(values: Iterable[float]) -> tuple[float, float, int]:
    """PSNR in dB of the mean of squared errors, its standard error by linearisation, and n, NaN left out.

    For errors of which some are 0, whose own PSNR would make any mean infinite.
    """
    average, error, count = mean(values)
    if not count or average == 0:
        return (math.inf if count else math.nan), math.nan, count
    return _decibel(average), 10 / math.log(10) * error / average, count


def pooled_ratio(values: Sequence[tuple[float, float]]) -> tuple[float, float, int]:
    """Sum of the first over sum of the second (cIoU, of overlaps), its standard error by linearisation, and n.

    1 if all of the second are 0, as in iou.
    """
    top, bottom = np.array(values, np.float64).reshape(-1, 2).T
    count = len(top)
    if not bottom.sum():
        return (1.0, math.nan, count) if count else (math.nan, math.nan, 0)
    ratio = top.sum() / bottom.sum()
    error = math.nan
    if count > 1:
        error = float((top - ratio * bottom).std(ddof=1) / math.sqrt(count) / bottom.mean())
    return float(ratio), error, count


def _check_sizes(one: np.ndarray, other: np.ndarray) -> None:
    if one.shape[:2] != other.shape[:2]:
        raise ValueError(f"pictures of one size are compared, got {one.shape[:2]} and {other.shape[:2]}; resize one")
