"""Attention of the public transformers with stored keys and values.

Axes: B batch, L text tokens, n computed image tokens, E width of an attention head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

from unireal.acceleration.memory import KeyValueStore
from unireal.acceleration.public.families import Angles, Family


class StoredAttention:
    """Stands in for a block's attention processor: the same computation, but that it attends to what a store returns.

    standard: the processor that it takes the place of; layer: the block's number; store: the store of the current
    pass, None for none.
    """

    def __init__(self, standard: Any, family: Family, layer: int, store: Callable[[], KeyValueStore | None]):
        self._attention_backend, self._parallel_config = standard._attention_backend, standard._parallel_config
        self.family, self.layer, self.store = family, layer, store

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
        encoder_hidden_states_mask: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """hidden_states: (B, n, D), with the text in front where a block has one stream, and then no
        encoder_hidden_states (B, L, D); encoder_hidden_states_mask: (B, L), False for padding."""
        image = (attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)
        query, key, value = _project(attn, hidden_states, *image)
        length = 0
        if encoder_hidden_states is not None:
            length = encoder_hidden_states.shape[1]
            text = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k)
            pairs = zip(_project(attn, encoder_hidden_states, *text), (query, key, value), strict=True)
            query, key, value = (torch.cat(pair, dim=1) for pair in pairs)
        # pos_embed's output, whose rows the session has already chosen
        angles: Angles = self.family.angles(image_rotary_emb)
        query, store = self.family.turn(query, angles), self.store()
        if store is None:
            key = self.family.turn(key, angles)
        else:
            key, value = store.exchange(self.layer, key, value, angles)
        if encoder_hidden_states_mask is not None:
            mask = encoder_hidden_states_mask
            others = mask.new_ones(mask.shape[0], key.shape[1] - length)
            attention_mask = torch.cat([mask, others], dim=1)[:, None, None].bool()
        out = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        out = out.flatten(2, 3).to(query.dtype)
        if not length:
            return out
        among, out = out[:, :length], out[:, length:]
        out = attn.to_out[1](attn.to_out[0](out.contiguous()))
        return out, attn.to_add_out(among.contiguous())


def _project(
    attn: Any, x: torch.Tensor, to_query: nn.Module, to_key: nn.Module, to_value: nn.Module, *norms: nn.Module
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, n, D) to queries, keys (both normalised) and values (B, n, heads, E)."""
    heads = (-1, attn.inner_dim // attn.heads)
    query, key, value = (layer(x).unflatten(-1, heads) for layer in (to_query, to_key, to_value))
    return norms[0](query), norms[1](key), value
