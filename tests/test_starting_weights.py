"""What the tiny model's options change: heads that start at their own place, text that modulates, rates per part."""

from __future__ import annotations

import pytest
import torch
from conftest import debug_components
from torch import nn

from unireal.config import MODELS
from unireal.experiments import OptimizerConfig
from unireal.model.build import build
from unireal.model.embeddings import PooledText, apply_rotary, frame_positions, rotary_embedding
from unireal.model.transformer import UniRealTransformer
from unireal.training.optimizers import make_optimizers

GRID = (4, 5)


def _first_attention(heads: int) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 64, "text_embed_dim": 8}
    return UniRealTransformer(**sizes, place_heads=heads).transformer_blocks[0].attn1


@torch.no_grad()
def _weights(attention: nn.Module) -> torch.Tensor:
    """Attention (heads, N, N) of random tokens of two frames at different times."""
    positions = frame_positions([0, 12], [GRID, GRID]) * 2
    rotary = rotary_embedding(positions, attention.norm_q.normalized_shape[0], 100.0)
    x = torch.randn(1, len(positions), attention.to_q.in_features, generator=torch.Generator().manual_seed(0))
    parts = ((attention.to_q, attention.norm_q), (attention.to_k, attention.norm_k))
    query, key = (
        apply_rotary(norm(linear(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)), rotary)
        for linear, norm in parts
    )
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)[0]


@torch.no_grad()
def test_a_fresh_model_predicts_nothing_through_open_blocks():
    """Whatever time, text and frames are: the output is 0, no block is modulated, and all their gates are 1."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "text_embed_dim": 8, "in_channels": 4}
    shallow, deep = (UniRealTransformer(num_layers=layers, **sizes) for layers in (1, 16))
    assert not deep([torch.randn(2, 4, 4, 4)], torch.tensor([0.1, 0.9]), torch.randn(2, 3, 8))[0].any()
    block = deep.transformer_blocks[-1]
    x, sequence = torch.randn(2, 7, 32), deep.pack([torch.randn(2, 4, 4, 4)], torch.ones(2), torch.randn(2, 3, 8))
    for norm in (block.norm1, block.norm2):
        modulated, gates = norm(x, sequence.temb, sequence.segments)
        assert torch.equal(modulated, norm.norm(x)) and all((gate == 1).all() for gate in gates)
    for last in ("attn1.to_out.0", "ff.net.2"):  # so that the sum over all blocks is as large as one alone
        scales = [m.transformer_blocks[0].get_submodule(last).weight.std() for m in (shallow, deep)]
        assert float(scales[0] / scales[1]) == pytest.approx(4, rel=0.1)


def test_place_heads_start_by_attending_to_their_own_place_in_every_frame():
    first, other = _weights(_first_attention(heads=1))
    count = GRID[0] * GRID[1]
    own = torch.eye(count).repeat(2, 2).bool()  # the same row and column, in both frames
    assert (first * own).sum(-1).min() > 5 * 2 / (2 * count)
    assert (other * own).sum(-1).mean() < 2 * 2 / (2 * count)


def test_without_place_heads_no_place_is_preferred():
    for weights in _weights(_first_attention(heads=0)):
        assert (weights.diagonal() > 0.5).float().mean() < 0.1


def test_pooled_text_modulates_and_padding_does_not_count():
    pooled = PooledText(8, 6)
    features = torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    expected = pooled(features[:1, :3], None)
    torch.testing.assert_close(pooled(features, mask)[:1], expected)
    assert not torch.allclose(pooled(features + 1, mask)[:1], expected)


@pytest.mark.parametrize("pooled", [True, False])
def test_pooled_text_reaches_the_time_embedding(pooled):
    transformer = debug_components(pooled_text=pooled).transformer
    size = transformer.config.patch_size

    def times(text):
        frame = [torch.zeros(1, transformer.config.in_channels, size, size)]
        return transformer.pack(frame, torch.ones(1), text).temb

    text = torch.randn(1, 4, transformer.config.text_embed_dim)
    assert torch.equal(times(text), times(text + 1)) is not pooled


@torch.no_grad()
def test_a_fresh_text_encoder_knows_which_words_are_neighbours():
    words = "a red star at the left and small cyan blue cross right".split()
    text = build(MODELS["tiny"], words).text
    one, other = (
        text([f"a red star at the left and a small {colour} cross at the right"]).features[0]
        for colour in ("cyan", "blue")
    )
    change = (one - other).norm(dim=-1) / one.norm(dim=-1)
    star, small, cross = 2, 8, 10
    assert change[cross] > 2 * change[star] and change[small] > 2 * change[star]
    same = text(["a red cross and a blue star"]).features[0], text(["a blue cross and a red star"]).features[0]
    assert (same[0][2] - same[1][2]).norm() > 0.2 * same[0][2].norm()  # of which colour the cross is


def test_the_text_encoder_has_a_learning_rate_of_its_own():
    parts = debug_components().trainable
    adamw, muon = make_optimizers(parts, OptimizerConfig(lr=1e-3, muon_lr=0.02, text_lr=1e-4))
    rates = {id(p): group["lr"] for group in (*adamw.param_groups, *muon.param_groups) for p in group["params"]}
    assert len(rates) == len(list(parts.parameters()))
    assert {rates[id(p)] for p in parts["text_encoder"].parameters()} == {1e-4}
    assert {rates[id(p)] for p in parts["transformer"].parameters()} == {1e-3, 0.02}
    (alone,) = make_optimizers(parts, OptimizerConfig(lr=1e-3))
    assert [group["lr"] for group in alone.param_groups] == [1e-3]
