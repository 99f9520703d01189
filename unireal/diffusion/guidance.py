"""Text and image guidance as separate branches (the three-branch rule of InstructPix2Pix, arXiv 2211.09800).

    v = v(nothing) + s_image (v(images) - v(nothing)) + s_text (v(images, text) - v(images))

Branches that cancel are not computed: text guidance alone costs two passes, none at all one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import torch


@dataclass(frozen=True)
class Branch:
    """One pass of the model: with or without the text, with or without the input frames. `name` keys its caches."""

    name: str
    text: bool
    images: bool


FULL = Branch("text+images", True, True)
NO_TEXT = Branch("images", False, True)
NOTHING = Branch("nothing", False, False)


@dataclass(frozen=True)
class Guidance:
    """text, image: guidance scales; 1 is none. interval: share of the sampling steps (from, to) in which guidance acts
    (Kynkaanniemi et al., arXiv 2404.07724). negative_prompt: what branches without the text read in its place."""

    text: float = 1.0
    image: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        for name, scale in (("guidance", self.text), ("image guidance", self.image)):
            if not math.isfinite(scale) or scale < 0:
                raise ValueError(f"{name} must be a number of at least 0, got {scale}")
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"the guidance interval must satisfy 0 <= from <= to <= 1, got {self.interval}")

    def weights(self, step: int, num_steps: int, has_images: bool) -> dict[Branch, float]:
        """The branches to compute at a step and their weights, which add up to 1."""
        low, high = self.interval
        if not low <= step / max(num_steps - 1, 1) <= high:
            return {FULL: 1.0}
        if not has_images:
            weights = {FULL: self.text, NOTHING: 1 - self.text}
        else:
            weights = {FULL: self.text, NO_TEXT: self.image - self.text, NOTHING: 1 - self.image}
        return {branch: weight for branch, weight in weights.items() if weight != 0}

    def branches(self, num_steps: int, has_images: bool) -> set[Branch]:
        """All branches that some step computes."""
        return {branch for step in range(num_steps) for branch in self.weights(step, num_steps, has_images)}

    def without_text(self, num_steps: int, has_images: bool) -> str | None:
        """What branches without the text read, None if no step computes one. Raises ValueError for a negative prompt
        that nothing would read."""
        if any(not branch.text for branch in self.branches(num_steps, has_images)):
            return self.negative_prompt
        if self.negative_prompt:
            raise ValueError(
                f"the negative prompt {self.negative_prompt!r} acts through guidance, and this call has none; give a "
                "guidance scale above 1, or leave it out"
            )
        return None


def combine(velocities: dict[Branch, list[torch.Tensor]], weights: dict[Branch, float]) -> list[torch.Tensor]:
    """The guided velocity of every result frame (B, C, H, W)."""
    if len(weights) == 1 and 1.0 in weights.values():
        return next(iter(velocities.values()))
    count = len(velocities[next(iter(weights))])
    return [reduce(torch.add, (w * velocities[b][i] for b, w in weights.items())) for i in range(count)]
