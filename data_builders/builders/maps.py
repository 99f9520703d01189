"""Pictures and the maps of them, in both directions: depth, edges and poses (UniReal, section 3.2, "Video Control").

Map to picture is controllable generation, picture to map is perception.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from data_builders.annotators.protocols import Annotators
from data_builders.builders.base import Footage, Options, VideoBuilder, describe, instruct, make_sample, singles
from data_builders.frames import canvas, result
from unireal.sample import Frame, Role, Sample
from unireal.tasks import TASKS

# kind of map: the task that predicts it; "compose" takes what has none of its own
_PREDICTED_BY = {"depth": "depth", "edge": "compose", "pose": "compose"}


@dataclass(frozen=True)
class MapOptions(Options):
    """kinds: which maps are made, of those whose annotators are given."""

    kinds: tuple[str, ...] = field(
        default=tuple(_PREDICTED_BY), metadata={"help": "maps that are made, where annotators are given"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds or (unknown := [kind for kind in self.kinds if kind not in _PREDICTED_BY]):
            given = ", ".join(unknown if self.kinds else ["none"])
            raise ValueError(f"--kinds takes {', '.join(_PREDICTED_BY)}, got {given}")

    def require(self, annotators: Annotators) -> None:
        if all(getattr(annotators, kind) is None for kind in self.kinds):
            flags = " or ".join(f"--{kind}" for kind in self.kinds)
            raise ValueError(f"no annotator makes maps of the kinds {', '.join(self.kinds)}; give {flags}")


def make(view: Footage, annotators: Annotators, options: MapOptions) -> Iterator[Sample]:
    """For each kind of map: map -> picture, and picture -> map."""
    image = view.first
    caption = describe(annotators, view.images)
    for kind in options.kinds:
        annotator = getattr(annotators, kind)
        if annotator is None:
            continue
        shown = getattr(annotator, kind)(image)
        if not shown.any():
            continue  # a map without an edge or a pose says nothing
        facts = {"kind": kind, "caption": caption}
        inputs = (Frame(shown, Role.CONTROL, kind),)
        yield make_sample("control", instruct("control", caption, kind=kind), inputs, result(image), source=facts)
        yield _perception(image, shown, kind, facts)


def _perception(image: np.ndarray, shown: np.ndarray, kind: str, facts: dict) -> Sample:
    words, context = f"Predict the {kind} map of IMG1.", TASKS["depth"].context
    inputs = (canvas(image),)
    return make_sample(_PREDICTED_BY[kind], words, inputs, result(shown, kind), context=context, source=facts)


CONTROL = VideoBuilder(
    "control",
    "depth, edge and pose maps: from map to picture and from picture to map",
    singles,
    make,
    uses=("captioner", "depth", "edge", "pose"),
    options=MapOptions,
)
