"""For benchmarks and tests of accelerations: random models, and a count of the tokens that are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from unireal.model.transformer import UniRealTransformer


def randomize(transformer: UniRealTransformer, seed: int = 0, scale: float = 0.3) -> UniRealTransformer:
    """Gives the layers that start at zero random weights, so that an untrained model's output depends on its input."""
    generator = torch.Generator().manual_seed(seed)
    blocks = [norm.linear for block in transformer.transformer_blocks for norm in (block.norm1, block.norm2)]
    for layer in (*blocks, transformer.norm_out.linear, transformer.proj_out):
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
