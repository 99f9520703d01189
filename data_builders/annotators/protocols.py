"""The annotators' borders: what the builders ask, and in which arrays and words the answer comes.

Pictures are uint8 (H, W, 3) RGB; frames are pictures of one size in temporal order, a sequence of them or one array
(T, H, W, 3). Boxes are (x0, y0, x1, y1) in pixels from the upper left corner, x1 and y1 exclusive. K counts objects.

An annotator that sees a reply it cannot use raises `Refused`; the builders drop that sample and tell why. Wrong
arguments are a plain ValueError. The procedural world implements the same protocols with exact truth
(data_builders.world.oracle), models and other programs implement them in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import numpy as np

Box = tuple[float, float, float, float]
Frames = Sequence[np.ndarray] | np.ndarray

# What Ditto's judge looks at (arXiv 2510.15742): each score is 0 (worst) .. 1.
CRITERIA = ("instruction_fidelity", "source_fidelity", "visual_quality", "safety")


class Refused(ValueError):  # noqa: N818 - it is an answer, not a mistake
    """An annotator declined, or its reply stayed unusable after the retries; the message says which and why."""


@dataclass(frozen=True)
class Instruction:
    """What turns the earlier picture into the later one, in words.

    instruction: the edit, "Make the dog sit down."; reverse: the way back, "Make the dog stand up."
    objects: phrases of what changes, "the dog", for a grounder; may be empty.
    """

    instruction: str
    reverse: str
    objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class VideoInstruction:
    """Ditto's second step: one edit, said for a single frame and for the whole video.

    scope: "global" (style, environment) or "local" (one object is replaced, added or removed).
    """

    key_frame_instruction: str
    video_instruction: str
    scope: str = "global"


@dataclass(frozen=True)
class Detection:
    """One found object: its box in pixels, a score in 0..1, and what was found, in words."""

    box: Box
    score: float
    label: str


def sequence(frames: Frames) -> list[np.ndarray]:
    """Frames, or one picture, as a list of pictures. Raises ValueError if there are none or they differ in size."""
    images = [frames] if isinstance(frames, np.ndarray) and frames.ndim == 3 else list(frames)
    if not images or len({image.shape for image in images}) != 1:
        raise ValueError(f"frames are 1 or more pictures of one size, got {[i.shape for i in images]}; resize them")
    return images


class Annotator(Protocol):
    """name: what goes into a record's source, for example "Qwen/Qwen2.5-VL-7B-Instruct" or "oracle"."""

    name: str


@runtime_checkable
class Captioner(Annotator, Protocol):
    def caption(self, frames: Frames) -> str:
        """What the video (or the one picture) shows and what happens in it, as one sentence or more."""

    def objects(self, frames: Frames, caption: str) -> tuple[str, ...]:
        """Phrases of the separate things that the first frame shows, "the red car", each good for a grounder."""


@runtime_checkable
class Instructor(Annotator, Protocol):
    def instruct(self, before: np.ndarray, after: np.ndarray, caption: str) -> Instruction:
        """The precise edit from one frame to another of the captioned video (UniReal, section 3.2)."""

    def video_instruction(self, frames: Frames, caption: str, seed: int = 0) -> VideoInstruction:
        """A new edit that suits the captioned video, p = VLM(V, c) of Ditto; seed: another one, another edit."""


@runtime_checkable
class Judge(Annotator, Protocol):
    def judge(self, before: Frames, after: Frames, instruction: str) -> dict[str, float]:
        """A score in 0..1 for each of CRITERIA. before, after: one picture (H, W, 3), or frames of a video."""


@runtime_checkable
class Grounder(Annotator, Protocol):
    def ground(self, image: np.ndarray, phrase: str) -> list[Detection]:
        """Where the phrase's objects are, best first; empty if there are none. Boxes lie within the picture."""


@runtime_checkable
class Segmenter(Annotator, Protocol):
    def segment(self, image: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
        """bool (K, H, W): for each box, where its object is visible."""

    def track(self, frames: Frames, boxes: Sequence[Box]) -> np.ndarray:
        """bool (K, T, H, W): the objects of these boxes of frames[0], through all frames."""


@runtime_checkable
class DepthEstimator(Annotator, Protocol):
    def depth(self, image: np.ndarray) -> np.ndarray:
        """uint16 (H, W): 0 is the nearest, 65535 the farthest, as in the procedural world (black is near)."""

    def depths(self, frames: Frames) -> np.ndarray:
        """uint16 (T, H, W): as `depth`, but on one scale for all frames, so that a video does not flicker."""


@runtime_checkable
class EdgeDetector(Annotator, Protocol):
    def edge(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3): white edges on black."""


@runtime_checkable
class PoseEstimator(Annotator, Protocol):
    def pose(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3): skeletons on black; all black where nobody is seen."""


@dataclass(frozen=True)
class Annotators:
    """The annotators that a build may ask; None for those it has not been given."""

    captioner: Captioner | None = None
    instructor: Instructor | None = None
    judge: Judge | None = None
    grounder: Grounder | None = None
    segmenter: Segmenter | None = None
    depth: DepthEstimator | None = None
    edge: EdgeDetector | None = None
    pose: PoseEstimator | None = None

    @property
    def names(self) -> dict[str, str]:
        """Part to name of those that are there, for Sample.source["annotators"]."""
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {part: annotator.name for part, annotator in found if annotator is not None}

    def require(self, *parts: str) -> None:
        """Raises ValueError that names the options to give, unless all these parts are there."""
        if missing := [part for part in parts if getattr(self, part) is None]:
            raise ValueError(
                f"no annotator for {', '.join(missing)}; give {', '.join(f'--{part}' for part in missing)}"
            )
