"""To fit and to measure accelerations: models, what they sample, the tokens that are computed, and the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import finalize

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unireal.config import MODELS, get_model
from unireal.diffusion.sampling import Conditions, draw_noise
from unireal.encoding import encode_samples
from unireal.model.blocks import UniRealBlock
from unireal.model.build import Components, build
from unireal.model.transformer import UniRealTransformer
from unireal.pipeline import UniRealPipeline
from unireal.sample import Sample


def load_parts(model: str, device: str = "cpu", seed: int = 0) -> tuple[Components, FlowMatchEulerDiscreteScheduler]:
    """The parts of a saved model and its scheduler, whose times are those that it is used at; or those of a named size
    that works on pixels, with random weights.

    Raises ValueError for a name that is neither.
    """
    if model in MODELS and MODELS[model].vae is None:
        parts, scheduler = build(get_model(model), [], seed), FlowMatchEulerDiscreteScheduler()
        randomize(parts.transformer, seed)
    else:
        pipeline = UniRealPipeline.from_pretrained(model)
        parts, scheduler = pipeline.as_components(), pipeline.scheduler
    for part in (parts.transformer, parts.text_encoder, parts.vae):
        if part is not None:
            part.to(device)
    return parts, scheduler


@torch.no_grad()
def prepare(parts: Components, samples: Sequence[Sample], seed: int) -> tuple[Conditions, list[torch.Tensor]]:
    """What `denoise` takes for samples of one layout: conditions, and noise (B, C, h, w) for every result frame."""
    device, channels = parts.transformer.device, parts.transformer.config.in_channels
    generator = torch.Generator().manual_seed(seed)
    sizes = [parts.codec.latent_size(size) for size in samples[0].layout.results]
    noise = [draw_noise((len(samples), channels, *size), generator).to(device) for size in sizes]
    return encode_samples(parts, samples, device), noise


def randomize(transformer: UniRealTransformer, seed: int = 0, scale: float = 0.3) -> UniRealTransformer:
    """Gives the layers that start at zero random weights, so that an untrained model's output depends on its input."""
    generator = torch.Generator().manual_seed(seed)
    blocks = cast(Sequence[UniRealBlock], transformer.transformer_blocks)
    modulations = [norm.linear for block in blocks for norm in (block.norm1, block.norm2)]
    for layer in (*modulations, transformer.norm_out.linear, transformer.proj_out):
        weight = torch.randn(layer.weight.shape, generator=generator) * scale / layer.in_features**0.5
        layer.weight.data.copy_(weight)
    return transformer.eval()


@dataclass
class Work:
    """tokens: how many tokens the blocks computed in each pass, one entry per pass and guidance branch."""

    tokens: list[int] = field(default_factory=list)


@contextmanager
def counted(transformer: UniRealTransformer) -> Iterator[Work]:
    """Counts the tokens that go through the blocks."""
    work = Work()

    def count(block: nn.Module, arguments: tuple) -> None:
        work.tokens.append(arguments[0].shape[1])

    handle = transformer.transformer_blocks[0].register_forward_pre_hook(count)
    try:
        yield work
    finally:
        handle.remove()


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of tensors that operations make inside and that are alive at the same time: what sampling takes
    beyond weights and inputs. It slows everything down, so time is measured without it.

    peak: the most at any moment. What a kernel allocates for itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        known = {_address(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, torch.Tensor) and _address(made) not in known | self._alive:
                self._add(made.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
