"""Measures of videos: likeness of every frame to the caption, and of the frames to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from unireal.evaluation.backbones import Clip, Dino, load_vision
from unireal.evaluation.measures.base import Metric, Networked
from unireal.evaluation.pictures import Case, Picture


def text_alignment(frames: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """100 mean cosine of the frames' embeddings (T, D) to the text's (D,)."""
    return 100 * (F.normalize(frames, dim=-1) @ F.normalize(text, dim=-1)).mean()


def consistency(frames: torch.Tensor) -> torch.Tensor:
    """100 mean cosine of all pairs of different frames, (T, D); NaN for a single frame (TGVE)."""
    similarity = F.normalize(frames, dim=-1) @ F.normalize(frames, dim=-1).T
    count = len(frames)
    return 100 * (similarity.sum() - similarity.trace()) / (count * (count - 1))


def smoothness(frames: torch.Tensor) -> torch.Tensor:
    """100 mean cosine of consecutive frames, (T, D); NaN for a single frame (Ditto)."""
    frames = F.normalize(frames, dim=-1)
    return 100 * (frames[1:] * frames[:-1]).sum(-1).mean()


@dataclass(frozen=True)
class FrameEncoder:
    """What makes features (T, D) of frames; name and resolution go with the numbers."""

    name: str
    resolution: str
    encode: Callable[[Sequence[Picture]], torch.Tensor]

    def similarity(self, frames: Sequence[np.ndarray]) -> float:
        """`smoothness` of frames uint8 (H, W, 3)."""
        return smoothness(self.encode([Picture(frame) for frame in frames])).item()


def load_frame_encoder(name: str, device: str = "cpu") -> FrameEncoder:
    """CLIP's embeddings or DINO's class tokens, whichever the folder or hub id holds. Raises ValueError for another."""
    network = load_vision(name, device)
    if isinstance(network, Dino):
        return FrameEncoder(name, "224x224 centre crop of 256", network.classes)
    view = network.resized(None)
    return FrameEncoder(name, network.seen(), lambda pictures: network.pictures(pictures, "frame None", view))


def video_measures(clip: Clip, text: str, size: int | None = 480) -> list[Networked]:
    """CLIP-T of the item's text of that name, CLIP-F over all pairs of frames, and CLIP-F over consecutive ones.

    size: to which frames are squashed first (TGVE: 480), None for their own.
    """
    key, view = f"frame {size}", clip.resized(size)

    def prepare(case: Case) -> None:
        for frame in case.frames:
            clip.prepare(key, frame, view)

    def embedded(case: Case) -> torch.Tensor:
        return clip.pictures(case.frames, key, view)

    def alignments(cases: Sequence[Case]) -> torch.Tensor:
        texts = clip.texts([case.item.texts[text] for case in cases])
        return torch.stack([text_alignment(embedded(c), t) for c, t in zip(cases, texts, strict=True)])

    row = [
        Metric(name, "-100..100", "higher", clip.name, "none", clip.seen(size))
        for name in ("CLIP-T", "CLIP-F all pairs", "CLIP-F consecutive")
    ]
    return [
        Networked(row[0], alignments, prepare, (text,)),
        Networked(row[1], lambda cases: torch.stack([consistency(embedded(c)) for c in cases]), prepare),
        Networked(row[2], lambda cases: torch.stack([smoothness(embedded(c)) for c in cases]), prepare),
    ]
