"""Pictures that are whole, and the same with something missing: holes, borders, colours, sharpness. No weights needed.

A captioner, where one is given, says what the whole picture shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from data_builders.annotators.protocols import Annotators, Refused
from data_builders.builders.base import (
    Footage,
    Options,
    VideoBuilder,
    describe,
    instruct,
    make_sample,
    sentence,
    singles,
)
from data_builders.frames import canvas, erase, grey, mask_frame, result
from unireal.sample import Role, Sample


def inpaint(view: Footage, annotators: Annotators, options: Options) -> Iterator[Sample]:
    """canvas with a box or an ellipse unknown, its mask -> the whole picture."""
    yield _filled("inpaint", view, annotators, random_hole(view.first.shape[:2], view.rng))


def outpaint(view: Footage, annotators: Annotators, options: Options) -> Iterator[Sample]:
    """canvas of which one to four sides are unknown, the mask of these -> the whole picture."""
    yield _filled("outpaint", view, annotators, random_borders(view.first.shape[:2], view.rng))


def _filled(task: str, view: Footage, annotators: Annotators, hole: np.ndarray) -> Sample:
    caption = describe(annotators, view.images)
    inputs = (canvas(erase(view.first, hole)), mask_frame(hole, Role.CONTROL))
    facts = {"caption": caption, "hole": round(float(hole.mean()), 4)}
    return make_sample(task, instruct(task, caption), inputs, result(view.first), mask=hole, source=facts)


def random_hole(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """bool (H, W): a box or an ellipse whose sides are 20 to 60 % of the picture's."""
    height, width = size
    half = 0.5 * rng.uniform(0.2, 0.6, 2) * size
    centre = rng.uniform(0.15, 0.85, 2) * size
    v = (np.arange(height)[:, None] + 0.5 - centre[0]) / half[0]
    u = (np.arange(width)[None] + 0.5 - centre[1]) / half[1]
    return u * u + v * v <= 1.0 if rng.random() < 0.5 else (np.abs(u) <= 1.0) & (np.abs(v) <= 1.0)


def random_borders(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """bool (H, W): one to four sides, each up to 10 to 30 % of the picture."""
    height, width = size
    hole = np.zeros(size, bool)
    for side in rng.permutation(4)[: rng.integers(1, 5)].tolist():
        share = rng.uniform(0.1, 0.3)
        rows, columns = max(1, round(share * height)), max(1, round(share * width))
        hole[(np.s_[:, :columns], np.s_[:rows], np.s_[:, width - columns :], np.s_[height - rows :])[side]] = True
    return hole


@dataclass(frozen=True)
class RestoreOptions(Options):
    """colorless: saturation, 0..255, up to which a picture counts as grey and is not one to colorize."""

    colorless: float = field(
        default=8.0, metadata={"help": "mean saturation, 0..255, up to which a frame is too grey to be colorized"}
    )


def restore(view: Footage, annotators: Annotators, options: RestoreOptions) -> Iterator[Sample]:
    """A grey picture -> its colours; a blurred picture -> sharp."""
    image, caption = view.first, describe(annotators, view.images)
    if image.max(axis=2).astype(float).mean() - image.min(axis=2).mean() > options.colorless:
        yield _restored("Colorize IMG1", colourless(image), image, caption, {"damage": "grey"})
    sigma = float(view.rng.uniform(1.0, 3.0)) * min(image.shape[:2]) / 256
    blurred = blur(image, sigma)
    if (blurred == image).all():
        raise Refused("the frame has nothing to blur")
    yield _restored("Deblur IMG1", blurred, image, caption, {"damage": "blur", "sigma": round(sigma, 4)})


def _restored(order: str, shown: np.ndarray, image: np.ndarray, caption: str, facts: dict) -> Sample:
    words = sentence(f"{order}; {caption}" if caption else order)
    return make_sample("restore", words, (canvas(shown),), result(image), source=facts | {"caption": caption})


def colourless(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) without colour."""
    import cv2

    return grey(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """uint8 (H, W, 3) under a Gaussian of that many pixels."""
    import cv2

    return cv2.GaussianBlur(image, (0, 0), max(0.3, sigma))


INPAINT = VideoBuilder("inpaint", "a frame with a hole, and the whole frame", singles, inpaint, uses=("captioner",))
OUTPAINT = VideoBuilder(
    "outpaint", "a frame without some sides, and the whole frame", singles, outpaint, uses=("captioner",)
)
RESTORE = VideoBuilder(
    "restore", "a grey or blurred frame, and the frame", singles, restore, uses=("captioner",), options=RestoreOptions
)
