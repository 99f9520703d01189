"""Depth with scale and shift aligned, as Marigold's script measures it, and segmentation as LISA's does.

Depth maps are float (H, W), masks bool (H, W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from unireal.evaluation import metrics
from unireal.evaluation.measures.base import Metric, PerItem, Scores
from unireal.evaluation.pictures import Case
from unireal.transforms import threshold

SMALLEST_DISPARITY = 1e-3  # 1 / metres


@dataclass(frozen=True)
class Range:
    """Metres that count; predictions are clipped to them."""

    nearest: float
    farthest: float


def aligned_depth(predicted: np.ndarray, truth: np.ndarray, valid: np.ndarray, limits: Range) -> np.ndarray:
    """The prediction as depth in metres, aligned in depth and clipped."""
    return metrics.align(predicted, truth, (limits.nearest, limits.farthest), valid)


def aligned_disparity(predicted: np.ndarray, truth: np.ndarray, valid: np.ndarray, limits: Range) -> np.ndarray:
    """The same for a prediction that is bright where it is near: aligned in 1 / depth. Raises ValueError if it is 0
    wherever the truth is known."""
    usable = valid & (predicted > 0)
    if not usable.any():
        raise ValueError("the predicted disparity is 0 everywhere")
    inverse = np.divide(1.0, truth, out=np.zeros(truth.shape), where=truth > 0)
    disparity = metrics.align(predicted, inverse, (SMALLEST_DISPARITY, math.inf), usable)
    return np.clip(1 / disparity, limits.nearest, limits.farthest)


def depth_scores(depth: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """AbsRel and delta1 over the valid pixels."""
    predicted, known = depth[valid], truth[valid]
    return metrics.abs_rel(predicted, known), metrics.delta1(predicted, known)


def depth_measure(limits: Range) -> PerItem:
    """AbsRel and delta1 of the output as depth and as disparity: which a model paints is not ours to guess, so both are
    reported. Items have the arrays "depth" in metres and "valid"; a "prediction" of more than 8 bits replaces the
    output's pixels."""
    ways = {"depth": aligned_depth, "disparity": aligned_disparity}

    def compute(case: Case) -> Scores:
        truth, valid = case.given.array("depth"), case.given.array("valid")
        if not valid.any():
            return {f"{name} ({way})": math.nan for way in ways for name in ("AbsRel", "delta1")}
        predicted = _grey(case.output.memo.get("values", case.output.pixels), truth.shape)
        scores: Scores = {}
        for way, function in ways.items():
            try:
                found: tuple[float | None, ...] = depth_scores(function(predicted, truth, valid, limits), truth, valid)
            except ValueError:
                found = None, None  # a failure of this way alone
            scores[f"AbsRel ({way})"], scores[f"delta1 ({way})"] = found
        return scores

    rows = [
        Metric(f"{name} ({way})", unit, better, "none", "truth", f"the truth's, aligned in {way}")
        for way in ways
        for name, unit, better in (("AbsRel", "ratio", "lower"), ("delta1", "0..1", "higher"))
    ]
    return PerItem(tuple(rows), compute)


def segmentation_measure() -> PerItem:
    """gIoU, the mean over pictures (1 where neither has a pixel), and cIoU, pooled over the set. White is foreground;
    pixels of the item's array "ignore" count for neither."""

    def compute(case: Case) -> Scores:
        truth = case.given.array("mask")
        output = threshold(case.output.pixels)
        if output.shape != truth.shape:
            output = _resized_mask(case.output.pixels, truth.shape)
        if "ignore" in case.item.arrays:
            counted = ~case.given.array("ignore")
            output, truth = output & counted, truth & counted
        intersection, union = metrics.overlap(output, truth)
        return {"gIoU": metrics.iou(output, truth), "intersection": intersection, "union": union}

    giou = Metric("gIoU", "0..1", "higher", "none", "truth", "the truth's")
    ciou = replace(giou, name="cIoU", of=("intersection", "union"), combine=metrics.pooled_ratio)
    return PerItem((giou, ciou), compute)


def _grey(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """float64 (H, W) at the shape: channels averaged, bilinear."""
    grey = pixels.astype(np.float32)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    if grey.shape != shape:
        grey = np.asarray(Image.fromarray(grey).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
    return grey.astype(np.float64)


def _resized_mask(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return _grey(pixels, shape) > 127
