"""How a transformer's weights start when they come from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from unireal.model.blocks import Attention, UniRealBlock
from unireal.model.embeddings import rotary_axes

if TYPE_CHECKING:
    from unireal.model.transformer import UniRealTransformer

_PLACE_BIAS, _PLACE_PAIRS = 5.0, 3


@torch.no_grad()
def initialize_weights(transformer: UniRealTransformer) -> None:
    """Fills the weights of a UniRealTransformer.

    Linear layers and patches: Xavier uniform, the last of each residual branch scaled down. Modulation and output: 0,
    but gates 1, not 0 as in DiT (docs/training-log.md). Role and index embeddings: normal 0.02.
    """
    for module in transformer.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    blocks = cast(Sequence[UniRealBlock], transformer.transformer_blocks)
    for block in blocks:
        for norm, last in ((block.norm1, block.attn1.to_out[0]), (block.norm2, block.ff.net[2])):
            nn.init.zeros_(norm.linear.weight)
            norm.linear.bias.view(2, 3, -1)[:, 2] = 1.0
            cast(nn.Linear, last).weight /= (2 * len(blocks)) ** 0.5
        _attend_to_own_place(block.attn1, transformer.config.place_heads)
    for layer in (transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(layer.weight)


def _attend_to_own_place(attention: Attention, heads: int) -> None:
    """Makes the first heads attend to the tokens of the same row and column in every frame.

    Queries and keys get the same bias in the channels that rotary positions turn fastest with row and column, so that
    their product is largest where both positions agree. A canvas is then seen through from the first step.
    """
    head_dim = attention.norm_q.normalized_shape[0]
    time, height, _ = rotary_axes(head_dim)
    for head in range(heads):
        for start in (time, time + height):
            first = head * head_dim + start
            for layer in (attention.to_q, attention.to_k):
                pairs = layer.bias[first : first + 2 * _PLACE_PAIRS].view(-1, 2)
                pairs[:, 0], pairs[:, 1] = _PLACE_BIAS, -_PLACE_BIAS  # in sum 0, for the LayerNorm that follows
