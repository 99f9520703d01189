"""The plug-in interface of acceleration, and the one scheduler that decides what a step computes.

A step is *full*, *partial* (some tokens; attention reads stored keys and values for the others) or *skipped* (no block
runs; their residual is predicted). Plug-ins hold settings only: their state belongs to one call, and what differs
between guidance branches to one branch of it. For inference: nothing here has gradients.

Axes: B batch, R result frames, C, h, w latent channels, rows and columns, N tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import torch
from torch import nn

from unireal.acceleration.memory import Blend, KeyValueStore
from unireal.acceleration.plan import FrameLayout, Fusion, Plan, TokenChoice
from unireal.acceleration.skipping import Skipping
from unireal.diffusion.flow import as_velocity
from unireal.diffusion.guidance import Branch
from unireal.diffusion.sampling import Call
from unireal.model.blocks import UniRealBlock
from unireal.model.packing import PackedSequence


class Acceleration:
    """A plug-in: a dataclass of settings that makes state for a call. It has a token choice or it skips steps."""

    name: ClassVar[str]

    def tokens(self, layout: FrameLayout) -> TokenChoice | None:
        """State of one call, None if there is nothing to choose."""
        return None

    def skipping(self, call: Call) -> Skipping | None:
        """State of one guidance branch of a call."""
        return None

    def _check_count(self, setting: str, unit: str, least: int) -> None:
        """Raises ValueError unless a setting is a whole number of at least so many."""
        value = getattr(self, setting)
        if not isinstance(value, int) or value < least:
            raise ValueError(
                f"{self.name}: {setting} must be a whole number of {unit}, at least {least}, got {value!r}"
            )


@dataclass
class _BranchState:
    store: KeyValueStore | None
    skipping: Skipping | None
    sequence: PackedSequence | None = None  # of the last step
    active: torch.Tensor | None = None  # for which `parts` were made
    parts: dict[frozenset[str], tuple[torch.Tensor | None, PackedSequence]] = field(default_factory=dict)

    def part(
        self, sequence: PackedSequence, active: torch.Tensor | None, reused: set[str]
    ) -> tuple[torch.Tensor | None, PackedSequence]:
        """Rows of a step's sequence that are computed, None for all, and their sequence. It is the same in many steps,
        so all but tokens and times is made only when the choice changes."""
        if active is not self.active:
            self.active, self.parts = active, {}
        key = frozenset(reused)
        if key not in self.parts:
            rows = _rows(sequence, active, reused)
            self.parts[key] = rows, sequence if rows is None else replace(sequence.select(rows), keys=sequence.keys)
        rows, part = self.parts[key]
        if rows is None:
            return None, sequence
        return rows, replace(part, tokens=sequence.tokens[:, rows], temb=sequence.temb)


class StepScheduler:
    """The scheduler of one call, a unireal.diffusion.sampling.Accelerator.

    Raises ValueError for plug-ins that exclude each other.
    """

    def __init__(self, call: Call, plugins: Sequence[Acceleration]):
        _check(call, plugins)
        self.call = call
        self._dtype = call.transformer.dtype  # diffusers goes through all parameters for it
        self._plugins = tuple(plugins)
        layout = _layout(call)
        self._choices = [choice for plugin in plugins if (choice := plugin.tokens(layout)) is not None]
        self._branches: dict[str, _BranchState] = {}
        self._weights = ExitStack()
        self._weights.enter_context(_in_place(call.transformer))

    def close(self) -> None:
        """Lets go of all state."""
        self._branches.clear()
        self._choices.clear()
        self._weights.close()

    @torch.no_grad()
    def velocities(
        self, step: int, t: torch.Tensor, latents: list[torch.Tensor], branches: Sequence[Branch]
    ) -> dict[Branch, list[torch.Tensor]]:
        """Velocities (B, C, h, w) of the R latent result frames in every guidance branch; t: (B,), all equal."""
        plan = Plan(must_run=step in (0, self.call.num_steps - 1))
        for choice in self._choices:
            choice.plan(step, float(t[0]), plan)
        if plan.active is not None and not len(plan.active):
            return {branch: [torch.zeros_like(x) for x in latents] for branch in branches}
        return {branch: self._branch(branch, step, t, latents, plan) for branch in branches}

    def guided(self, t: float, latents: list[torch.Tensor], velocities: list[torch.Tensor]) -> list[torch.Tensor]:
        """What plug-ins make of a step's guided velocities."""
        for choice in self._choices:
            velocities = choice.guided(t, latents, velocities)
        return velocities

    def finish(self, latents: list[torch.Tensor]) -> list[torch.Tensor]:
        """What plug-ins make of the result of the last step."""
        for choice in self._choices:
            latents = choice.finish(latents)
        return latents

    def _branch(
        self, branch: Branch, step: int, t: torch.Tensor, latents: list[torch.Tensor], plan: Plan
    ) -> list[torch.Tensor]:
        transformer = self.call.transformer
        state = self._branches.get(branch.name) or self._start(branch)
        sequence = self._pack(branch, state, t, latents)
        reused = _reused(plan, state.store, sequence)
        active = plan.active if "result" in reused else None  # None: all result tokens
        inputs = sequence.tokens[:, sequence.num_condition :]  # (B, n, D)
        inputs = inputs if active is None else inputs[:, active]

        if state.skipping is not None and self._skips(state, step, sequence, active, plan):
            hidden = inputs + state.skipping.residual(step).to(inputs.dtype)
        else:
            hidden = self._run(branch, step, sequence, active, reused, plan)
            if state.skipping is not None:
                state.skipping.computed(step, hidden - inputs)
        if active is not None:
            everywhere = hidden.new_zeros(hidden.shape[0], sequence.num_result, hidden.shape[2])
            hidden = everywhere.index_copy_(1, active, hidden)
        predictions = transformer.head(hidden, sequence, self.call.sizes)
        kind = transformer.config.prediction_type
        return [as_velocity(p.float(), x, t, kind) for p, x in zip(predictions, latents, strict=True)]

    def _start(self, branch: Branch) -> _BranchState:
        store = KeyValueStore(any(c.blends for c in self._choices)) if self._choices else None
        skipping = [s for plugin in self._plugins if (s := plugin.skipping(self.call)) is not None]
        state = self._branches[branch.name] = _BranchState(store, skipping[0] if skipping else None)
        return state

    def _pack(
        self, branch: Branch, state: _BranchState, t: torch.Tensor, latents: list[torch.Tensor]
    ) -> PackedSequence:
        """The sequence of a step; what does not change is embedded in the first step only."""
        transformer, given = self.call.transformer, self.call.given.arguments(branch)
        latents = [x.to(self._dtype) for x in latents]
        state.sequence = transformer.pack(latents, t, *given, known=state.sequence)
        return state.sequence

    def _skips(
        self, state: _BranchState, step: int, sequence: PackedSequence, active: torch.Tensor | None, plan: Plan
    ) -> bool:
        skipping = state.skipping
        assert skipping is not None  # who has none is not asked
        if plan.fresh:
            skipping.clear()
        every = torch.arange(sequence.num_result, device=sequence.tokens.device) if active is None else active
        skipping.follow(every)

        def signal() -> torch.Tensor:
            part = state.part(sequence, active, {"text", "input"})[1]
            block = cast(UniRealBlock, self.call.transformer.transformer_blocks[0])
            with _in_place(block):
                return block.norm1(part.tokens, part.temb, part.segments)[0]

        return skipping.wants(step, signal) and not plan.must_run

    def _run(
        self,
        branch: Branch,
        step: int,
        sequence: PackedSequence,
        active: torch.Tensor | None,
        reused: set[str],
        plan: Plan,
    ) -> torch.Tensor:
        """The computed result tokens (B, n, D) after the blocks."""
        store, condition = self._branches[branch.name].store, sequence.num_condition
        if store is None:
            return self.call.transformer.run(sequence)[:, condition:]
        rows, part = self._branches[branch.name].part(sequence, active, reused)
        fusion = plan.fusion if active is not None and branch.images else None
        store.begin(rows, sequence.rotary, None if fusion is None else self._blend(fusion, sequence))
        hidden = self.call.transformer.run(part, store)[:, part.num_condition :]
        done = {"text", "input"} - reused | ({"result"} if active is None else set())
        store.filled |= dict.fromkeys(done, step)
        return hidden

    def _blend(self, fusion: Fusion, sequence: PackedSequence) -> Blend:
        """The fusion with rows of the sequence in place of ids."""
        patch = self.call.transformer.config.patch_size
        before = sum(f[0, 0].numel() // patch**2 for f in self.call.given.frames[: fusion.frame])
        text = sum(s.length for s in sequence.segments if s.kind == "text")
        kept = fusion.kept
        return Blend(sequence.num_condition + kept, text + before + kept, fusion.weight, fusion.recursive)


@contextmanager
def _in_place(module: nn.Module) -> Iterator[None]:
    """Offloaded weights are there, though `forward`, at which accelerate and diffusers move them in, is not called."""
    registry = getattr(module, "_diffusers_hook", None)
    group = None if registry is None else registry.get_hook("group_offloading")
    hooks = [hook for hook in (getattr(module, "_hf_hook", None), group) if hook is not None]
    for hook in hooks:
        hook.pre_forward(module)
    try:
        yield
    finally:
        for hook in hooks:
            hook.post_forward(module, None)


def _layout(call: Call) -> FrameLayout:
    config, given = call.transformer.config, call.given
    isolated = config.condition_attention == "isolated"
    return FrameLayout(given.frames, given.roles, call.sizes, call.num_steps, config.patch_size, isolated, call.codec)


def _reused(plan: Plan, store: KeyValueStore | None, sequence: PackedSequence) -> set[str]:
    """Kinds of tokens whose stored keys and values are recent enough; isolated text and inputs go together."""
    if store is None:
        return set()
    reused = {kind for kind, since in plan.reuse.items() if store.filled.get(kind, -1) >= since}
    exact = {"text", "input"} if sequence.isolated else set()
    if not exact <= reused:
        reused -= exact
    return reused & exact if plan.fresh else reused


def _rows(sequence: PackedSequence, active: torch.Tensor | None, reused: set[str]) -> torch.Tensor | None:
    """Rows of the sequence to compute, int64 ascending; None for all."""
    parts, start, device = [], 0, sequence.tokens.device
    for segment in sequence.segments:
        if segment.kind == "result":
            break
        if segment.kind not in reused:
            parts.append(torch.arange(start, start + segment.length, device=device))
        start += segment.length
    if active is None and sum(map(len, parts)) == start:
        return None
    results = torch.arange(sequence.num_result, device=device) if active is None else active
    return torch.cat([*parts, start + results])


def _check(call: Call, plugins: Sequence[Acceleration]) -> None:
    if getattr(call.transformer, "is_cache_enabled", False):
        raise ValueError(
            "the transformer has a diffusers cache enabled; call transformer.disable_cache() to accelerate"
        )
    names = [plugin.name for plugin in plugins]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"acceleration {name!r} is given {names.count(name)} times; give it once")
    skip = [plugin.name for plugin in plugins if type(plugin).skipping is not Acceleration.skipping]
    if len(skip) > 1:
        raise ValueError(
            f"{' and '.join(map(repr, skip))} both skip steps; give one (teacache can extrapolate: order=1)"
        )
