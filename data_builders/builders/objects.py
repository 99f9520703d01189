"""Objects of a view: found by their words, followed through its frames, cut out and taken away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from data_builders.annotators.boxes import bounding_box
from data_builders.annotators.protocols import Annotators, Detection, Refused
from data_builders.builders.base import Footage, Options, describe

BLANK = 226  # grey level around an object that is cut out, as in the procedural world
_FILLS = 0.8  # share of the asset's sides that the object fills
_SAME = 0.8  # intersection over union from which two phrases mean one object
_SPECK = 0.02  # parts of a mask below this share of the largest are taken for mistakes
_ARTICLES = "the|an?|this|that|these|those|some|another|his|her|its|their"  # and what stands in their place


@dataclass(frozen=True)
class ObjectOptions(Options):
    """Which objects are good for a sample; shares are of the picture's area."""

    min_share: float = field(default=0.005, metadata={"help": "smallest object, as a share of the picture"})
    max_share: float = field(default=0.6, metadata={"help": "largest object, as a share of the picture"})
    max_objects: int = field(default=3, metadata={"help": "objects that are taken from a view, at most 4"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_share <= self.max_share <= 1:
            raise ValueError(f"shares are 0 <= min <= max <= 1, got {self.min_share} and {self.max_share}")
        if not 1 <= self.max_objects <= 4:
            raise ValueError(f"--max-objects is 1..4, got {self.max_objects}")


@dataclass(frozen=True)
class FoundObject:
    """An object with its words, "the red car", the grounder's score in 0..1 and masks bool (T, H, W)."""

    phrase: str
    score: float
    masks: np.ndarray


def find_objects(view: Footage, annotators: Annotators, options: ObjectOptions) -> tuple[str, list[FoundObject]]:
    """The view's caption, and objects of its first frame that are well visible in its first and last frames.

    A phrase that fits several things is left out: nobody could tell which is meant. Raises Refused if none is left.
    """
    assert annotators.captioner and annotators.grounder and annotators.segmenter  # the builder requires them
    caption = describe(annotators, view.images)
    unique: dict[str, Detection] = {}
    for phrase in annotators.captioner.objects(view.images, caption):
        found = annotators.grounder.ground(view.first, phrase)
        if len(found) == 1:
            unique.setdefault(definite(phrase), found[0])
    if not unique:
        raise Refused("no phrase of the caption means one object alone")
    boxes = [detection.box for detection in unique.values()]
    if len(view.images) == 1:
        masks = annotators.segmenter.segment(view.first, boxes)[:, None]
    else:
        masks = annotators.segmenter.track(view.images, boxes)
    every = (FoundObject(p, d.score, m) for (p, d), m in zip(unique.items(), masks, strict=True))
    kept = list(_distinct(f for f in every if _visible(f.masks, options)))
    if not kept:
        raise Refused("no object is well visible in the first and the last frame")
    chosen = view.rng.choice(len(kept), min(options.max_objects, len(kept)), replace=False)
    return caption, [kept[index] for index in sorted(chosen.tolist())]


def _visible(masks: np.ndarray, options: ObjectOptions) -> bool:
    return all(options.min_share <= mask.mean() <= options.max_share and mask.any() for mask in (masks[0], masks[-1]))


def _distinct(objects: Iterator[FoundObject]) -> Iterator[FoundObject]:
    kept: list[FoundObject] = []
    for found in objects:
        if all(_overlap(found.masks[0], other.masks[0]) < _SAME for other in kept):
            kept.append(found)
            yield found


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def definite(phrase: str) -> str:
    """ "A red car.", "his red car" and "red car" as "the red car"."""
    return "the " + re.sub(rf"^({_ARTICLES})\s+", "", phrase.strip().rstrip("."), flags=re.IGNORECASE)


def cut_out(image: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What mask bool (H, W) shows of the image, centred and scaled to fit on blank ground: uint8 (*size, 3)."""
    mask = without_specks(mask)
    left, top, right, bottom = map(int, bounding_box(mask))
    alone = np.where(mask[..., None], image, np.uint8(BLANK))[top:bottom, left:right]
    scale = _FILLS * min(size[0] / alone.shape[0], size[1] / alone.shape[1])
    height, width = (max(1, round(scale * side)) for side in alone.shape[:2])
    scaled = Image.fromarray(alone).resize((width, height), Image.Resampling.LANCZOS)
    ground = Image.new("RGB", (size[1], size[0]), (BLANK, BLANK, BLANK))
    ground.paste(scaled, ((size[1] - width) // 2, (size[0] - height) // 2))
    return np.asarray(ground)


def asset_size(image: np.ndarray) -> tuple[int, int]:
    """Half of the picture's, so that all assets of one size of clips are alike."""
    return max(8, image.shape[0] // 2), max(8, image.shape[1] // 2)


def hole_for(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool (H, W) that hides mask bool (H, W) and its outline: the mask grown, or a box, which tells no shape."""
    margin, mask = max(1, round(0.02 * min(mask.shape))), without_specks(mask)
    if rng.random() < 0.5:
        return grow(mask, margin)
    left, top, right, bottom = map(int, bounding_box(mask))
    hole = np.zeros_like(mask)
    hole[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True
    return hole


def without_specks(mask: np.ndarray) -> np.ndarray:
    """Mask bool (H, W) without the few pixels that segmenters leave here and there, which would widen its box."""
    import cv2

    count, parts, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = facts[1:, cv2.CC_STAT_AREA]
    return np.isin(parts, [part for part in range(1, count) if areas[part - 1] >= _SPECK * areas.max(initial=0)])


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """bool (H, W) with a border of that many pixels in all directions."""
    import cv2

    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)
