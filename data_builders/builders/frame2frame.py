"""Two frames of a clip and what happens between them in words: editing learned from video (UniReal, section 3.2).

The caption of the stretch is the instruction; where an instructor is given, its precise edit is, and the way back is a
second sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_builders.annotators.protocols import Annotators, Refused
from data_builders.builders.base import Footage, Options, VideoBuilder, describe, make_sample, pairs, sentence
from data_builders.contexts import of_pair
from data_builders.frames import canvas, result
from unireal.sample import Sample


@dataclass(frozen=True)
class Frame2FrameOptions(Options):
    """min_change: mean squared difference of pixels in 0..1 from which two frames count as different."""

    min_change: float = field(
        default=1e-5, metadata={"help": "mean squared difference of pixels, 0..1, that makes two frames a pair"}
    )


def make(view: Footage, annotators: Annotators, options: Frame2FrameOptions) -> Iterator[Sample]:
    """canvas -> the later frame; with an instructor also the later frame -> the earlier one."""
    before, after = view.first, view.last
    change = float(np.mean(((before.astype(np.float32) - after) / 255.0) ** 2))
    if change < options.min_change:
        raise Refused("the two frames are alike")
    caption = describe(annotators, view.images)
    facts: dict[str, Any] = {"change": round(change, 6), "caption": caption}
    if annotators.instructor is None:
        yield _pair(view, before, after, caption, facts)
        return
    told = annotators.instructor.instruct(before, after, caption)
    facts["objects"] = list(told.objects)
    yield _pair(view, before, after, told.instruction, facts)
    if told.reverse:
        yield _pair(view, after, before, told.reverse, facts | {"times": [view.times[-1], view.times[0]]})


def _pair(view: Footage, before: np.ndarray, after: np.ndarray, instruction: str, facts: dict) -> Sample:
    facts = {"times": [view.times[0], view.times[-1]]} | facts
    words, inputs = sentence(instruction), (canvas(before),)
    return make_sample("edit", words, inputs, result(after), context=of_pair(before, after), source=facts)


FRAME2FRAME = VideoBuilder(
    "frame2frame",
    "two frames of a clip, and what changes from one to the other in words",
    pairs,
    make,
    needs=("captioner",),
    uses=("instructor",),
    options=Frame2FrameOptions,
    version=2,  # 1 said of every pair what curation had measured of its clip
)
