"""CogVideoX's transformer block on one packed sequence.

Parameter names and shapes are CogVideoX's (diffusers CogVideoXBlock), so that its weights load unchanged. New here:
explicit positions, a modulation per segment instead of one per sample, and an optional key/value memory.

Axes: B batch, N tokens, D model width, S segments, T width of the time embedding, E width of an attention head.
"""

from __future__ import annotations

from typing import Protocol

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention import FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

from unireal.model.embeddings import apply_rotary
from unireal.model.packing import PackedSequence, Segment

Rotary = tuple[torch.Tensor, torch.Tensor] | None

# Up to this many tokens, plain matmul and softmax train faster than SDPA in bf16 on a CPU: benchmarks/attention.py.
# In float32 they are up to a third slower there, but padded text then changes no bit of a result.
_SHORT = 512


class KeyValueMemory(Protocol):
    """What acceleration plugs into attention: it sees every layer's new keys and values and says what to attend to."""

    def exchange(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes keys (after QK norm, before rotation) and values (B, heads, N, E) of the tokens that are computed;
        returns rotated keys and values (B, heads, M, E) that the queries attend to."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(q k / sqrt(E)) v for (B, heads, N, E).

    keys: (B, M), bool, False where a key must not be seen, or float, what is added to all scores of a key.
    By the backend that diffusers' set_attention_backend chose, but for short sequences on a CPU.
    """
    mask = None if keys is None else keys[:, None, None]  # (B, 1, 1, M)
    if mask is not None and mask.is_floating_point():
        mask = mask.to(query.dtype)
    if query.device.type != "cpu" or max(query.shape[2], key.shape[2]) > _SHORT:
        heads_last = (x.transpose(1, 2) for x in (query, key, value))  # (B, N, heads, E)
        return dispatch_attention_fn(*heads_last, attn_mask=mask).transpose(1, 2)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, heads, N, M)
    if mask is not None:
        hidden = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1) @ value


class Attention(nn.Module):
    """Full self-attention with normalised queries and keys."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, bias: bool):
        super().__init__()
        self.num_heads = num_heads
        inner = num_heads * head_dim
        self.to_q = nn.Linear(dim, inner, bias=bias)
        self.to_k = nn.Linear(dim, inner, bias=bias)
        self.to_v = nn.Linear(dim, inner, bias=bias)
        self.norm_q = nn.LayerNorm(head_dim, eps=1e-6)
        self.norm_k = nn.LayerNorm(head_dim, eps=1e-6)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim)])

    def forward(
        self, x: torch.Tensor, sequence: PackedSequence, layer: int, memory: KeyValueMemory | None
    ) -> torch.Tensor:
        query, key, value = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for proj in (self.to_q, self.to_k, self.to_v)
        )  # (B, heads, N, E)
        query, key = self.norm_q(query), self.norm_k(key)
        rotary = sequence.rotary
        if rotary is not None:
            query = apply_rotary(query, rotary)
        if memory is not None:
            key, value = memory.exchange(layer, key, value, rotary)
        elif rotary is not None:
            key = apply_rotary(key, rotary)

        condition = sequence.num_condition if sequence.isolated else 0
        keys = sequence.keys if sequence.keys is None or sequence.keys.shape[1] == key.shape[2] else None
        out = attend(query[:, :, condition:], key, value, keys)
        if condition:  # text and input frames see only each other, whatever the results are
            seen = None if keys is None else keys[:, :condition]
            among = attend(query[:, :, :condition], key[:, :, :condition], value[:, :, :condition], seen)
            out = torch.cat([among, out], dim=2)
        return self.to_out[0](out.transpose(1, 2).flatten(2))  # (B, N, D)


class LayerNormZero(nn.Module):
    """adaLN-zero with a shift, scale and gate per segment; text has its own half of the projection."""

    def __init__(self, time_dim: int, dim: int, eps: float):
        super().__init__()
        self.linear = nn.Linear(time_dim, 6 * dim)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(
        self, x: torch.Tensor, temb: torch.Tensor, segments: tuple[Segment, ...]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        visual, text = self.linear(nn.functional.silu(temb)).chunk(2, dim=-1)  # (B, S, 3D) each
        parts, gates = [], []
        for part, segment in zip(self.norm(x).split([s.length for s in segments], dim=1), segments, strict=True):
            row = (text if segment.kind == "text" else visual)[:, segment.time, None]  # (B, 1, 3D)
            shift, scale, gate = row.chunk(3, dim=-1)
            parts.append(torch.addcmul(shift, part, 1 + scale))
            gates.append(gate)
        return _joined(parts), gates


def add_gated(
    x: torch.Tensor, update: torch.Tensor, gates: list[torch.Tensor], segments: tuple[Segment, ...]
) -> torch.Tensor:
    """x + gate * update for every segment of (B, N, D) and its gate (B, 1, D)."""
    lengths = [s.length for s in segments]
    parts = zip(x.split(lengths, dim=1), gates, update.split(lengths, dim=1), strict=True)
    return _joined([torch.addcmul(part, gate, change) for part, gate, change in parts])


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Segments (B, n, D) as one sequence; a single one, as in accelerated steps, is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class UniRealBlock(nn.Module):
    """One block; text and visual tokens share attention and feed-forward."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, time_dim: int, attention_bias: bool, eps: float):
        super().__init__()
        self.norm1 = LayerNormZero(time_dim, dim, eps)
        self.attn1 = Attention(dim, num_heads, head_dim, attention_bias)
        self.norm2 = LayerNormZero(time_dim, dim, eps)
        self.ff = FeedForward(dim, activation_fn="gelu-approximate")

    def forward(
        self, hidden_states: torch.Tensor, sequence: PackedSequence, layer: int, memory: KeyValueMemory | None = None
    ) -> torch.Tensor:
        segments = sequence.segments
        x, gates = self.norm1(hidden_states, sequence.temb, segments)  # (B, N, D)
        update = self.attn1(x, sequence, layer, memory)  # (B, N, D)
        hidden_states = add_gated(hidden_states, update, gates, segments)  # (B, N, D)
        x, gates = self.norm2(hidden_states, sequence.temb, segments)  # (B, N, D)
        return add_gated(hidden_states, self.ff(x), gates, segments)  # (B, N, D)


# diffusers' own caches (FirstBlockCache, MagCache, ...) need to know what a block returns
TransformerBlockRegistry.register(
    UniRealBlock, TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None)
)


class OutputNorm(nn.Module):
    """The last modulation, per result frame; parameters as in diffusers' AdaLayerNorm."""

    def __init__(self, time_dim: int, dim: int, eps: float):
        super().__init__()
        self.linear = nn.Linear(time_dim, 2 * dim)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: torch.Tensor, temb: torch.Tensor, segments: tuple[Segment, ...]) -> torch.Tensor:
        shift, scale = self.linear(nn.functional.silu(temb)).chunk(2, dim=-1)  # (B, S, D) each
        parts = self.norm(x).split([s.length for s in segments], dim=1)
        rows = [s.time for s in segments]
        pairs = zip(parts, rows, strict=True)
        return _joined([p * (1 + scale[:, r, None]) + shift[:, r, None] for p, r in pairs])
