"""Measures of videos: likeness of every frame to the caption, and of the frames to each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from unireal.evaluation.backbones import Clip
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


def video_measures(clip: Clip, text: str, size: int | None = 480) -> list[Networked]:
    """CLIP-T of the item's text of that name, CLIP-F over all pairs of frames, and CLIP-F over consecutive ones.

    size: to which frames are squashed first (TGVE: 480), None for their own.
    """
    key = f"frame {size}"

    def view(picture: Picture) -> torch.Tensor:
        resized = picture if size is None else picture.resized((size, size))
        return clip.process(resized.pixels)

    def prepare(case: Case) -> None:
        for frame in case.frames:
            clip.prepare(key, frame, view)

    def embedded(case: Case) -> torch.Tensor:
        return clip.pictures(case.frames, key, view)

    def alignments(cases: Sequence[Case]) -> torch.Tensor:
        texts = clip.texts([case.item.texts[text] for case in cases])
        return torch.stack([text_alignment(embedded(c), t) for c, t in zip(cases, texts, strict=True)])

    resolution = f"{clip.size}x{clip.size} centre crop" + (f" of {size}x{size}" if size else "")
    row = [
        Metric(name, "-100..100", "higher", clip.name, "none", resolution)
        for name in ("CLIP-T", "CLIP-F all pairs", "CLIP-F consecutive")
    ]
    return [
        Networked(row[0], alignments, prepare, (text,)),
        Networked(row[1], lambda cases: torch.stack([consistency(embedded(c)) for c in cases]), prepare),
        Networked(row[2], lambda cases: torch.stack([smoothness(embedded(c)) for c in cases]), prepare),
    ]
