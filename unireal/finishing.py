"""From decoded frames to what the user gets: black and white masks, grey depth, the canvas's own pixels where they are
to stay, and the type asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image

from unireal.request import Paste
from unireal.sample import Sample
from unireal.tasks import TASKS
from unireal.transforms import mask_image, paste_back, threshold

OUTPUT_TYPES = ("pil", "np", "pt")
FEATHER = 1  # pixels inside a mask over which the canvas fades out


@dataclass
class UniRealPipelineOutput(BaseOutput):
    """images: the first result of every prompt and variant. results: all results of each, RES1 first.
    edited: with spotedit, where each first result was computed, white; elsewhere it is the canvas. Else None.

    By output_type, PIL images, uint8 arrays (H, W, 3), float tensors (3, H, W) in 0..1 or latents (C, h, w); `edited`
    is a tensor where results are latents.
    """

    images: list[Any]
    results: list[list[Any]]
    edited: list[Any] | None = None


def finished(images: list[np.ndarray], sample: Sample) -> list[np.ndarray]:
    """The first result, uint8 (H, W, 3), as its task shows it: masks black and white, depth grey."""
    kind = TASKS[sample.task].result_kind
    if kind == "mask":
        return [mask_image(threshold(images[0])), *images[1:]]
    if kind == "depth":
        grey = images[0].mean(axis=2, keepdims=True).round().astype(np.uint8)
        return [np.repeat(grey, 3, axis=2), *images[1:]]
    return images


def pasted(images: list[np.ndarray], paste: Paste | None) -> list[np.ndarray]:
    """The first result with the canvas pasted back outside a mask, bit for bit."""
    return images if paste is None else [paste_back(images[0], paste.canvas, paste.mask, FEATHER), *images[1:]]


def check_output_type(output_type: str, *more: str) -> None:
    """Raises ValueError for a type that is neither in OUTPUT_TYPES nor one of `more`."""
    if output_type not in (*OUTPUT_TYPES, *more):
        raise ValueError(f"output_type must be one of {', '.join((*OUTPUT_TYPES, *more))}, got {output_type!r}")


def converted(image: np.ndarray, output_type: str) -> Any:
    """uint8 (H, W, 3) as "pil", "np" or "pt", float32 (3, H, W) in 0..1. Raises ValueError for another type."""
    check_output_type(output_type)
    if output_type == "pil":
        return Image.fromarray(image)
    return image if output_type == "np" else torch.from_numpy(image).permute(2, 0, 1).float() / 255
