"""A frame and its caption."""

from __future__ import annotations

from collections.abc import Iterator

from data_builders.annotators.protocols import Annotators
from data_builders.builders.base import Footage, Options, VideoBuilder, describe, make_sample, sentence, singles
from data_builders.frames import result
from unireal.sample import Sample


def make(view: Footage, annotators: Annotators, options: Options) -> Iterator[Sample]:
    """Words -> the frame."""
    caption = describe(annotators, view.images)
    yield make_sample("t2i", sentence(caption), (), result(view.first), source={"caption": caption})


TEXT_TO_IMAGE = VideoBuilder("text_to_image", "a frame, from its caption", singles, make, needs=("captioner",))
