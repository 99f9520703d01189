"""A video, an instruction and the edited video, made as Ditto makes them (arXiv 2510.15742, section 3).

Caption, then instruction; the first frame edited by an image editor; the depth of the video; a new video from that
depth and that key frame; a judge with four criteria; refinement; and the way back as a second pair, since there the
result is a real video. Records hold windows of consecutive frames; the asset is the first frame of the result, which
training may leave out (Ditto's modality curriculum).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from data_builders.annotators.protocols import CRITERIA, Refused
from data_builders.builders.base import Footage, Options, VideoBuilder, make_sample, sentence
from data_builders.builders.generators import Studio
from data_builders.contexts import synthetic
from data_builders.frames import asset, canvas, result
from unireal.sample import Sample
from unireal.tasks import TASKS


@dataclass(frozen=True)
class VideoEditOptions(Options):
    """Scores are 0..1; a video below one of them is rejected. 0.75 for the source is Ditto's, the others are ours."""

    views: int = field(default=1, metadata={"help": "edits that are made of each clip"})
    window: int = field(default=7, metadata={"help": "consecutive frames of a record, 4..7"})
    min_instruction_fidelity: float = field(
        default=0.6, metadata={"help": "lowest score for following the instruction"}
    )
    min_source_fidelity: float = field(
        default=0.75, metadata={"help": "lowest score for keeping the rest of the video"}
    )
    min_visual_quality: float = field(default=0.6, metadata={"help": "lowest score for clean pictures"})
    min_safety: float = field(default=0.9, metadata={"help": "lowest score for harmlessness"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 4 <= self.window <= 7:
            raise ValueError(f"--window is 4..7, got {self.window}")
        for criterion in CRITERIA:  # a percentage would reject every video, after all the work
            if not 0 <= (lowest := getattr(self, f"min_{criterion}")) <= 1:
                raise ValueError(f"--min-{criterion.replace('_', '-')} is a score of 0..1, got {lowest:g}")


def draw(footage: Footage, options: VideoEditOptions) -> Iterator[Footage]:
    """The whole clip, once for each edit. Raises Refused if it is shorter than a window."""
    if len(footage.images) < options.window:
        raise Refused(f"the clip has fewer than {options.window} frames")
    for _ in range(options.views):
        yield footage


def make(view: Footage, studio: Studio, options: VideoEditOptions) -> Iterator[Sample]:
    """N frames of the video -> the same frames edited, and the way back."""
    assert studio.captioner and studio.instructor and studio.editor  # the builder requires them all
    assert studio.depth and studio.generator and studio.judge
    seed = int(view.rng.integers(2**31))
    caption = studio.captioner.caption(view.images)
    told = studio.instructor.video_instruction(view.images, caption, seed)
    key = studio.editor.edit(view.first, told.key_frame_instruction, seed)
    depth = studio.depth.depths(view.images)  # on one scale for the clip, or the depth video would flicker
    edited = studio.generator.generate(list(depth), key, told.video_instruction, seed)
    if len(edited) < options.window:
        raise Refused(f"the generator made fewer than {options.window} frames")
    original = view.images[: len(edited)]
    scores = studio.judge.judge(original, edited, told.video_instruction)
    for criterion in CRITERIA:
        lowest = getattr(options, f"min_{criterion}")
        if scores[criterion] < lowest:
            raise Refused(f"the judge scores {criterion.replace('_', ' ')} below {lowest}")
    if studio.refiner is not None:
        edited = studio.refiner.refine(edited, told.video_instruction, seed)
        original = original[: len(edited)]
    facts = {"caption": caption, "scope": told.scope, "scores": scores, "seed": seed}
    there, real = synthetic("video_edit"), TASKS["video_edit"].context
    yield from _windows(view, told.video_instruction, there, original, edited, options.window, facts)
    # last: if there are no words for the way back, the way there is kept
    back = studio.instructor.instruct(edited[0], original[0], caption).instruction
    yield from _windows(view, back, real, edited, original, options.window, facts | {"reversed": True})


def _windows(
    view: Footage,
    instruction: str,
    context: str,
    before: list[np.ndarray],
    after: list[np.ndarray],
    window: int,
    facts: dict,
) -> Iterator[Sample]:
    """One sample for each full window; the rest at the end is left out."""
    for start in range(0, len(after) - window + 1, window):
        span = slice(start, start + window)
        inputs = (*map(canvas, before[span]), asset(after[start]))
        source = facts | {"times": [round(t, 6) for t in view.times[span]]}
        results = map(result, after[span])
        yield make_sample("video_edit", sentence(instruction), inputs, *results, context=context, source=source)


VIDEO_EDIT = VideoBuilder(
    "video_edit",
    "a video, an instruction, and the video that a generator makes of both",
    draw,
    make,
    needs=("captioner", "instructor", "depth", "judge", "editor", "generator"),
    uses=("refiner",),
    options=VideoEditOptions,
    fps=None,
    frames=101,
    # 1 had depth on a scale of its own for each frame, 2 key frames made as squares or without guidance, 3 no result
    # that was called synthetic, 4 the same instruction in all views of a clip, whatever the seed, 5 large videos at the
    # times of small ones
    version=6,
)
