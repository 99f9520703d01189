"""DINO self-similarity: how much the layout of a picture changed, and likeness of the features inside a region."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.nn.functional import cosine_similarity

from unireal.evaluation.backbones import Dino, as_tensor, shorter_side
from unireal.evaluation.measures.base import Metric, Networked, Scores
from unireal.evaluation.measures.similarity import needs
from unireal.evaluation.pictures import Case, Picture, resize_mask

SHORT_SIDE, LONGEST_SIDE = 224, 480


def self_similarity(keys: torch.Tensor) -> torch.Tensor:
    """Cosines between the keys of all tokens: (N, T, D) to (N, T, T)."""
    keys = F.normalize(keys, dim=-1)
    return keys @ keys.transpose(-1, -2)


def structure_distance(keys: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the self-similarities: (N, T, D) twice to (N,)."""
    return ((self_similarity(keys) - self_similarity(reference)) ** 2).mean(dim=(1, 2))


def structure(network: Dino, size: int = 512, white: float = 255.0) -> Networked:
    """Structure distance between output and source, both at size x size, then 224 pixels.

    white: what a white pixel counts before ImageNet's normalisation. PIE-Bench's script does not divide by 255, so that
    its published numbers need 255; 1 is what DINO was trained with, and has a name of its own.
    """
    key = f"keys {size} {white:g}"

    def view(picture: Picture) -> torch.Tensor:
        return shorter_side(as_tensor(picture.resized((size, size)).pixels) * white, SHORT_SIDE, LONGEST_SIDE)

    def compute(cases: Sequence[Case]) -> torch.Tensor:
        found = (
            torch.stack(network.features(key, pictures, view, network.keys))
            for pictures in ([case.output for case in cases], [case.given.source for case in cases])
        )
        return structure_distance(*found)

    name = "structure distance" if white == 255 else "structure distance (0..1 input)"
    row = Metric(name, "", "lower", network.name, "source", f"{size}x{size}, then {SHORT_SIDE}")
    return Networked(row, compute, needs(network, key, view, lambda case: case.output, lambda case: case.given.source))


def region_feature(patches: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Mean patch feature inside a region: (rows, columns, D), bool (rows, columns) to (D,). NaN if it is empty."""
    return patches[region].mean(dim=0)


class Foreground:
    """Cosine of the mean DINOv2 patch feature inside the mask, of output and reference.

    A patch belongs to the region if the mask covers its middle. NaN where the mask has no patch.
    """

    def __init__(self, network: Dino, reference: str, name: str = "foreground"):
        self.network, self.reference, self.name = network, reference, name
        row = Metric(name, "-1..1", "higher", network.name, reference, "224x224 squashed, inside the mask")
        self.metrics, self.texts = (row,), ()

    def prepare(self, case: Case) -> None:
        for picture in (case.output, case.given.reference(self.reference)):
            self.network.prepare("grid", picture, self.network.grid)
        case.given.array("mask")

    def score(self, cases: Sequence[Case]) -> list[Scores]:
        outputs = self.network.patches([case.output for case in cases])
        references = self.network.patches([case.given.reference(self.reference) for case in cases])
        return [{self.name: self._one(*each)} for each in zip(cases, outputs, references, strict=True)]

    @staticmethod
    def _one(case: Case, output: torch.Tensor, reference: torch.Tensor) -> float:
        region = torch.from_numpy(resize_mask(case.given.array("mask"), (output.shape[0], output.shape[1])))
        if not region.any():
            return math.nan
        return cosine_similarity(region_feature(output, region), region_feature(reference, region), dim=-1).item()
