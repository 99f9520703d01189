"""What is measured of each recipe of the world, and what has to be reached: the tables EXAMS and BARS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from data_builders.world.generation import CONTROLS
from data_builders.world.render import DEPTH_RANGE, decode_depth, render
from data_builders.world.scene import COLORS, SHAPES, Scene, Thing
from data_builders.world.video_recipes import endings
from unireal.evaluation import metrics
from unireal.evaluation.measures.frames import FrameEncoder
from unireal.evaluation.report import Bar
from unireal.sample import Sample
from unireal.tasks import TASKS
from unireal.transforms import paste_back, threshold

Outputs = list[np.ndarray]  # result pictures of one sample, uint8 (H, W, 3)


@dataclass(frozen=True)
class WorldItem:
    """A sample with its truth, and the scene of its canvas or, where there is none, of its first result."""

    sample: Sample
    scene: Scene

    @property
    def truth(self) -> Outputs:
        return [frame.image for frame in self.sample.results]

    @property
    def size(self) -> tuple[int, int]:
        return self.sample.results[0].size

    @property
    def changed(self) -> np.ndarray:
        """bool (H, W): the region that changes. Raises ValueError for a sample that does not tell."""
        if self.sample.mask is None:
            raise ValueError(f"samples of task {self.sample.task!r} do not tell what changes; measure another region")
        return self.sample.mask

    @property
    def hole(self) -> np.ndarray:
        """bool (H, W): the mask that is among the inputs. Raises ValueError without one."""
        for frame in self.sample.inputs:
            if frame.kind == "mask":
                return threshold(frame.image)
        raise ValueError(f"samples of task {self.sample.task!r} have no mask as input; measure another region")

    def question(self) -> Sample:
        """The sample without its truth: blank results, no mask and no source."""
        blank = tuple(replace(frame, image=np.zeros_like(frame.image)) for frame in self.sample.results)
        return replace(self.sample, results=blank, mask=None, source={})

    def finished(self, outputs: Outputs) -> Outputs:
        """Outputs with the canvas pasted back where the task does so. Raises ValueError for other sizes or numbers."""
        got, asked = [o.shape for o in outputs], [t.shape for t in self.truth]
        if got != asked:
            raise ValueError(f"recipe {self.sample.source['recipe']!r} asks for results of shapes {asked}, got {got}")
        if not TASKS[self.sample.task].paste_back:
            return outputs
        return [paste_back(outputs[0], self.sample.inputs[0].image, self.hole), *outputs[1:]]


@dataclass(frozen=True)
class WorldMetric:
    """measure: of one item and its outputs; combine: the measures of all items to mean, standard error and n.

    parts: what `measure` gives if that is no score of this name: a name and whether "higher" or "lower" is better for
    each of its numbers. backbone: the network behind it; seen: the resolution at which it sees results, else their own.
    """

    name: str
    unit: str
    measure: Callable[[WorldItem, Outputs], Any]
    higher: bool = True
    combine: Callable[[list[Any]], tuple[float, float, int]] = metrics.mean
    parts: tuple[tuple[str, str], ...] = ()
    backbone: str = "none"
    seen: str | None = None

    @property
    def better(self) -> str:
        return "higher" if self.higher else "lower"

    def scores(self, measured: Any) -> dict[str, float]:
        """What was measured of one item, by name."""
        names = [name for name, _ in self.parts] or [self.name]
        return dict(zip(names, measured if isinstance(measured, tuple) else (measured,), strict=True))


def _masks(item: WorldItem, outputs: Outputs, measure: Callable[..., Any], index: int = 0) -> Any:
    return measure(threshold(outputs[index]), threshold(item.truth[index]))


def _depth(
    item: WorldItem, outputs: Outputs, measure: Callable[..., float], aligned: bool = False, index: int = 0
) -> float:
    depth, truth = decode_depth(outputs[index]), decode_depth(item.truth[index])
    return measure(metrics.align(depth, truth, DEPTH_RANGE) if aligned else depth, truth)


def _recognised(item: WorldItem, outputs: Outputs, attribute: str, first: bool = False) -> float:
    """Share of the scene's things (or of the first alone) that come out with the right "color" or "shape"."""
    values = []
    for thing in item.scene.things[: 1 if first else None]:
        things, pictures, region = candidates(item.scene, thing, item.size)
        if region.any():
            found = things[metrics.nearest(outputs[0], pictures, region)]
            values.append(getattr(found, attribute) == getattr(thing, attribute))
    return float(np.mean(values)) if values else math.nan


@lru_cache(maxsize=8)
def candidates(scene: Scene, thing: Thing, size: tuple[int, int]) -> tuple[list[Thing], np.ndarray, np.ndarray]:
    """The thing in every colour and shape, the scene with each of them, and where any of them is visible.

    The pictures are uint8 (N, H, W, 3), the region is bool (H, W).
    """
    things = [replace(thing, color=color, shape=shape) for shape in SHAPES for color in COLORS]
    drawn = [render(scene.swap(thing, other), size) for other in things]
    index = scene.things.index(thing)
    region = np.any([picture.masks[index] for picture in drawn], axis=0)
    return things, np.stack([picture.image for picture in drawn]), region


def _all_frames(item: WorldItem, outputs: Outputs, part: Callable[[np.ndarray], np.ndarray] | None = None) -> float:
    """PSNR of all frames as one picture, inside a part of the mask's region, or everywhere."""
    region = None if part is None else np.concatenate([part(item.changed)] * len(outputs))
    return metrics.psnr(np.concatenate(outputs), np.concatenate(item.truth), region)


def _over_time(item: WorldItem, outputs: Outputs) -> float:
    """Squared error of what changes from each frame to the next: flicker and wrong motion, but no constant errors."""
    changes, truth = (np.concatenate(np.diff(np.stack(f).astype(np.int16), axis=0)) for f in (outputs, item.truth))
    return metrics.squared_error(changes, truth)


def _motion(item: WorldItem, outputs: Outputs) -> float:
    """Whether the last frame is most like that of the motion asked for, among all motions of that thing."""
    facts = item.sample.source
    steps = len(outputs) - 1 + len(item.sample.inputs)  # the scene is the canvas's, or the first result's
    scenes = endings(item.scene, facts["mover"], steps)
    pictures = np.stack([render(scene, item.size).image for scene in scenes.values()])
    region = (pictures != pictures[0]).any(axis=(0, 3))
    return float(list(scenes)[metrics.nearest(outputs[-1], pictures, region)] == facts["motion"])


_FULL = WorldMetric("full PSNR", "dB", lambda item, outputs: metrics.psnr(outputs[0], item.truth[0]))
_CHANGED = WorldMetric(
    "changed PSNR", "dB", lambda item, outputs: metrics.psnr(outputs[0], item.truth[0], item.sample.mask)
)
_UNCHANGED = WorldMetric(
    "unchanged PSNR", "dB", lambda item, outputs: metrics.psnr(outputs[0], item.truth[0], ~item.changed)
)
_HOLE = WorldMetric("hole PSNR", "dB", lambda item, outputs: metrics.psnr(outputs[0], item.truth[0], item.hole))
_EDIT = (_CHANGED, _UNCHANGED, _FULL)
_MASK, _MASK_RES2 = (
    (
        WorldMetric(f"gIoU{suffix}", "0..1", partial(_masks, measure=metrics.iou, index=index)),
        WorldMetric(
            f"cIoU{suffix}",
            "0..1",
            partial(_masks, measure=metrics.overlap, index=index),
            combine=metrics.pooled_ratio,
            parts=((f"intersection{suffix}", "higher"), (f"union{suffix}", "lower")),
        ),
    )
    for index, suffix in enumerate(("", " RES2"))
)
_DEPTH = (
    WorldMetric("AbsRel", "ratio", partial(_depth, measure=metrics.abs_rel), higher=False),
    WorldMetric("delta1", "0..1", partial(_depth, measure=metrics.delta1)),
    WorldMetric("AbsRel aligned", "ratio", partial(_depth, measure=metrics.abs_rel, aligned=True), higher=False),
    WorldMetric("delta1 aligned", "0..1", partial(_depth, measure=metrics.delta1, aligned=True)),
)
_DEPTH_RES2 = WorldMetric("AbsRel RES2", "ratio", partial(_depth, measure=metrics.abs_rel, index=1), higher=False)
_VIDEO_EDIT = (
    WorldMetric("changed PSNR", "dB", partial(_all_frames, part=lambda mask: mask)),
    WorldMetric("temporal PSNR", "dB", _over_time, combine=metrics.pooled_psnr, parts=(("temporal error", "lower"),)),
    WorldMetric("unchanged PSNR", "dB", partial(_all_frames, part=np.logical_not)),
    WorldMetric("full PSNR", "dB", _all_frames),
)
_MOTION = WorldMetric("motion correct", "0..1", _motion)
_THINGS, _FIRST_THING = (
    tuple(
        WorldMetric(f"{word} correct", "0..1", partial(_recognised, attribute=attribute, first=first))
        for word, attribute in (("colour", "color"), ("shape", "shape"))
    )
    for first in (False, True)
)

# What is measured of each recipe; the first metric is the primary one.
EXAMS: dict[str, tuple[WorldMetric, ...]] = {
    **dict.fromkeys(("recolor", "recolor_alike", "remove", "add", "move"), _EDIT),
    "replace": (_FULL, _CHANGED, _UNCHANGED),
    **dict.fromkeys(("background", "resize", "turn", "expression", "frame2frame", "insert", "tryon"), _EDIT),
    **dict.fromkeys(("viewpoint", "style"), (_FULL,)),
    **dict.fromkeys(("customize1", "customize2"), (*_THINGS, _FULL)),
    **{f"control_{kind}": (_FULL, *_FIRST_THING) for kind in (*CONTROLS, "drag")},
    "depth": _DEPTH,
    "segment": _MASK,
    **dict.fromkeys(("colorize", "deblur"), (_FULL,)),
    **dict.fromkeys(("inpaint", "outpaint"), (_HOLE, _FULL)),
    "t2i": (*_FIRST_THING, _FULL),
    "edit_mask": (*_EDIT, *_MASK_RES2),
    "customize_mask": (*_THINGS, *_MASK_RES2, _FULL),
    **dict.fromkeys(("video_edit", "video_edit_reference"), _VIDEO_EDIT),
    "t2v": (*_FIRST_THING, _MOTION),
    "image_to_video": (_MOTION, *_VIDEO_EDIT),
    "insert2_depth": _EDIT,
    "insert_mask": (*_EDIT, *_MASK_RES2),
    "edit_depth": (*_EDIT, _DEPTH_RES2),
    "customize2_mask": (*_THINGS, *_MASK_RES2, _FULL),
}


def frame_similarity(encoder: FrameEncoder) -> WorldMetric:
    """Of consecutive result frames to a network (CLIP-F, as Ditto has it). What stands still has 100, so it is to be
    read beside the truth's, the copy's and the quality of the frames."""
    return WorldMetric(
        "frame similarity",
        "-100..100",
        lambda item, outputs: encoder.similarity(outputs),
        backbone=encoder.name,
        seen=encoder.resolution,
    )


# What has to be reached on the standard set.
BARS: dict[tuple[str, str], Bar] = {
    ("recolor", "changed PSNR"): Bar(20),
    ("remove", "changed PSNR"): Bar(38),
    ("add", "changed PSNR"): Bar(21),
    ("move", "changed PSNR"): Bar(21),
    ("insert", "changed PSNR"): Bar(21),
    ("replace", "full PSNR"): Bar("copy"),
    ("depth", "AbsRel"): Bar(0.10),
    ("segment", "gIoU"): Bar(0.80),
    ("customize1", "colour correct"): Bar(0.95),
    ("customize1", "shape correct"): Bar(0.6),
    ("inpaint", "hole PSNR"): Bar(27),
    ("video_edit", "changed PSNR"): Bar("per frame"),
    ("video_edit", "temporal PSNR"): Bar("per frame"),
}
