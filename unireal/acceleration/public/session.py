"""Carries out what plug-ins choose inside a public pipeline's own sampling loop.

While a session is open, `transformer.forward` drops the tokens that need not be computed, attention reads their stored
keys and values, and `scheduler.step` lets the plug-ins see and replace the guided velocity. `scheduler.set_timesteps`,
which a pipeline calls once, starts a call anew. Text is always computed: it is short, and the blocks want it.

Axes: B batch, L text tokens, N result tokens, M tokens of the input frames, C latent channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import nn
from torch.nn.functional import pixel_unshuffle

from unireal.acceleration.base import Acceleration
from unireal.acceleration.memory import Blend, KeyValueStore
from unireal.acceleration.plan import FrameLayout, Plan, TokenChoice
from unireal.acceleration.public.attention import StoredAttention
from unireal.acceleration.public.families import FAMILIES, PATCH, Family, family_of
from unireal.model.packing import unpatchify
from unireal.sample import Role


@contextmanager
def accelerated(pipeline: DiffusionPipeline, plugins: Acceleration | Sequence[Acceleration]) -> Iterator[None]:
    """Inside, calls of a public pipeline are accelerated; afterwards, also after an exception, it is as it was.

    Raises ValueError for a pipeline that is not of unireal.acceleration.public.FAMILIES or was changed in a way that
    does not go together with this, and for plug-ins that do not choose tokens or are given twice.
    """
    plugins = (plugins,) if isinstance(plugins, Acceleration) else tuple(plugins)
    family = _check(pipeline, plugins)
    with ExitStack() as undo:
        if plugins:
            _Session(pipeline, family, plugins).open(undo)
        yield


class _Session:
    """State is that of the current call: `_count` is its step, `_branch` the number of the next pass in the step (with
    guidance, pipelines compute the prompt first, then the negative prompt)."""

    def __init__(self, pipeline: DiffusionPipeline, family: Family, plugins: Sequence[Acceleration]):
        self.pipeline, self.family, self.plugins = pipeline, family, plugins
        self._forward, self._step = pipeline.transformer.forward, pipeline.scheduler.step
        self._set_timesteps = pipeline.scheduler.set_timesteps
        self.begin()

    def open(self, undo: ExitStack) -> None:
        """Intercepts the pipeline; undo takes it all back."""
        transformer, scheduler = self.pipeline.transformer, self.pipeline.scheduler
        for owner, name, replacement in (
            (transformer, "forward", self.forward),
            (scheduler, "step", self.step),
            (scheduler, "set_timesteps", self.set_timesteps),
        ):
            _replace(owner, name, replacement, undo)
        for layer, block in enumerate(_blocks(transformer)):
            standard = block.attn.processor
            block.attn.set_processor(StoredAttention(standard, self.family, layer, lambda: self._store))
            undo.callback(block.attn.set_processor, standard)
            hook = block.register_forward_pre_hook(self._select_modulation, with_kwargs=True)
            undo.callback(hook.remove)
        undo.callback(transformer.pos_embed.register_forward_hook(self._positions).remove)
        undo.callback(self.begin)  # lets go of all state

    def begin(self) -> None:
        """Forgets the last call."""
        self._choices: list[TokenChoice] = []
        self._started = False
        self._stores: list[KeyValueStore] = []  # of every branch
        self._grids: list[tuple[int, int]] = []  # tokens of the result and of the input frames
        self._count, self._branch, self._plan = 0, 0, Plan()
        # of the pass under way: its store, its rows of the sequence and of the image tokens (None for all), and L
        self._store: KeyValueStore | None = None
        self._rows: torch.Tensor | None = None
        self._image_rows: torch.Tensor | None = None
        self._text = 0

    def set_timesteps(self, *args: Any, **arguments: Any) -> None:
        self.begin()
        self._set_timesteps(*args, **arguments)

    def forward(self, *args: Any, **arguments: Any) -> tuple[torch.Tensor]:
        """In place of the transformer's: hidden_states (B, N + M, 4 C) to as many predictions; those of tokens that are
        not computed are 0. Raises ValueError for arguments without names, which no pipeline gives."""
        if args:
            raise ValueError("an accelerated transformer takes named arguments only, as its pipeline gives them")
        tokens = arguments["hidden_states"]
        if not self._started:
            self._start(arguments, tokens)
        if self._branch == 0:
            self._plan = Plan()
            for choice in self._choices:
                choice.plan(self._count, self._time(self.pipeline.scheduler.timesteps[self._count]), self._plan)
        if self._branch == len(self._stores):
            self._stores.append(KeyValueStore(any(c.blends for c in self._choices), self.family.turn, axis=1))
        store, plan = self._stores[self._branch], self._plan
        self._branch += 1
        if plan.active is not None and not len(plan.active):
            return (torch.zeros_like(tokens),)
        reused = {k for k, since in plan.reuse.items() if store.filled.get(k, -1) >= since and not plan.fresh}
        rows = self._kept_rows(plan.active if "result" in reused else None, "input" in reused, tokens)
        self._text = arguments["encoder_hidden_states"].shape[1]
        out = self._run(store, rows, arguments)
        done = {"input"} - reused | (set() if "result" in reused and plan.active is not None else {"result"})
        store.filled |= dict.fromkeys(done, self._count)
        return (out,)

    def step(self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, **arguments: Any) -> Any:
        """In place of the scheduler's: model_output and sample (B, N, 4 C) of the result."""
        last = self._count == len(self.pipeline.scheduler.timesteps) - 1
        self._count, self._branch = self._count + 1, 0
        choices = self._choices
        if choices:
            latents, velocity = [self._unpacked(sample).float()], self._unpacked(model_output).float()
            velocities = [velocity]
            for choice in choices:
                velocities = choice.guided(self._time(timestep), latents, velocities)
            if velocities[0] is not velocity:
                model_output = _packed(velocities[0]).to(model_output.dtype)
        out = self._step(model_output, timestep, sample, **arguments)
        if last:
            self._stores.clear()  # the autoencoder decodes next, and wants the memory
        if last and choices:
            result = self._unpacked(out[0]).float()
            results = [result]
            for choice in choices:
                results = choice.finish(results)
            if results[0] is not result:
                out = (_packed(results[0]).to(out[0].dtype), *out[1:])
        return out

    def _start(self, arguments: dict[str, Any], tokens: torch.Tensor) -> None:
        self._grids = self.family.grids(arguments)
        lengths = [rows * columns for rows, columns in self._grids]
        channels = tokens.shape[2] // PATCH**2
        parts = tokens.split(lengths, dim=1)
        frames = [unpatchify(p, g, channels, PATCH) for p, g in zip(parts, self._grids, strict=True)]
        layout = FrameLayout(
            inputs=frames[1:],
            roles=torch.full((len(tokens), len(frames) - 1), Role.CANVAS.index),
            sizes=((frames[0].shape[-2], frames[0].shape[-1]),),
            num_steps=len(self.pipeline.scheduler.timesteps),
            patch=PATCH,
            codec=self.family.codec(self.pipeline),
        )
        self._started = True
        self._choices = [choice for plugin in self.plugins if (choice := plugin.tokens(layout)) is not None]

    def _kept_rows(self, active: torch.Tensor | None, no_inputs: bool, tokens: torch.Tensor) -> torch.Tensor | None:
        """Image tokens to compute, ascending int64; None for all."""
        if active is None and not no_inputs:
            return None
        count, device = self._grids[0][0] * self._grids[0][1], tokens.device
        results = torch.arange(count, device=device) if active is None else active
        inputs = torch.arange(count, count if no_inputs else tokens.shape[1], device=device)
        return torch.cat([results, inputs])

    def _run(self, store: KeyValueStore, rows: torch.Tensor | None, arguments: dict[str, Any]) -> torch.Tensor:
        tokens, text = arguments["hidden_states"], self._text
        self._store, self._image_rows, self._rows = store, rows, None
        if rows is not None:
            self._rows = torch.cat([torch.arange(text, device=rows.device), text + rows])
            arguments = arguments | {"hidden_states": tokens[:, rows]}
        try:
            out = self._forward(**arguments)[0]
        finally:
            self._store = self._rows = self._image_rows = None
        if rows is None:
            return out
        everywhere = out.new_zeros(out.shape[0], tokens.shape[1], out.shape[2])
        return everywhere.index_copy_(1, rows, out)

    def _positions(self, module: nn.Module, inputs: tuple, output: Any) -> Any:
        """Hook on the positions of the whole sequence, which every pass computes first: chooses those of the pass."""
        angles = self.family.angles(output)
        assert self._store is not None  # forward comes first
        self._store.begin(self._rows, angles, self._blended())
        if self._rows is None:
            return output
        return self.family.parted(tuple(a[self._rows] for a in angles), self._text)

    def _blended(self) -> Blend | None:
        fusion = self._plan.fusion
        if fusion is None or self._rows is None:
            return None
        before = sum(rows * columns for rows, columns in self._grids[: 1 + fusion.frame])
        kept = self._text + fusion.kept
        return Blend(kept, before + kept, fusion.weight, fusion.recursive)

    def _select_modulation(self, block: nn.Module, args: tuple, arguments: dict[str, Any]) -> tuple | None:
        """Hook on every block: which modulation a token has (Qwen-Image-Edit-2511), for the tokens of the pass."""
        index = arguments.get("modulate_index")
        if index is None or self._image_rows is None:
            return None
        return args, arguments | {"modulate_index": index[:, self._image_rows]}

    def _time(self, timestep: torch.Tensor) -> float:
        return float(timestep) / self.pipeline.scheduler.config.num_train_timesteps

    def _unpacked(self, tokens: torch.Tensor) -> torch.Tensor:
        """Result tokens (B, N, 4 C) as a latent frame (B, C, h, w)."""
        return unpatchify(tokens, self._grids[0], tokens.shape[2] // PATCH**2, PATCH)


def _packed(latent: torch.Tensor) -> torch.Tensor:
    """The inverse of unpatchify."""
    return pixel_unshuffle(latent, PATCH).flatten(2).transpose(1, 2)


def _replace(owner: Any, name: str, replacement: Any, undo: ExitStack) -> None:
    """Sets a method of one object; undo brings back what was there."""
    original, own = getattr(owner, name), vars(owner).get(name)

    @wraps(original)  # pipelines look at the signature
    def call(*args: Any, **arguments: Any) -> Any:
        return replacement(*args, **arguments)

    setattr(owner, name, call)
    if own is None:
        undo.callback(delattr, owner, name)
    else:
        undo.callback(setattr, owner, name, own)


def _blocks(transformer: Any) -> list[Any]:
    return [*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())]


def _check(pipeline: DiffusionPipeline, plugins: Sequence[Acceleration]) -> Family:
    family, name = family_of(pipeline), type(pipeline).__name__
    if family is None:
        known = ", ".join(p for f in FAMILIES for p in f.pipelines)
        raise ValueError(f"pipeline {name} cannot be accelerated; these can: {known}")
    names = [plugin.name for plugin in plugins]
    for plugin in plugins:
        if type(plugin).tokens is Acceleration.tokens:
            raise ValueError(f"acceleration {plugin.name!r} works on UniReal models only; use spotedit on a {name}")
        if names.count(plugin.name) > 1:
            raise ValueError(f"acceleration {plugin.name!r} is given {names.count(plugin.name)} times; give it once")
    if not isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler):
        got = type(pipeline.scheduler).__name__
        raise ValueError(f"acceleration needs a FlowMatchEulerDiscreteScheduler, the pipeline has a {got}")
    if pipeline.transformer.is_cache_enabled:
        raise ValueError("the transformer has a diffusers cache enabled; call transformer.disable_cache() first")
    for block in _blocks(pipeline.transformer):
        processor, fused = type(block.attn.processor), getattr(block.attn, "fused_projections", False)
        if processor is not family.processor or fused:
            got = "fused projections" if fused else processor.__name__
            raise ValueError(
                f"acceleration needs plain attention ({family.processor.__name__}), the transformer has {got}; "
                "unload adapters of images and call transformer.unfuse_qkv_projections()"
            )
    return family
