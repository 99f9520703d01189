"""The families that are about objects: customization, insertion with and without a reference, referring segmentation.

UniReal, section 3.2: a caption's phrases are grounded in one frame and followed to another one, so that the same object
is seen twice, as a reference and in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from data_builders.annotators.protocols import Annotators
from data_builders.builders.base import Footage, VideoBuilder, instruct, make_sample, pairs, sentence, singles
from data_builders.builders.objects import ObjectOptions, asset_size, cut_out, find_objects, hole_for
from data_builders.frames import asset, canvas, erase, mask_frame, result
from unireal.sample import Role, Sample

_NEEDS = ("captioner", "grounder", "segmenter")
_VERSION = 2  # 1 had specks of masks widen what is cut out, and holes


def multi_object(view: Footage, annotators: Annotators, options: ObjectOptions) -> Iterator[Sample]:
    """Objects cut from the first frame -> the last frame."""
    caption, objects = find_objects(view, annotators, options)
    size = asset_size(view.first)
    assets = tuple(asset(cut_out(view.first, found.masks[0], size)) for found in objects)
    named = [f"{found.phrase} from IMG{number}" for number, found in enumerate(objects, start=1)]
    words = ", ".join(named[:-1]) + " and " + named[-1] if len(named) > 1 else named[0]
    facts = _facts(view, caption, *objects)
    yield make_sample("customize", sentence(f"{words}; {caption}"), assets, result(view.last), source=facts)


@dataclass(frozen=True)
class InsertionOptions(ObjectOptions):
    """removal: what is left of the object: a grey hole, or the surroundings smeared over it (OpenCV's inpainting)."""

    removal: str = field(
        default="hole", metadata={"help": "how the object is removed: hole or smear", "choices": ("hole", "smear")}
    )


def insertion(view: Footage, annotators: Annotators, options: InsertionOptions) -> Iterator[Sample]:
    """The last frame without an object, and the object as the first frame shows it -> the last frame."""
    caption, objects = find_objects(view, annotators, options)
    for found in objects:
        hole = hole_for(found.masks[-1], view.rng)
        reference = cut_out(view.first, found.masks[0], asset_size(view.first))
        inputs = (canvas(REMOVALS[options.removal](view.last, hole)), asset(reference), mask_frame(hole, Role.CONTROL))
        words = f"Add {found.phrase} from IMG2 to IMG1, following the mask of IMG3."
        facts = _facts(view, caption, found)
        yield make_sample("insert", words, inputs, result(view.last), mask=hole, source=facts)


def object_add(view: Footage, annotators: Annotators, options: ObjectOptions) -> Iterator[Sample]:
    """A frame without an object -> the frame, from the object's words alone."""
    caption, objects = find_objects(view, annotators, options)
    for found in objects:
        hole = hole_for(found.masks[0], view.rng)
        inputs = (canvas(erase(view.first, hole)), mask_frame(hole, Role.CONTROL))
        facts = _facts(view, caption, found)
        words = instruct("inpaint", f"add {found.phrase}")
        yield make_sample("inpaint", words, inputs, result(view.first), mask=hole, source=facts)


def segmentation(view: Footage, annotators: Annotators, options: ObjectOptions) -> Iterator[Sample]:
    """A frame -> where the named object is visible."""
    caption, objects = find_objects(view, annotators, options)
    for found in objects:
        words, facts = instruct("segment", found.phrase), _facts(view, caption, found)
        yield make_sample("segment", words, (canvas(view.first),), mask_frame(found.masks[0]), source=facts)


def smear(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The image uint8 (H, W, 3) with the hole bool (H, W) filled from its border."""
    import cv2

    return cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)


REMOVALS = {"hole": erase, "smear": smear}


def _facts(view: Footage, caption: str, *objects) -> dict:
    told = [{"phrase": o.phrase, "score": round(float(o.score), 4)} for o in objects]
    times = sorted({view.times[0], view.times[-1]})
    return {"times": times, "caption": caption, "objects": told}


MULTI_OBJECT = VideoBuilder(
    "multi_object",
    "objects cut from one frame, and another frame that shows them",
    pairs,
    multi_object,
    needs=_NEEDS,
    options=ObjectOptions,
    version=_VERSION,
)
INSERTION = VideoBuilder(
    "insertion",
    "a frame without an object, the object from another frame, and the whole frame",
    pairs,
    insertion,
    needs=_NEEDS,
    options=InsertionOptions,
    version=_VERSION,
)
OBJECT_ADD = VideoBuilder(
    "object_add",
    "a frame without an object, its words, and the whole frame",
    singles,
    object_add,
    needs=_NEEDS,
    options=ObjectOptions,
    version=_VERSION,
)
SEGMENTATION = VideoBuilder(
    "segmentation",
    "a frame, an object in words, and its mask",
    singles,
    segmentation,
    needs=_NEEDS,
    options=ObjectOptions,
)
