"""The border types: what every data set is turned into and what every model input is made from.

Every image is a *frame* (UniReal, section 3.1). A `Sample` is one instruction, one context prompt and the frames
that go with it; a `Batch` is several samples of one *layout* (equal frame sizes), as tensors.

Axes: H height, W width in pixels; B samples of a batch; K input frames; R result frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


class Role(StrEnum):
    """What a frame is for (UniReal, section 3.1). The order is that of the model's role embedding."""

    CANVAS = "canvas"  # background or edit target; its layout is kept
    ASSET = "asset"  # reference object; size, pose and light may change
    CONTROL = "control"  # constrains layout or shape: mask, depth, edge, ...
    RESULT = "result"  # what is generated

    @property
    def index(self) -> int:  # type: ignore[override]  # str.index is not wanted here
        return list(Role).index(self)


@dataclass(frozen=True)
class Frame:
    """One image with its role.

    image: uint8 (H, W, 3) RGB in 0..255, or uint16 (H, W) in 0..65535 for depth that is kept at 16 bits.
    kind:  what the pixels show: "image", "mask", "depth", "edge", "pose", "segmentation", "sketch", "layout", "drag".
    """

    image: np.ndarray
    role: Role
    kind: str = "image"

    def __post_init__(self) -> None:
        rgb = self.image.dtype == np.uint8 and self.image.ndim == 3 and self.image.shape[2] == 3
        deep = self.image.dtype == np.uint16 and self.image.ndim == 2
        if not (rgb or deep) or 0 in self.image.shape:
            raise ValueError(
                f"a frame is a non-empty uint8 (H, W, 3) or uint16 (H, W) array, got {self.image.dtype} "
                f"{self.image.shape}; convert it with unireal.transforms.load_image"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True)
class Sample:
    """One training, evaluation or inference example.

    task:        a name in unireal.tasks.TASKS.
    instruction: what to do, in words; names inputs IMG1..IMGk and results RES1..RESr.
    context:     the context prompt (UniReal, section 3.1), e.g. "realistic style, static scenario".
    inputs:      K frames with role canvas, asset or control, in the order that IMG1..IMGk name.
    results:     R frames with role result; at inference black ones, which say how many there are to be and how large.
    mask:        bool (H, W) of the first result's size: the region that changes; None where unknown.
    source:      where it comes from: video, frame times, builder, version, annotators, scores.
    """

    task: str
    instruction: str
    context: str = ""
    inputs: tuple[Frame, ...] = ()
    results: tuple[Frame, ...] = ()
    mask: np.ndarray | None = None
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        return Layout(tuple(f.size for f in self.inputs), tuple(f.size for f in self.results))


@dataclass(frozen=True)
class Layout:
    """The frame sizes, (height, width) in pixels, that samples of one batch share."""

    inputs: tuple[tuple[int, int], ...]
    results: tuple[tuple[int, int], ...]


@dataclass
class Batch:
    """B samples of one layout, ready for the model.

    inputs:  K tensors float32 (B, 3, H, W) in -1..1.
    results: R tensors float32 (B, 3, H, W) in -1..1.
    roles:   int64 (B, K), indices of `Role`.
    changed: R tensors float32 (B, 1, H, W), 1 where a result differs from its canvas, else 0; 1 everywhere if unknown.
    prompts: B strings, context prompt and instruction joined by unireal.prompts.join.
    tasks:   B task names.
    sources: B times where the sample comes from, as in Sample.
    numbers: of the samples in the sequence of a training run; what is drawn at random for a sample follows from it.
    text:    None, or where the frames are latents already (unireal.data.encoded), the features, mask and referring of
             the prompts as in unireal.model.text_encoder.TextFeatures.
    """

    inputs: list[torch.Tensor]
    results: list[torch.Tensor]
    roles: torch.Tensor
    changed: list[torch.Tensor]
    prompts: list[str]
    tasks: list[str]
    sources: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    text: dict[str, torch.Tensor] | None = None
