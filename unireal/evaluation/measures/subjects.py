"""DreamBench's subject fidelity: mean similarity of an output to all real pictures of its subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import cosine_similarity

from unireal.evaluation.backbones import Backbone, Clip, Dino, View
from unireal.evaluation.measures.base import Metric, Networked
from unireal.evaluation.pictures import Case, Picture


def mean_similarity(output: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Mean cosine of an embedding (D,) to others (R, D); a number."""
    return cosine_similarity(output[None], real).mean()


def subject_clip(clip: Clip) -> Networked:
    return _subject("CLIP-I", clip, clip.crop, clip.pictures, clip.seen())


def subject_dino(network: Dino) -> Networked:
    return _subject("DINO", network, network.crop, network.classes, "224x224 centre crop of 256")


def _subject(
    name: str, network: Backbone, view: View, embed: Callable[[Sequence[Picture]], torch.Tensor], resolution: str
) -> Networked:
    def prepare(case: Case) -> None:
        for picture in (case.output, *case.given.references):
            network.prepare("crop", picture, view)

    def compute(cases: Sequence[Case]) -> torch.Tensor:
        outputs = embed([case.output for case in cases])
        pairs = zip(outputs, cases, strict=True)
        return torch.stack([mean_similarity(output, embed(case.given.references)) for output, case in pairs])

    return Networked(Metric(name, "-1..1", "higher", network.name, "truth", resolution), compute, prepare)
