"""What a step computes, and who decides it: the part of acceleration that knows no model.

A plug-in that chooses tokens sees frames, sizes and steps (`FrameLayout`) and narrows a `Plan`, which UniReal's step
scheduler (unireal.acceleration.base) or the session around a public pipeline (unireal.acceleration.public) carries out.

Axes: B batch, K input frames, R result frames, C, h, w latent channels, rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from unireal.model.vae import FrameCodec


@dataclass(frozen=True)
class FrameLayout:
    """What a call is about, for plug-ins that choose tokens.

    inputs:    K clean latent frames (B, C, h, w); roles: int64 (B, K), indices of unireal.sample.Role.
    sizes:     latent (h, w) of the R results; patch: latent pixels along a token's side.
    isolated:  text and inputs do not attend to results, so their keys and values never change.
    codec:     between latents and pixels, None if the caller has none.
    """

    inputs: list[torch.Tensor]
    roles: torch.Tensor
    sizes: tuple[tuple[int, int], ...]
    num_steps: int
    patch: int
    isolated: bool = False
    codec: FrameCodec | None = None


@dataclass(frozen=True)
class Fusion:
    """How tokens that are not computed are blended with the canvas in attention (see memory.Blend).

    frame: which input frame the canvas is; kept: int64 (n,), ids of result tokens, which are also its tokens' ids.
    """

    frame: int
    kept: torch.Tensor
    weight: float
    recursive: bool


@dataclass
class Plan:
    """What a step computes. It starts as everything; plug-ins narrow it in any order.

    active: ascending int64 ids of the result tokens to compute, None for all.
    reuse:  kind of token ("text", "input", "result") -> the earliest step whose keys and values may be reused; a kind
            that is absent is computed, and so are result tokens in `active`.
    fresh:  a new beginning: all is computed and nothing of earlier steps survives, but for what is exact.
    must_run: the blocks may not be skipped.
    """

    active: torch.Tensor | None = None
    reuse: dict[str, int] = field(default_factory=dict)
    fresh: bool = False
    must_run: bool = False
    fusion: Fusion | None = None

    def allow_reuse(self, *kinds: str, since: int) -> None:
        """Stored keys and values of these kinds will do if they are of step `since` or later."""
        for kind in kinds:
            self.reuse[kind] = min(self.reuse.get(kind, since), since)


class TokenChoice:
    """State of a plug-in that chooses which tokens a step computes; one per call."""

    blends: bool = False  # whether its plans have a fusion

    def plan(self, step: int, t: float, plan: Plan) -> None:
        """Narrows the plan of a step."""

    def guided(self, t: float, latents: list[torch.Tensor], velocities: list[torch.Tensor]) -> list[torch.Tensor]:
        """May look at and replace the step's guided velocities (B, C, h, w) of the R frames."""
        return velocities

    def finish(self, latents: list[torch.Tensor]) -> list[torch.Tensor]:
        """May replace the result of the last step."""
        return latents
