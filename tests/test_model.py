"""The network: any frames in one sequence, what may and may not influence what, and the libraries' own extras."""

from __future__ import annotations

import pytest
import torch
from conftest import debug_components
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from peft import LoraConfig

from unireal.model.blocks import attend
from unireal.model.embeddings import apply_rotary, frame_positions, frame_times, rotary_embedding
from unireal.model.transformer import UniRealTransformer
from unireal.prompts import referring_words
from unireal.sample import Role

CANVAS, ASSET = Role.CANVAS.index, Role.ASSET.index


def _model(**options) -> UniRealTransformer:
    options = {"in_channels": 4, "patch_size": 2, "num_layers": 3} | options
    return debug_components(**options).transformer.eval()


def _inputs(inputs=((4, 6), (8, 2)), results=((4, 6), (2, 4)), batch=2, seed=0, text=5) -> dict:
    """Arguments of a forward pass with random frames of the given latent sizes."""
    generator = torch.Generator().manual_seed(seed)

    def frames(sizes):
        return [torch.randn(batch, 4, *size, generator=generator) for size in sizes]

    return {
        "hidden_states": frames(results),
        "timestep": torch.rand(batch, generator=generator),
        "encoder_hidden_states": torch.randn(batch, text, 32, generator=generator),
        "condition": frames(inputs),
        "roles": torch.tensor([[CANVAS, ASSET, CANVAS, ASSET, CANVAS, ASSET, CANVAS, ASSET][: len(inputs)]] * batch),
        "encoder_attention_mask": torch.ones(batch, text, dtype=torch.bool),
        "referring": torch.zeros(batch, text, dtype=torch.long),
    }


@torch.no_grad()
def _out(model, inputs, **changes) -> list[torch.Tensor]:
    return model(**inputs | changes)


def _differ(a, b, least=1e-4) -> bool:
    return all((x - y).abs().max() > least for x, y in zip(a, b, strict=True))


@torch.no_grad()
def _hidden(model, inputs, **changes) -> torch.Tensor:
    """Final hidden states of text and input tokens."""
    sequence = model.pack(**inputs | changes)
    return model.run(sequence)[:, : sequence.num_condition]


@pytest.mark.parametrize("position", ["rotary", "sincos"])
@pytest.mark.parametrize("inputs", [(), ((4, 6),), ((4, 6), (8, 2)), ((2, 2),) * 8])
@pytest.mark.parametrize("results", [((4, 6),), ((2, 8), (6, 2)), ((2, 2),) * 8])
def test_any_number_of_frames_of_any_size(position, inputs, results):
    model = _model(position_embedding=position, num_layers=1)
    out = _out(model, _inputs(inputs, results))
    assert [x.shape for x in out] == [(2, 4, *size) for size in results] and all(x.isfinite().all() for x in out)


def test_permuting_the_batch_permutes_the_output():
    model, inputs = _model(), _inputs(batch=3)
    order = torch.tensor([2, 0, 1])
    permuted = {k: [x[order] for x in v] if isinstance(v, list) else v[order] for k, v in inputs.items()}
    for a, b in zip(_out(model, inputs), _out(model, permuted), strict=True):
        torch.testing.assert_close(a[order], b)


def test_isolated_conditions_do_not_see_results_or_time():
    inputs = _inputs()
    changes = {"hidden_states": [x + 1 for x in inputs["hidden_states"]], "timestep": inputs["timestep"] / 2}
    isolated, full = _model(condition_attention="isolated"), _model(condition_attention="full")
    torch.testing.assert_close(_hidden(isolated, inputs), _hidden(isolated, inputs, **changes), rtol=0, atol=0)
    assert _differ(_out(isolated, inputs), _out(isolated, inputs, **changes))
    for name, value in changes.items():
        assert (_hidden(full, inputs) - _hidden(full, inputs, **{name: value})).abs().max() > 1e-4
    moved = [x + 1 for x in inputs["condition"]]
    assert _differ(_out(isolated, inputs), _out(isolated, inputs, condition=moved))


@torch.no_grad()
def test_input_frames_are_modulated_at_time_zero():
    inputs = _inputs()
    for attention, text_moves in (("full", True), ("isolated", False)):
        model = _model(condition_attention=attention)
        early, late, clean = (
            model.pack(**inputs | {"timestep": torch.full((2,), t)}) for t in (0.2, 0.9, 0.0)
        )  # fmt: skip
        for kind, moves in (("input", False), ("result", True), ("text", text_moves)):
            rows = [next(s for s in p.segments if s.kind == kind).time for p in (early, late, clean)]
            a, b, zero = (p.temb[:, r] for p, r in zip((early, late, clean), rows, strict=True))
            assert bool((a != b).any()) == moves and bool((a != zero).any()) == moves


def test_roles_indices_and_references_count():
    model, inputs = _model(), _inputs()
    plain = _out(model, inputs)
    assert _differ(plain, _out(model, inputs, roles=inputs["roles"].flip(1)))
    first = inputs["referring"].clone()
    first[:, 2] = 1
    second = first * 2
    assert _differ(plain, _out(model, inputs, referring=first))
    assert _differ(_out(model, inputs, referring=first), _out(model, inputs, referring=second))
    same = _inputs(((4, 4),), ((4, 4), (4, 4)))
    same["hidden_states"] = [same["hidden_states"][0]] * 2
    a, b = _out(model, same)
    assert (a - b).abs().max() > 1e-4  # RES1 and RES2 differ by their index and their place in time alone


def test_the_referring_table_is_in_the_order_of_the_tokenizer_words():
    parts = debug_components()
    words = referring_words(8, 8)
    tokens = parts.text.tokenize([" ".join(words)])
    assert tokens["referring"][0].tolist() == [*range(1, 17), 0]
    assert parts.text.tokenize(["IMG1, then RES2."])["referring"].unique().tolist() == [0, 1, 10]
    model = parts.transformer
    with torch.no_grad():  # a word's label is the one of the frame that it names
        sizes = {"hidden_states": [torch.zeros(1, 3, 8, 8)] * 8, "condition": [torch.zeros(1, 3, 8, 8)] * 8}
        roles = torch.zeros(1, 8, dtype=torch.long)
        states = torch.zeros(1, 16, 32)
        plain = model.pack(timestep=torch.zeros(1), encoder_hidden_states=states, roles=roles, **sizes)
        named = model.pack(
            timestep=torch.zeros(1),
            encoder_hidden_states=states,
            roles=roles,
            referring=torch.arange(1, 17)[None],
            **sizes,
        )
        torch.testing.assert_close((named.tokens - plain.tokens)[0, :16], model.index_embedding.weight)
        frames = plain.tokens[0, 16:] - model.patch_embed.proj.bias
        role = model.role_embedding.weight[[CANVAS] * 8 + [Role.RESULT.index] * 8]
        torch.testing.assert_close(frames - role, model.index_embedding.weight)


@pytest.mark.parametrize("attention", ["full", "isolated"])
def test_text_padding_does_not_count(attention):
    model, inputs = _model(condition_attention=attention), _inputs()
    padded = inputs | {
        "encoder_hidden_states": torch.cat([inputs["encoder_hidden_states"], torch.randn(2, 4, 32) * 9], dim=1),
        "encoder_attention_mask": torch.nn.functional.pad(inputs["encoder_attention_mask"], (0, 4)),
        "referring": torch.nn.functional.pad(inputs["referring"], (0, 4)),
    }
    for a, b in zip(_out(model, inputs), _out(model, padded), strict=True):
        torch.testing.assert_close(a, b)
    unmasked = padded | {"encoder_attention_mask": None}
    assert _differ(_out(model, inputs), _out(model, unmasked))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_rotation_turns_pairs_of_channels_compiled_or_not(dtype, tolerance):
    positions = frame_positions([0, 3], [(2, 3), (1, 2)])
    cos, sin = rotary_embedding(positions, 16, 100.0)
    x = torch.randn(2, 4, len(positions), 16, dtype=dtype)
    even, odd = x.double()[..., ::2], x.double()[..., 1::2]
    c, s = cos.double()[:, ::2], sin.double()[:, ::2]
    expected = torch.stack([even * c - odd * s, odd * c + even * s], dim=-1).flatten(-2)
    for rotate in (apply_rotary, torch.compile(apply_rotary, backend="aot_eager")):
        turned = rotate(x, (cos, sin))
        assert turned.dtype == dtype
        torch.testing.assert_close(turned.double(), expected, rtol=tolerance, atol=tolerance)


def test_short_attention_equals_sdpa():
    keys = torch.rand(2, 20) < 0.7
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        query, key, value = torch.randn(3, 2, 4, 20, 16, dtype=dtype)
        for mask in (None, keys):
            expected = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, None if mask is None else mask[:, None, None]
            )
            torch.testing.assert_close(attend(query, key, value, mask), expected, rtol=tolerance, atol=tolerance)


def _gradients(model, inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sum(x.square().mean() for x in model(**inputs)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_gives_the_same_gradients():
    model, inputs = _model().train(), _inputs()
    plain = _gradients(model, inputs)
    model.enable_gradient_checkpointing()
    again = _gradients(model, inputs)
    assert plain.keys() == again.keys() == dict(model.named_parameters()).keys()
    for name in plain:
        torch.testing.assert_close(plain[name], again[name])


def test_compiled_blocks_give_the_same_output():
    """Each block is one graph for every layout; the graph is run without code generation, which takes a minute."""
    model = _model(num_layers=1)
    cases = [_inputs(), _inputs(((4, 4),), ((4, 4),), text=7)]
    expected = [_out(model, case) for case in cases]
    for block in model.transformer_blocks:
        block.compile(dynamic=True, fullgraph=True, backend="eager")
    for case, wanted in zip(cases, expected, strict=True):
        for a, b in zip(_out(model, case), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_save_and_load(tmp_path):
    model, inputs = _model(), _inputs()
    model.save_pretrained(tmp_path, safe_serialization=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    again = UniRealTransformer.from_pretrained(tmp_path).eval()
    assert all((a == b).all() for a, b in zip(_out(model, inputs), _out(again, inputs), strict=True))
    assert dict(again.config).items() >= {"in_channels": 4, "num_layers": 3}.items()


def test_errors():
    model = _model(max_inputs=2, max_results=1, num_layers=1)
    with pytest.raises(ValueError, match="3 input frames given, but this model's index table holds 2"):
        _out(model, _inputs(((2, 2),) * 3, ((2, 2),)))
    with pytest.raises(ValueError, match="2 result frames given"):
        _out(model, _inputs(((2, 2),), ((2, 2),) * 2))
    with pytest.raises(ValueError, match=r"roles must be \(B, 1\)"):
        _out(model, _inputs(((2, 2),), ((2, 2),)), roles=None)
    with pytest.raises(ValueError, match="a latent frame of 5x4 cannot be cut into tokens of 2x2"):
        _out(model, _inputs(((5, 4),), ((4, 4),)))
    with pytest.raises(ValueError, match="a latent frame of 4x7 cannot be cut"):
        _out(model, _inputs(((4, 4),), ((4, 7),)))
    with pytest.raises(ValueError, match="multiple of 16"):
        UniRealTransformer(attention_head_dim=24)
    for settings, message in (
        ({"position_embedding": "rotari"}, "unknown position_embedding 'rotari'; did you mean 'rotary'"),
        ({"condition_attention": "isolate"}, "did you mean 'isolated'"),
        ({"prediction_type": "epsilon"}, "unknown prediction_type 'epsilon'; choose from: velocity, sample"),
        ({"place_heads": 3}, "place_heads must be 0 to 2"),
        ({"place_heads": 1, "attention_bias": False}, "needs attention_bias"),
    ):
        with pytest.raises(ValueError, match=message):
            _model(num_attention_heads=2, **settings)


def test_times_per_result_frame():
    model, inputs = _model(), _inputs()
    t = inputs["timestep"]
    for a, b in zip(_out(model, inputs), _out(model, inputs, timestep=t[:, None].expand(-1, 2)), strict=True):
        torch.testing.assert_close(a, b)
    assert _differ(_out(model, inputs), _out(model, inputs, timestep=torch.stack([t, t / 2], dim=1)))


class _Replay:
    """Keeps every layer's keys and values in the first pass and adds those of text and inputs to later ones."""

    def __init__(self, num_condition: int):
        self.num_condition, self.kept = num_condition, {}

    def exchange(self, layer, key, value, rotary):
        if rotary is not None:
            key = apply_rotary(key, rotary)
        if layer not in self.kept:
            self.kept[layer] = key[:, :, : self.num_condition], value[:, :, : self.num_condition]
            return key, value
        return tuple(torch.cat([old, new], dim=2) for old, new in zip(self.kept[layer], (key, value), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("position", ["rotary", "sincos"])
def test_a_memory_that_replays_gives_the_same_result(position):
    model, inputs = _model(condition_attention="isolated", position_embedding=position), _inputs()
    sequence = model.pack(**inputs)
    memory = _Replay(sequence.num_condition)
    plain, recorded = model.run(sequence), model.run(sequence, memory)
    torch.testing.assert_close(plain, recorded, rtol=0, atol=0)
    only_results = sequence.select(torch.arange(sequence.num_condition, sequence.tokens.shape[1]))
    torch.testing.assert_close(model.run(only_results, memory), plain[:, sequence.num_condition :])


def test_first_block_cache_of_diffusers():
    model, inputs = _model(num_layers=4), _inputs()
    plain = _out(model, inputs)
    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    with model.cache_context("text+images"):
        first, second = _out(model, inputs), _out(model, inputs)
        later = _out(model, inputs, timestep=inputs["timestep"] * 0.5)
    for a, b, c in zip(plain, first, second, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)
    model.disable_cache()
    assert all((a == b).all() for a, b in zip(plain, _out(model, inputs), strict=True))
    assert _differ(later, _out(model, inputs, timestep=inputs["timestep"] * 0.5), 1e-6)  # it had skipped blocks


@pytest.mark.parametrize(
    "config",
    [
        FirstBlockCacheConfig(threshold=1e9),
        MagCacheConfig(num_inference_steps=8, mag_ratios=torch.ones(8), retention_ratio=0.1),
        TaylorSeerCacheConfig(cache_interval=4, disable_cache_before_step=2),
        TaylorSeerCacheConfig(cache_interval=4, disable_cache_before_step=2, use_lite_mode=True),
    ],
    ids=["first block", "mag", "taylorseer", "taylorseer lite"],
)
def test_caches_of_diffusers_act_and_forget(config):
    model, inputs = _model(num_layers=4), _inputs()

    def outputs():
        with model.cache_context("text+images"):
            return [_out(model, inputs, timestep=inputs["timestep"] * (1 - step / 8))[0] for step in range(8)]

    plain = outputs()
    model.enable_cache(config)
    first = outputs()
    model.reset_cache()
    assert all(torch.equal(a, b) for a, b in zip(first, outputs(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, plain, strict=True))
    model.disable_cache()
    assert all(torch.equal(a, b) for a, b in zip(plain, outputs(), strict=True))


def test_caches_that_would_do_nothing_are_refused():
    model = _model()
    for config in (PyramidAttentionBroadcastConfig(), FasterCacheConfig()):
        with pytest.raises(ValueError, match="nothing to act on in this model; give one of: FirstBlockCacheConfig"):
            model.enable_cache(config)
    assert not model.is_cache_enabled


def test_lora_adapters_of_peft():
    model, inputs = _model(), _inputs()
    plain = _out(model, inputs)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
    assert _differ(plain, _out(model, inputs))
    assert any("lora" in name for name, _ in model.named_parameters())
    model.disable_adapters()
    assert all((a == b).all() for a, b in zip(plain, _out(model, inputs), strict=True))


def test_positions():
    assert frame_times(0, 5, 13) == [0, 1, 2, 3, 4]
    assert frame_times(2, 3, 13) == [0, 1, 10, 11, 12]
    assert frame_times(8, 8, 13) == [*range(16)]
    positions = frame_positions([0, 7], [(2, 2), (1, 3)])
    finer = frame_positions([0, 7], [(2, 2), (1, 3)], step=0.5)
    assert (finer * torch.tensor([1, 2, 2])).equal(positions)
    assert positions.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [7, 0, 0], [7, 0, 1], [7, 0, 2]]


@pytest.mark.parametrize("position", ["rotary", "sincos", "both"])
def test_results_of_any_size_cover_the_same_positions(position):
    torch.manual_seed(0)
    spanned = _model(position_embedding=position, position_span=4)
    counted = _model(position_embedding=position)
    counted.load_state_dict(spanned.state_dict())
    found = {}
    for side in (4, 8):
        frame = torch.zeros(1, 4, 2 * side, 2 * side)
        args = {"timestep": torch.zeros(1), "encoder_hidden_states": torch.zeros(1, 1, 32)}
        args["roles"] = torch.tensor([[CANVAS]])
        packed = [model.pack([frame], condition=[frame], **args) for model in (spanned, counted)]
        rotary = [sequence.rotary and sequence.rotary[0] for sequence in packed]
        tokens = [sequence.tokens for sequence in packed]
        same = all((a == b).all() for a, b in ([tokens] if rotary[0] is None else [tokens, rotary]))
        assert same == (side == 4)
        grid = tokens[0][0, 1:].unflatten(0, (2, side, side))
        turns = None if rotary[0] is None else rotary[0][1:].unflatten(0, (2, side, side))
        found[side] = grid, turns
    for small, large in zip(found[4], found[8], strict=True):
        if small is not None:
            torch.testing.assert_close(small, large[:, ::2, ::2])
    with pytest.raises(ValueError, match="position_span"):
        _model(position_span=4, base_grid=(4, 4))
