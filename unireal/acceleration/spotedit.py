"""SpotEdit (arXiv 2512.22323): only the region that an edit changes is computed; the rest becomes the canvas.

After some full steps, tokens whose predicted clean image already looks like the canvas are *kept*: they are not
computed any more, attention reads their stored keys and values, and their velocity is the one that leads exactly to the
canvas.
Full steps in between renew what is stored and choose anew; from one to the next, the kept region only grows.

In a batch each sample has its own kept region, but a token is computed if any sample needs it.

Axes: B batch, R results, C, h, w latent channels, rows and columns, n tokens of the first result frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from unireal.acceleration.base import Acceleration
from unireal.acceleration.judges import THRESHOLDS, TWO_MEANS_LIMIT, Judge, grow, make_judge, two_means
from unireal.acceleration.plan import FrameLayout, Fusion, Plan, TokenChoice
from unireal.names import lookup
from unireal.sample import Role

FUSIONS = ("cache", "reference", "cos2", "cos2_recursive")
# Shares of the steps (initial, reset), by whether attention is isolated. With full attention they are about those of
# the released code; with isolated attention text and canvas never age (docs/acceleration.md has the comparison).
SCHEDULES = {False: (0.1, 0.18), True: (0.04, 0.3)}
SMALL = 0.125  # share of a result's tokens below which the computed region is grown by default


@dataclass
class SpotEdit(Acceleration):
    """Computes only the tokens that an edit changes, and keeps the canvas elsewhere.

    judge:   "decoder" (features of the VAE's decoder), "cosine" or "l2" (of the latents), None for decoder where there
             is a VAE, else l2; or a function (see unireal.acceleration.judges), which needs a tau.
    tau:     score below which a token is kept, None for the judge's own; 0 keeps none. "two-means" splits the scores of
             every sample in two groups and keeps the lower one, up to twice the judge's threshold.
    fusion:  what attention sees of kept tokens: "cache" what was stored when they were last computed; "reference" the
             canvas's; "cos2" the first times cos^2(pi t / 2) plus the second times the rest; "cos2_recursive" the same,
             stored again in every step.
    initial, last: share of the steps, at the start (at least one step) and at the end, that are full. The region kept
             ends as the canvas exactly only if no step at the end is full.
    reset:   share of the steps from one full step to the next; 0 for none between. initial and reset of None take what
             suits the model's attention (SCHEDULES).
    dilation: tokens by which the computed region is grown. None is 1 where it is less than an eighth of the result, as
             most of a small region is border, else 0; with a judge of the caller's own it is 0.
    every_step: choose again in every step instead of once after each full step.
    paste:   the pipeline copies the canvas's pixels into the kept region, bit for bit; without, it is what the VAE
             makes of them.

    mask: after a call, bool (B, rows, columns) of the first result's tokens, True where the edit was computed; None
    if there was no canvas of the result's size, and so nothing to save. frame: which input frame the canvas was. Both
    are of the last call, so calls at the same time need a SpotEdit each.

    Raises ValueError for settings outside these ranges, and, when called, for a judge that the model lacks.
    """

    name: ClassVar[str] = "spotedit"
    judge: str | Judge | None = None
    tau: float | Literal["two-means"] | None = None
    fusion: str = "cache"
    initial: float | None = None
    last: float = 0.0
    reset: float | None = None
    dilation: int | None = None
    every_step: bool = False
    paste: bool = False
    mask: np.ndarray | None = field(init=False, default=None, compare=False, repr=False)
    frame: int | None = field(init=False, default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.judge is not None and not callable(self.judge):
            lookup(THRESHOLDS, str(self.judge), "judge of spotedit")
        lookup(dict.fromkeys(FUSIONS), str(self.fusion), "fusion of spotedit")
        for name in ("initial", "last", "reset"):
            value = getattr(self, name)
            if value is None and name != "last":
                continue
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"spotedit: {name} is a share of the steps from 0 to 1, got {value!r}")
        number = isinstance(self.tau, int | float) and 0 <= self.tau < math.inf
        if not (number or self.tau in (None, "two-means")):
            raise ValueError(f'spotedit: tau must be a number of at least 0 or "two-means", got {self.tau!r}')
        if callable(self.judge) and not number:
            raise ValueError(f"spotedit: a judge of your own needs a tau that is a number, got {self.tau!r}")
        if self.dilation is not None:
            self._check_count("dilation", "tokens", least=0)
        for name in ("every_step", "paste"):
            if not isinstance(getattr(self, name), bool):  # the text "false" would count as true
                raise ValueError(f"spotedit: {name} must be True or False, got {getattr(self, name)!r}")

    def tokens(self, layout: FrameLayout) -> TokenChoice | None:
        self.mask, self.frame = None, canvas_frame(layout)
        return None if self.frame is None else _Spot(self, layout, self.frame)

    def regions(self, count: int, size: tuple[int, int], token: int) -> list[np.ndarray]:
        """After a call of count samples with results of size (H, W): where each was computed, bool (H, W), which is
        everywhere if there was nothing to save. token: pixels along a token's side."""
        if self.mask is None:
            return [np.ones(size, bool)] * count
        return [pixel_mask(mask, size, token) for mask in self.mask]

    def full_steps(self, num_steps: int, isolated: bool) -> set[int]:
        """Which steps are full whatever the image; isolated: the kind of attention."""
        usual = SCHEDULES[isolated]
        start, reset = (u if x is None else x for x, u in zip((self.initial, self.reset), usual, strict=True))
        initial = min(max(1, math.ceil(start * num_steps)), num_steps)
        end = num_steps - round(self.last * num_steps)
        full = {*range(initial), *range(end, num_steps)}
        every = max(2, round(reset * num_steps)) if reset else num_steps
        return full | set(range(initial + every, end - 1, every))  # one that no partial step follows is of no use


def canvas_frame(layout: FrameLayout) -> int | None:
    """Index of the first input frame that is a canvas of the first result's size in every sample; None if none is."""
    canvas = Role.CANVAS.index
    for index, frame in enumerate(layout.inputs):
        aligned = tuple(frame.shape[-2:]) == tuple(layout.sizes[0])
        if aligned and bool((layout.roles[:, index] == canvas).all()):
            return index
    return None


def pixel_mask(mask: np.ndarray, size: tuple[int, int], token: int) -> np.ndarray:
    """A token mask bool (rows, columns) as bool (H, W) of pixels; token: pixels along a token's side."""
    return mask.repeat(token, axis=0).repeat(token, axis=1)[: size[0], : size[1]]


def spot_edit(plugins: Iterable[Acceleration]) -> SpotEdit | None:
    """The SpotEdit among plug-ins."""
    return next((plugin for plugin in plugins if isinstance(plugin, SpotEdit)), None)


class _Spot(TokenChoice):
    """State of one call.

    kept: bool (B, rows, columns), None if none are; pixels: the last choice as bool (B, 1, h, w).
    shared, active: int64, ids of the tokens that all samples keep, and of the result tokens to compute.
    """

    def __init__(self, settings: SpotEdit, layout: FrameLayout, frame: int):
        self.settings, self.frame = settings, frame
        self.isolated = layout.isolated  # its keys never age
        self.patch = layout.patch
        self.canvas = layout.inputs[frame].float()  # (B, C, h, w)
        self.judge, self.threshold = make_judge(settings.judge, layout.codec, self.patch)
        self.full_steps = settings.full_steps(layout.num_steps, layout.isolated)
        self.blends = settings.fusion != "cache"
        self.clean: torch.Tensor | None = None  # (B, C, h, w) that the last step pointed to
        self.kept: torch.Tensor | None = None
        self.neutral = True  # nothing was kept yet
        self.block = 0  # the last full step
        tokens = [height * width // self.patch**2 for height, width in layout.sizes]
        self.others = torch.arange(tokens[0], sum(tokens), device=self.canvas.device)  # ids of the other results
        height, width = layout.sizes[0]
        self._keep(torch.zeros(len(self.canvas), height // self.patch, width // self.patch, dtype=torch.bool))

    def plan(self, step: int, t: float, plan: Plan) -> None:
        if step in self.full_steps:
            plan.fresh = plan.must_run = True
            self.kept, self.block = None, step
            if self.isolated and not self.neutral:  # as long as nothing was kept, all is as without plug-in bit for bit
                plan.allow_reuse("text", "input", since=0)
            return
        first = self.kept is None
        if first or self.settings.every_step:
            self._keep(self._choose() if self.kept is None else self.kept | self._choose())
        if self.kept is None:
            return
        plan.must_run |= first
        if not len(self.shared):
            return
        plan.active = self.active
        plan.allow_reuse("result", since=self.block)
        if self.isolated:
            plan.allow_reuse("text", "input", since=0)
        else:
            plan.allow_reuse("input", since=self.block)
        plan.fusion = self._fusion(t)

    def guided(self, t: float, latents: list[torch.Tensor], velocities: list[torch.Tensor]) -> list[torch.Tensor]:
        if self.kept is not None:
            held = (latents[0] - self.canvas) / t
            velocities = [torch.where(self.pixels, held, velocities[0]), *velocities[1:]]
        self.clean = latents[0] - t * velocities[0]
        return velocities

    def finish(self, latents: list[torch.Tensor]) -> list[torch.Tensor]:
        if self.kept is None:
            return latents
        return [torch.where(self.pixels, self.canvas, latents[0]), *latents[1:]]

    def _keep(self, kept: torch.Tensor) -> None:
        """Takes a choice, bool (B, rows, columns)."""
        self.settings.mask = (~kept).cpu().numpy()
        self.kept = kept if kept.any() else None
        self.neutral &= self.kept is None
        self.pixels = kept.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)[:, None]
        shared = kept.all(dim=0).flatten()  # (n,)
        self.shared = shared.nonzero()[:, 0]
        self.active = torch.cat([(~shared).nonzero()[:, 0].to(self.others.device), self.others])

    def _choose(self) -> torch.Tensor:
        """bool (B, rows, columns) of tokens that look like the canvas."""
        assert self.clean is not None  # a full step came before
        scores, tau = self.judge(self.clean, self.canvas), self.settings.tau
        limit: Any = self.threshold if tau is None else tau  # a number, or tensor (B, 1, 1)
        if tau == "two-means":
            assert self.threshold is not None  # only a judge of the caller's own has none, and needs a tau
            limit = two_means(scores.flatten(1))[..., None].clamp(max=TWO_MEANS_LIMIT * self.threshold)
        return ~self._grown(~(scores < limit))

    def _grown(self, active: torch.Tensor) -> torch.Tensor:
        """bool (B, rows, columns), dilated."""
        radius = self.settings.dilation
        if radius is not None or callable(self.settings.judge):
            return grow(active, radius or 0)
        small = active.float().mean(dim=(1, 2), keepdim=True) < SMALL
        return torch.where(small, grow(active, 1), active)

    def _fusion(self, t: float) -> Fusion | None:
        kind = self.settings.fusion
        if kind == "cache":
            return None
        weight = 0.0 if kind == "reference" else math.cos(math.pi * t / 2) ** 2
        return Fusion(self.frame, self.shared, weight, kind == "cos2_recursive")
