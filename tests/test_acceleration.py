"""Accelerations on small random models: neutral settings change nothing, and what is saved is what is claimed."""

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

import benchmarks.acceleration
import unireal.model.transformer
from benchmarks.acceleration import main as benchmark
from data_builders.world.recipes import world_sample
from data_builders.world.stream import TEST_SEEDS
from unireal.acceleration import ConditionCache, SpotEdit, TaylorSeer, TeaCache, accelerations, fit_teacache
from unireal.acceleration.base import StepScheduler
from unireal.acceleration.fit_teacache import Recorder, fit
from unireal.acceleration.fit_teacache import main as fit_main
from unireal.acceleration.judges import DecoderJudge, cosine_judge, decoder_features, grow, l2_judge, two_means
from unireal.acceleration.measure import LiveMemory, counted, load_parts, randomize
from unireal.acceleration.memory import Blend, KeyValueStore
from unireal.acceleration.plan import FrameLayout, Plan
from unireal.acceleration.skipping import Forecast
from unireal.acceleration.spotedit import pixel_mask
from unireal.diffusion.guidance import FULL, NO_TEXT, NOTHING, Guidance
from unireal.diffusion.sampling import Call, Conditions, denoise
from unireal.model.embeddings import apply_rotary
from unireal.model.text_encoder import TextFeatures
from unireal.model.transformer import UniRealTransformer
from unireal.model.vae import FrameCodec
from unireal.pipeline import UniRealPipeline
from unireal.sample import Role

TEXT, PATCH, CHANNELS = 5, 2, 4
GUIDED = Guidance(3.0, 1.5, (0.0, 0.8))
INIT = {"initial": 0.2, "reset": 0.3}  # of 10 steps: 0, 1, 5 and 8 are full


def model(attention="full", kind="velocity", position="rotary", layers=2, pooled=False):
    torch.manual_seed(0)
    transformer = UniRealTransformer(
        num_layers=layers,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=CHANNELS,
        patch_size=PATCH,
        text_embed_dim=8,
        time_embed_dim=16,
        position_embedding=position,
        condition_attention=attention,
        prediction_type=kind,
        pooled_text=pooled,
    )
    return randomize(transformer, scale=1.0)


def inputs(num_inputs=1, size=(8, 12), batch=1, num_results=1, roles=None):
    """Conditions with padded text, and noise."""
    generator = torch.Generator().manual_seed(1)

    def text():
        mask = torch.arange(TEXT).expand(batch, TEXT) < TEXT - torch.arange(batch)[:, None] - 1
        features = torch.randn(batch, TEXT, 8, generator=generator)
        return TextFeatures(features, mask, torch.zeros(batch, TEXT, dtype=torch.long))

    roles = roles or [Role.CANVAS, Role.ASSET, Role.ASSET][:num_inputs]
    sizes = [size, (4, 4), (4, 4)][:num_inputs]
    frames = [torch.randn(batch, CHANNELS, *s, generator=generator) for s in sizes]
    given = Conditions(text(), text(), frames, torch.tensor([[r.index for r in roles]] * batch).view(batch, -1))
    return given, [torch.randn(batch, CHANNELS, *size, generator=generator) for _ in range(num_results)]


@torch.no_grad()
def sample(transformer, given, noise, accelerate=(), guidance=None, steps=10, callback=None, codec=None):
    scheduler, guidance = FlowMatchEulerDiscreteScheduler(), guidance or Guidance()
    plugins = accelerations(accelerate)
    return denoise(transformer, scheduler, noise, given, guidance, steps, callback, plugins, codec)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def keeping(kept):
    """A judge that keeps the True tokens of bool (rows, columns) or (B, rows, columns)."""
    scores = 1 - kept.float()
    return lambda clean, canvas: scores.expand(len(clean), *scores.shape[-2:])


def left_half(size=(8, 12)):
    kept = torch.zeros(size[0] // PATCH, size[1] // PATCH, dtype=torch.bool)
    kept[:, : size[1] // PATCH // 2] = True
    return kept


def spot(kept, **settings):
    return SpotEdit(judge=keeping(kept), tau=0.5, **{**INIT, **settings})


NEUTRAL = [
    [ConditionCache(refresh=1)],
    [SpotEdit(tau=0)],
    [SpotEdit(tau=0, fusion="cos2_recursive", every_step=True)],
    [SpotEdit(initial=1.0)],
    [TeaCache(threshold=0)],
    [TaylorSeer(interval=1)],
    [ConditionCache(refresh=1), SpotEdit(tau=0), TeaCache(threshold=0)],
    [TaylorSeer(interval=1), SpotEdit(tau=0), ConditionCache(refresh=1)],
]


@pytest.mark.parametrize("attention", ["full", "isolated"])
@pytest.mark.parametrize("plugins", NEUTRAL, ids=lambda p: "+".join(x.name for x in p))
def test_neutral_is_plain_bit_for_bit(plugins, attention):
    given, noise = inputs(num_inputs=2, batch=2, num_results=2)
    for position, kind in (("rotary", "velocity"), ("sincos", "sample")):
        transformer = model(attention, kind, position)
        plain = sample(transformer, given, noise, guidance=GUIDED)
        assert equal(plain, sample(transformer, given, noise, plugins, GUIDED))
        assert not equal(plain, noise)


@pytest.mark.parametrize("num_inputs", [1, 3])
@pytest.mark.parametrize("guidance", [Guidance(), GUIDED], ids=["plain", "guided"])
def test_isolated_condition_cache_is_exact(num_inputs, guidance):
    transformer, (given, noise) = model("isolated"), inputs(num_inputs, batch=2)
    with counted(transformer) as everything:
        plain = sample(transformer, given, noise, guidance=guidance)
    with counted(transformer) as work:
        cached = sample(transformer, given, noise, "condition_cache", guidance)
    assert (plain[0] - cached[0]).abs().max() < 1e-5 * plain[0].abs().max()
    branches = len(guidance.weights(0, 10, True))
    assert work.tokens[:branches] == everything.tokens[:branches]
    assert set(work.tokens[branches:]) == {24}


def test_approximate_condition_cache_refreshes():
    transformer, (given, noise) = model("full"), inputs(2)
    with counted(transformer) as work:
        cached = sample(transformer, given, noise, ConditionCache(refresh=4))
    full = TEXT + 24 + 4 + 24
    assert work.tokens == [full, 24, 24, 24, full, 24, 24, 24, full, 24]
    assert not equal(cached, sample(transformer, given, noise))


@pytest.mark.parametrize("attention", ["full", "isolated"])
def test_only_active_tokens_are_computed(attention):
    transformer, (given, noise) = model(attention), inputs(3)
    plugin = spot(left_half())
    with counted(transformer) as work:
        out = sample(transformer, given, noise, plugin)
    full, partial = TEXT + 24 + 8 + 24, 12 + (TEXT if attention == "full" else 0)
    renewed = full if attention == "full" else 24  # isolated text and inputs never change
    assert work.tokens == [full, full, *[partial] * 3, renewed, *[partial] * 2, renewed, partial]
    assert torch.equal(out[0][..., :6], given.frames[0][..., :6])
    assert not torch.isclose(out[0][..., 6:], given.frames[0][..., 6:]).any()
    assert plugin.mask.shape == (1, 4, 6) and not plugin.mask[:, :, :3].any() and plugin.mask[:, :, 3:].all()
    shown = pixel_mask(plugin.mask[0], (31, 47), 8)
    assert shown.shape == (31, 47) and not shown[:, :24].any() and shown[:, 24:].all()


def test_partial_step_with_unchanged_tokens_equals_full_step():
    """If the input is the same, stored keys and values are those that would be computed."""
    for position in ("rotary", "sincos"):
        transformer, (given, noise) = model(position=position, layers=3), inputs(2, batch=2)
        call = Call(transformer, given, 10, ((8, 12),))
        accelerator, t = StepScheduler(call, [spot(left_half())]), torch.full((2,), 0.5)
        full = accelerator.velocities(1, t, noise, [FULL, NO_TEXT, NOTHING])
        accelerator.guided(0.5, noise, full[FULL])
        partial = accelerator.velocities(2, t, noise, [FULL, NO_TEXT, NOTHING])
        for branch in full:
            one, other = full[branch][0][..., 6:], partial[branch][0][..., 6:]
            assert (one - other).abs().max() < 1e-5 * one.abs().max()


def test_everything_kept_returns_the_canvas():
    transformer, (given, noise) = model(), inputs(2)
    kept = torch.ones(4, 6, dtype=torch.bool)
    with counted(transformer) as work:
        out = sample(transformer, given, noise, spot(kept), GUIDED)
    assert torch.equal(out[0], given.frames[0])
    assert len(work.tokens) == 3 * 4 - 2  # full steps only; the last is outside the guidance interval


def test_active_set_only_shrinks_between_resets():
    transformer, (given, noise) = model(), inputs(1)
    calls = []

    def judge(clean, canvas):  # one more token per call, and forgets the others
        calls.append(len(calls))
        scores = torch.ones(1, 24)
        scores[0, len(calls)] = 0
        return scores.view(1, 4, 6)

    with counted(transformer) as work:
        sample(transformer, given, noise, SpotEdit(judge=judge, tau=0.5, every_step=True, **INIT))
    full = TEXT + 24 + 24
    spots = [TEXT + 23, TEXT + 22, TEXT + 21]
    assert work.tokens == [full, full, *spots, full, *spots[:2], full, spots[0]]


def test_a_judge_sees_the_clean_picture_that_the_last_step_pointed_to():
    seen, roles = [], torch.full((1, 1), Role.CANVAS.index)
    latent, velocity, canvas = torch.randn(3, 1, CHANNELS, 8, 12)
    spot = SpotEdit(judge=lambda clean, canvas: seen.append((clean, canvas)) or torch.ones(1, 4, 6), tau=0.5, **INIT)
    choice = spot.tokens(FrameLayout([canvas], roles, ((8, 12),), 10, PATCH))
    first = next(step for step in range(10) if step not in choice.full_steps)
    choice.plan(0, 1.0, Plan())
    choice.guided(0.7, [latent], [velocity])
    choice.plan(first, 0.6, Plan())
    ((clean, against),) = seen
    torch.testing.assert_close(clean, latent - 0.7 * velocity)
    assert torch.equal(against, canvas)


def test_two_means_keep_nothing_where_all_of_the_picture_changes():
    """Its lower group may be far from the canvas, too."""
    roles, canvas = torch.full((1, 1), Role.CANVAS.index), torch.randn(1, CHANNELS, 8, 12)
    change = torch.ones_like(canvas)
    change[..., :6] = 5.0
    plugin = SpotEdit(judge="l2", tau="two-means", dilation=0, **INIT)
    choice = plugin.tokens(FrameLayout([canvas], roles, ((8, 12),), 10, PATCH))
    for scale, kept in ((1.0, 0), (0.05, 12)):  # of 24 tokens
        choice.plan(0, 1.0, Plan())
        choice.guided(1.0, [canvas + scale * change], [torch.zeros_like(canvas)])
        choice.plan(2, 0.8, Plan())
        assert (~plugin.mask).sum() == kept


def test_a_canvas_of_some_samples_only_is_none():
    roles = torch.tensor([[Role.CANVAS.index], [Role.ASSET.index]])
    layout = FrameLayout([torch.zeros(2, CHANNELS, 8, 12)], roles, ((8, 12),), 10, PATCH)
    assert SpotEdit().tokens(layout) is None


def test_a_call_with_nothing_to_save_forgets_the_last_ones_mask():
    plugin, roles = spot(left_half()), torch.full((1, 1), Role.CANVAS.index)
    canvas = torch.zeros(1, CHANNELS, 8, 12)
    assert plugin.tokens(FrameLayout([canvas], roles, ((8, 12),), 10, PATCH)) is not None and plugin.mask is not None
    assert plugin.tokens(FrameLayout([canvas], roles, ((4, 12),), 10, PATCH)) is None
    assert plugin.mask is None and plugin.frame is None and plugin.regions(1, (4, 6), 2)[0].all()


def test_batch_shares_the_computed_tokens_but_not_the_kept_ones():
    transformer, (given, noise) = model(), inputs(1, batch=2)
    kept = torch.stack([left_half(), left_half()])
    kept[1, 0, 0] = False
    plugin = spot(kept)
    with counted(transformer) as work:
        out = sample(transformer, given, noise, plugin)
    assert work.tokens[2] == TEXT + 13
    assert torch.equal(out[0][0, :, :, :6], given.frames[0][0, :, :, :6])
    assert not torch.equal(out[0][1, :, :2, :2], given.frames[0][1, :, :2, :2])
    assert plugin.mask[1, 0, 0] and not plugin.mask[0, 0, 0]
    plugin = spot(torch.stack([left_half(), ~left_half()]))  # nothing in common
    out = sample(transformer, given, noise, plugin)
    assert torch.equal(out[0][1, :, :, 6:], given.frames[0][1, :, :, 6:])


def test_other_results_are_computed_whole():
    transformer, (given, noise) = model(), inputs(1, num_results=2)
    with counted(transformer) as work:
        out = sample(transformer, given, noise, spot(torch.ones(4, 6, dtype=torch.bool)))
    assert work.tokens[2] == TEXT + 24
    assert torch.equal(out[0], given.frames[0]) and not torch.isclose(out[1], given.frames[0]).any()


def test_falls_back_to_full_without_a_canvas_of_the_size():
    transformer = model()
    other, noise = inputs(1, size=(4, 4))[0], inputs(0)[1]
    for given in (inputs(0)[0], other, inputs(1, roles=[Role.ASSET])[0]):
        plugin = spot(left_half())
        assert equal(sample(transformer, given, noise), sample(transformer, given, noise, plugin))
        assert plugin.mask is None
    given, noise = inputs(2, roles=[Role.ASSET, Role.CANVAS], size=(4, 4))  # the canvas need not come first
    out = sample(transformer, given, noise, spot(torch.ones(2, 2, dtype=torch.bool)))
    assert torch.equal(out[0], given.frames[1])


@pytest.mark.parametrize("position", ["rotary", "sincos"])
def test_fusions_differ(position):
    transformer, (given, noise) = model(position=position), inputs(2)
    outs = {f: sample(transformer, given, noise, spot(left_half(), fusion=f), GUIDED)[0] for f in
            ("cache", "reference", "cos2", "cos2_recursive")}  # fmt: skip
    names = list(outs)
    assert all(not torch.equal(outs[a], outs[b]) for i, a in enumerate(names) for b in names[:i])
    assert all(torch.isfinite(out).all() for out in outs.values())


def test_recursive_fusion_follows_the_formula():
    transformer, (given, noise) = model(layers=1), inputs(1)
    call = Call(transformer, given, 10, ((8, 12),))
    accelerator = StepScheduler(call, [spot(left_half(), fusion="cos2_recursive")])
    full = accelerator.velocities(1, torch.tensor([0.9]), noise, [FULL])
    accelerator.guided(0.9, noise, full[FULL])
    store = accelerator._branches[FULL.name].store
    key = store._before[0][0].clone()
    kept = left_half().flatten().nonzero()[:, 0]
    own, reference = key[:, :, TEXT + 24 + kept], key[:, :, TEXT + kept]
    for step, t in ((2, 0.8), (3, 0.7)):
        accelerator.velocities(step, torch.tensor([t]), noise, [FULL])
        weight = np.cos(np.pi * np.float32(t) / 2) ** 2
        own = weight * own + (1 - weight) * reference
        torch.testing.assert_close(store._before[0][0][:, :, TEXT + 24 + kept], own)
        angles = (a[TEXT + 24 + kept] for a in accelerator._branches[FULL.name].sequence.rotary)
        turned = apply_rotary(own, tuple(angles))
        torch.testing.assert_close(store._stored[0][0][:, :, TEXT + 24 + kept], turned)


@pytest.mark.parametrize("fusion", ["reference", "cos2_recursive"])
def test_fusion_leaves_a_branch_without_inputs_alone(fusion):
    """It has no canvas, wherever that is among the inputs."""
    transformer, (given, noise) = model(), inputs(2)
    given = replace(given, frames=given.frames[::-1], roles=given.roles.flip(1))
    (out,) = sample(transformer, given, noise, spot(left_half(), fusion=fusion), GUIDED)
    assert torch.equal(out[..., :6], given.frames[1][..., :6]) and torch.isfinite(out).all()


def test_a_token_that_is_kept_later_is_blended_as_it_was_computed_last():
    """Row 1 is computed in a full and in a partial pass, then kept; row 0 is the canvas's."""
    store, rows = KeyValueStore(originals=True), torch.tensor([1, 2])
    passes = torch.randn(3, 1, 1, 3, 4)
    store.begin(None, None)
    store.exchange(0, passes[0], passes[0], None)
    store.begin(rows, None)
    store.exchange(0, passes[1][:, :, rows], passes[1][:, :, rows], None)
    store.begin(rows[1:], None, Blend(rows[:1], torch.tensor([0]), 0.25, recursive=False))
    for found in store.exchange(0, passes[2][:, :, 2:], passes[2][:, :, 2:], None):
        torch.testing.assert_close(found[:, :, 1], 0.25 * passes[1][:, :, 1] + 0.75 * passes[0][:, :, 0])
        assert torch.equal(found[:, :, 2], passes[2][:, :, 2])


@pytest.mark.parametrize("fails", [False, True])
def test_offloaded_weights_come_in_and_go_back(fails):
    transformer, (given, noise) = model(), inputs(1)
    block, moved = transformer.transformer_blocks[0], []
    for module in (transformer, block):  # TeaCache calls the first block's norm by itself
        moves = {
            "pre_forward": lambda m: moved.append((m, "in")),
            "post_forward": lambda m, _: moved.append((m, "out")),
        }
        module._hf_hook = SimpleNamespace(**moves)

    def stop(step, t, latents):
        if fails and step == 2:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop") if fails else nullcontext():
        sample(transformer, given, noise, TeaCache(threshold=0), steps=4, callback=stop)
    assert [way for m, way in moved if m is transformer] == ["in", "out"] and moved[-1] == (transformer, "out")
    assert [way for m, way in moved if m is block] == ["in", "out"] * (3 if fails else 4)


def test_state_is_released_after_an_exception():
    transformer, plugins = model(), ["condition_cache", spot(left_half()), TeaCache(threshold=0.5)]
    given, noise = inputs(1)
    closed = []

    def fails(step, t, latents):
        if step == 4:
            raise RuntimeError("stop")

    original = StepScheduler.close
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepScheduler, "close", lambda self: (original(self), closed.append(self)))
        with pytest.raises(RuntimeError, match="stop"):
            sample(transformer, given, noise, plugins, callback=fails)
    assert len(closed) == 1 and not closed[0]._branches and not closed[0]._choices
    again = sample(transformer, given, noise, plugins)
    fresh = ["condition_cache", spot(left_half()), TeaCache(threshold=0.5)]
    assert equal(again, sample(transformer, given, noise, fresh))
    other = inputs(1, size=(4, 8))
    plugins[1] = spot(left_half((4, 8)))
    assert sample(transformer, *other, plugins)[0].shape == (1, CHANNELS, 4, 8)


def test_teacache_skips_a_constant_sequence_but_not_its_ends():
    skipping = TeaCache(threshold=0.1, first=2, last=2).skipping(Call(None, None, 8, ()))
    tokens, ran = torch.arange(3), []
    for step in range(8):
        skipping.follow(tokens)
        if not skipping.wants(step, lambda: torch.ones(1, 3, 4)):
            skipping.computed(step, torch.full((1, 3, 4), float(step)))
            ran.append(step)
        elif step == 3:
            assert torch.equal(skipping.residual(step), torch.ones(1, 3, 4))
    assert ran == [0, 1, 6, 7]
    skipping.follow(torch.tensor([0, 2]))  # shrinks: goes on with fewer tokens
    assert skipping.residual(7).shape == (1, 2, 4) and skipping.previous.shape == (1, 2, 4)
    skipping.follow(tokens)  # grows: starts anew
    assert not len(skipping.forecast) and skipping.previous is None


def test_teacache_adds_up_predicted_changes():
    settings = TeaCache(threshold=0.25, polynomial=(2.0, -0.1))
    assert settings.predicted(0.01) == 0 and settings.predicted(0.1) == pytest.approx(0.1)
    skipping, value, ran = settings.skipping(Call(None, None, 100, ())), 1.0, []
    for step in range(8):  # grows by a tenth each step: predicted 0.1, so every third step runs
        skipping.follow(torch.arange(1))
        if not skipping.wants(step, lambda v=value: torch.full((1, 1, 1), v)):
            skipping.computed(step, torch.zeros(1, 1, 1))
            ran.append(step)
        value *= 1.1
    assert ran == [0, 3, 6]


def test_teacache_without_a_threshold_runs_every_step_whatever_it_predicts():
    skipping = TeaCache(threshold=0, polynomial=(-1.0, 0.0)).skipping(Call(None, None, 8, ()))
    for step in range(8):
        skipping.follow(torch.arange(1))
        assert not skipping.wants(step, lambda: torch.ones(1, 1, 1))
        skipping.computed(step, torch.zeros(1, 1, 1))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_forecast_continues_a_polynomial_exactly(order):
    coefficients = torch.randn(order + 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    forecast = Forecast(order)
    values = {s: sum(c * s**i for i, c in enumerate(coefficients))[None] for s in range(30)}
    for step in (3, 4, 8, 9, 13):  # unevenly spaced; older ones are dropped
        forecast.add(step, values[step])
    assert len(forecast) == order + 1
    for step in (14, 17):
        torch.testing.assert_close(forecast.predict(step), values[step])


def test_taylorseer_runs_its_first_steps_and_one_in_every_interval():
    transformer, (given, noise) = model(), inputs(1)
    steps = []
    with counted(transformer) as work:
        sample(transformer, given, noise, TaylorSeer(interval=4, first=3), steps=12,
               callback=lambda step, *_: steps.append(len(work.tokens)))  # fmt: skip
    assert [s for s in range(12) if steps[s] > (steps[s - 1] if s else 0)] == [0, 1, 2, 6, 10, 11]


def test_composition_never_skips_full_or_first_partial_steps():
    transformer, (given, noise) = model("isolated"), inputs(3)
    for skipping in (TeaCache(threshold=1e6), TaylorSeer(interval=100, first=1)):
        steps = []
        with counted(transformer) as work:
            out = sample(transformer, given, noise, ["condition_cache", skipping, spot(left_half())], GUIDED, steps=20,
                         callback=lambda step, *_, s=steps, w=work: s.append(len(w.tokens)))  # fmt: skip
        ran = {s for s in range(20) if steps[s] > (steps[s - 1] if s else 0)}
        assert ran == {0, 1, 2, 3, 4, 10, 11, 16, 17, 19}  # initial 4, resets 10 and 16, the step after each, the last
        assert torch.equal(out[0][..., :6], given.frames[0][..., :6])
        assert set(work.tokens[3:6]) == {24} and 12 in work.tokens


def test_a_full_step_forgets_what_skipping_kept():
    transformer, (given, noise) = model(), inputs(1)
    call = Call(transformer, given, 10, ((8, 12),))
    plugins = [SpotEdit(tau=0, **INIT), TaylorSeer(interval=1, order=9)]  # keeps none, so the tokens never change
    accelerator, points = StepScheduler(call, plugins), []
    for step in range(10):
        t = torch.tensor([1 - step / 10])
        velocities = accelerator.velocities(step, t, noise, [FULL])
        accelerator.guided(float(t), noise, velocities[FULL])
        points.append(len(accelerator._branches[FULL.name].skipping.forecast))
    assert points == [1, 1, 2, 3, 4, 1, 2, 3, 1, 2]


def test_a_full_step_computes_all_whatever_the_condition_cache_has():
    transformer, (given, noise) = model(), inputs(1)
    with counted(transformer) as work:
        sample(transformer, given, noise, [ConditionCache(refresh=10), spot(left_half())])
    assert [step for step, tokens in enumerate(work.tokens) if tokens == TEXT + 24 + 24] == [0, 1, 5, 8]


def test_diffusers_caches_are_not_mixed_in():
    transformer, (given, noise) = model(), inputs(1)
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ValueError, match="disable_cache"):
        sample(transformer, given, noise, "teacache")
    transformer.disable_cache()
    sample(transformer, given, noise, "teacache", steps=2)


def test_guidance_interval_restarts_a_branch():
    """A branch that was not computed at the last full step has no stored keys that may be used."""
    transformer, (given, noise) = model(), inputs(1)
    with counted(transformer) as work:
        sample(transformer, given, noise, spot(left_half()), Guidance(3.0, 1.0, (0.4, 0.6)))
    full, partial = TEXT + 48, TEXT + 12
    start, end = [full, full, partial, partial], [partial, partial, full, partial]
    assert work.tokens == [*start, partial, full, full, full, *end]  # steps 4 and 5 have two branches


def test_teacache_reuses_whole_steps_on_the_model():
    transformer, (given, noise) = model(), inputs(1)
    with counted(transformer) as work:
        sample(transformer, given, noise, TeaCache(threshold=1e6), GUIDED)
    assert len(work.tokens) == 3 + 1  # first step in three branches, last step in one


def test_recorder_and_fit():
    transformer, (given, noise) = model(), inputs(1)
    recorder = Recorder()
    plain = sample(transformer, given, noise, guidance=GUIDED)
    assert equal(plain, sample(transformer, given, noise, recorder, GUIDED))
    assert len(recorder.pairs) == 9 + 2 * 7
    x = np.linspace(0, 1, 20)
    polynomial, explained = fit(np.stack([x, 3 * x**2 + 1], axis=1), 2)
    np.testing.assert_allclose(polynomial, (3, 0, 1), atol=1e-9)
    assert explained == pytest.approx(1)
    with pytest.raises(ValueError, match="take more samples"):
        fit(np.zeros((2, 2)), 4)


def test_names_and_settings():
    cache, tea = accelerations(["condition_cache", "teacache:threshold=0.2:polynomial=(1, 2, 3)"])
    assert cache == ConditionCache() and tea == TeaCache(threshold=0.2, polynomial=(1, 2, 3))
    assert accelerations("spotedit:judge=cosine:tau=two-means")[0].tau == "two-means"
    for text, message in (
        ("spotedt", "did you mean 'spotedit'"),
        ("spotedit:fusoin=cache", "did you mean 'fusion'"),
        ("spotedit:fusion=cos", "did you mean 'cos2'"),
        ("spotedit:judge=cosin", "did you mean 'cosine'"),
        ("spotedit:tau=-1", "at least 0"),
        ("spotedit:initial=2", "from 0 to 1"),
        ("spotedit:dilation=0.5", "number of tokens"),
        ("spotedit:paste=false", "paste must be True or False"),
        ("spotedit:every_step=1", "every_step must be True or False"),
        ("spotedit:fusion=5", "unknown fusion of spotedit '5'"),
        ("spotedit:judge=5", "unknown judge of spotedit '5'"),
        ("spotedit:tau", "NAME=VALUE"),
        ("teacache:threshold=-1", "at least 0"),
        ("teacache:threshold=nan", "at least 0"),
        ("teacache:polynomial=()", "polynomial"),
        ("teacache:polynomial=/dev/zero", "no such file"),
        ("teacache:polynomial=5", "polynomial must be numbers"),
        ("teacache:polynomial=(1,'a')", "polynomial must be numbers"),
        ("teacache:first=0", "at least 1"),
        ("teacache:last=end", "last must be a whole number of steps"),
        ("teacache:order=0.5", "order must be a whole number"),
        ("taylorseer:interval=0", "at least 1"),
        ("condition_cache:refresh=0", "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            accelerations(text)
    transformer, (given, noise) = model(), inputs(1)
    for plugins, message in ((["teacache", "taylorseer"], "both skip"), (["spotedit", "spotedit"], "2 times")):
        with pytest.raises(ValueError, match=message):
            sample(transformer, given, noise, plugins)
    with pytest.raises(ValueError, match="needs a VAE"):
        sample(transformer, given, noise, "spotedit:judge=decoder")
    with pytest.raises(ValueError, match="tau that is a number"):
        SpotEdit(judge=lambda *_: None)
    for chosen in (None, SpotEdit, [3], {"spotedit": {}}):
        with pytest.raises(ValueError, match="plug-ins or names of them"):
            accelerations(chosen)
    with pytest.raises(ValueError, match="several names in one; give a list"):
        accelerations("spotedit, teacache:polynomial=(1, 2)")


def vaes():
    torch.manual_seed(0)
    dc = AutoencoderDC(
        latent_channels=CHANNELS, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 16, 16), decoder_block_out_channels=(8, 16, 16),
        encoder_layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()), decoder_qkv_multiscales=((), (), ()), scaling_factor=1.0,
    )  # fmt: skip
    kl = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), latent_channels=CHANNELS, norm_num_groups=4,
    )  # fmt: skip
    video = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2, up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(8, 8), latent_channels=CHANNELS, layers_per_block=1, norm_num_groups=4,
        temporal_compression_ratio=1,
    )  # fmt: skip
    return {"dc": dc, "kl": kl, "video": video}


@pytest.mark.parametrize("kind", ["dc", "kl", "video"])
def test_decoder_judge(kind):
    vae = vaes()[kind].eval()
    codec = FrameCodec(vae, PATCH)
    canvas = torch.randn(2, CHANNELS, 12, 8)
    result = canvas.clone()
    result[1, :, :2, :2] = torch.randn(CHANNELS, 2, 2) * 3
    assert len(decoder_features(codec, canvas)) == 3
    assert not any(module._forward_hooks for module in vae.modules())
    scores = DecoderJudge(codec, PATCH)(result, canvas)
    assert scores.shape == (2, 6, 4) and scores[1].argmax() == 0 and scores[1, 0, 0] > 0.01
    assert scores[0].max() < 1e-5 and scores.min() >= 0 and scores.max() <= 4
    vae.use_tiling = True
    with pytest.raises(ValueError, match="tiling"):
        decoder_features(codec, canvas)


@torch.no_grad()
def test_a_decoder_that_is_compiled_is_judged_by_as_well():
    """What is compiled does not see hooks that come later."""
    vae, latent = vaes()["kl"].eval(), torch.randn(1, CHANNELS, 8, 8)
    codec = FrameCodec(vae, PATCH)
    expected, decoded = decoder_features(codec, latent), codec.decode(latent, (8, 8))
    vae.decoder = torch.compile(vae.decoder, backend="eager")
    for _ in range(2):
        assert torch.equal(codec.decode(latent, (8, 8)), decoded)
        found = decoder_features(codec, latent)
        assert len(found) == 3 and all(map(torch.equal, found, expected))


def test_spotedit_with_a_vae_uses_the_decoder():
    transformer, (given, noise) = model(kind="sample"), inputs(1)
    codec = FrameCodec(vaes()["dc"].eval(), PATCH)
    plain = sample(transformer, given, noise)
    assert equal(plain, sample(transformer, given, noise, SpotEdit(tau=0), codec=codec))
    plugin = SpotEdit(tau=5.0)
    assert torch.equal(sample(transformer, given, noise, plugin, codec=codec)[0], given.frames[0])
    assert not plugin.mask.any()


def test_token_judges_and_two_means():
    canvas = torch.randn(1, CHANNELS, 8, 12)
    result = canvas.clone()
    result[..., 6:] = torch.randn(1, CHANNELS, 8, 6)
    for judge in (cosine_judge(PATCH), l2_judge(PATCH)):
        scores = judge(result, canvas)
        assert scores.shape == (1, 4, 6)
        assert torch.equal(scores[0] < 1e-3, left_half())
        kept = scores[0] < two_means(scores.flatten(1))
        assert kept[:, :3].all()
    assert two_means(torch.tensor([[0.0, 5.0, 0.1, 5.2]]))[0, 0] == pytest.approx(2.55)
    active = torch.zeros(1, 5, 5, dtype=torch.bool)
    active[0, 2, 2] = True
    assert grow(active, 0).sum() == 1 and grow(active, 1).sum() == 9


def test_judges_see_each_sample_of_a_batch_alone():
    canvas = torch.randn(3, CHANNELS, 8, 12) * torch.tensor([0.1, 1.0, 10.0]).view(3, 1, 1, 1)
    result = canvas + 0.1 * torch.randn(3, CHANNELS, 8, 12)
    for judge in (cosine_judge(PATCH), l2_judge(PATCH)):
        scores = judge(result, canvas)
        alone = torch.cat([judge(result[i : i + 1], canvas[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(scores, alone)
        thresholds = torch.cat([two_means(one[None].flatten(1)) for one in scores])
        torch.testing.assert_close(two_means(scores.flatten(1)), thresholds)


def test_a_small_region_is_grown_by_default():
    """Of 4 x 6 tokens, the first sample changes one and the second half of them, the third none."""
    given, _ = inputs(1, batch=3)
    changed = given.frames[0].clone()
    changed[0, :, 2:4, 4:6] += 9
    changed[1, :, :, 6:] += 9

    def masks(**settings):
        plugin = SpotEdit(tau=0.5, **settings)
        choice = plugin.tokens(FrameLayout(given.frames, given.roles, ((8, 12),), 10, PATCH))
        choice.plan(0, 1.0, Plan())
        choice.clean = changed
        choice.plan(9, 0.1, Plan())
        return plugin.mask

    grown, exact = masks(judge="l2"), masks(judge="l2", dilation=0)
    assert exact.sum(axis=(1, 2)).tolist() == [1, 12, 0] and exact[0, 1, 2]
    assert grown.sum(axis=(1, 2)).tolist() == [9, 12, 0] and grown[0, :3, 1:4].all()
    own = l2_judge(PATCH)
    assert np.array_equal(masks(judge=own), exact) and masks(judge=own, dilation=1)[1].sum() == 16


def test_spotedit_on_the_debug_size():
    parts, _ = load_parts("debug")
    canvas = torch.rand(1, 3, 32, 48) * 2 - 1
    text = parts.text(["make it blue"])
    given = Conditions(text, parts.text([""]), [canvas], torch.tensor([[Role.CANVAS.index]]))
    noise = [torch.randn(1, 3, 32, 48)]
    plugin = SpotEdit(tau=100.0)
    out = sample(parts.transformer, given, noise, ["condition_cache", plugin, "teacache"], codec=parts.codec)
    assert torch.equal(out[0], canvas) and plugin.mask.shape == (1, 4, 6)


@pytest.mark.parametrize("output_type", ["pil", "np"])
def test_pipeline_shows_and_pastes_what_spotedit_kept(tiny_pipeline, output_type):
    canvas = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)  # tokens of 8 x 8 pixels: 3 x 4
    kept = torch.zeros(3, 4, dtype=torch.bool)
    kept[:, :2] = True
    call = {"task": "edit", "canvas": canvas, "num_inference_steps": 10, "output_type": output_type}

    def run(plugin, **others):
        generator = torch.Generator().manual_seed(0)
        return tiny_pipeline("make it red", accelerate=plugin, generator=generator, **(call | others))

    out = run(spot(kept, paste=True), num_results=2)
    mask, image = np.asarray(out.edited[1]), np.asarray(out.images[1])
    assert len(out.edited) == 2 and mask.shape == (21, 30, 3)
    assert not mask[:, :16].any() and (mask[:, 16:] == 255).all()
    assert np.array_equal(image[:, :16], canvas[:, :16])
    assert not np.array_equal(image[:, 18:], canvas[:, 18:])
    assert run([]).edited is None
    everywhere = run("spotedit:paste=True", task="t2i", canvas=None, size=(16, 24))  # has no canvas to keep
    assert (np.asarray(everywhere.edited[0]) == 255).all() and np.asarray(everywhere.edited[0]).shape == (16, 24, 3)


@pytest.mark.parametrize("last", [4, 5])  # a partial step, and the full one after it
def test_an_interrupted_call_shows_and_pastes_what_was_kept(tiny_pipeline, last):
    canvas = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    kept = torch.zeros(2, 3, dtype=torch.bool)
    kept[:, 0] = True

    def stop(pipe, step, t, latents):
        pipe.interrupt = step == last

    call = {"canvas": canvas, "num_inference_steps": 10, "output_type": "np", "callback_on_step_end": stop}
    out = tiny_pipeline("red", accelerate=spot(kept, paste=True), **call)
    assert not out.edited[0][:, :8].any() and (out.edited[0][:, 8:] == 255).all()
    assert np.array_equal(out.images[0][:, :8], canvas[:, :8])


def test_infer_writes_the_mask(infer, picture):
    outcome = infer(*"edit --prompt x --output out.png --steps 4 --accelerate spotedit:tau=100 --spot-mask".split(),
                    "seen/mask.png", "--canvas", picture("in.png", (24, 16)))  # fmt: skip
    assert outcome.status == 0 and outcome.out.split() == ["out.png", "seen/mask.png"]
    mask = np.asarray(Image.open("seen/mask.png"))
    assert mask.shape == (16, 24, 3) and mask.max() == 0
    assert np.array_equal(np.asarray(Image.open("out.png")), np.asarray(Image.open("in.png")))


def test_the_empty_prompt_is_encoded_only_for_guidance(tiny_pipeline, monkeypatch):
    prompts = []
    tokenizer = type(tiny_pipeline.tokenizer)
    original = tokenizer.__call__
    monkeypatch.setattr(
        tokenizer, "__call__", lambda self, text, *a, **k: prompts.append(text) or original(self, text, *a, **k)
    )
    call = {"task": "t2i", "size": (16, 16), "num_inference_steps": 4}

    def encoded(**guidance):
        prompts.clear()
        tiny_pipeline("a red circle", **call, **guidance)
        return [""] in prompts

    assert not encoded() and not encoded(image_guidance_scale=2.0)  # without input frames image guidance does nothing
    assert encoded(guidance_scale=2.0) and not encoded(guidance_scale=2.0, guidance_interval=(0.9, 0.95))


def test_fitting_writes_a_file_that_teacache_reads(tmp_path, capsys, monkeypatch):
    file, seeds = tmp_path / "teacache.json", []
    monkeypatch.setattr(fit_teacache, "world_sample", lambda *a: seeds.append(a[1]) or world_sample(*a))
    assert fit_main(f"--model debug --samples 1 --steps 6 --size 16 --recipes recolor --output {file}".split()) == 0
    assert len(seeds) == 1 and seeds[0] >= TEST_SEEDS  # held out
    report = json.loads(file.read_text())
    plugin = accelerations(f"teacache:polynomial={file}")[0]
    assert plugin.polynomial == tuple(report["polynomial"]) and len(plugin.polynomial) == 5
    capsys.readouterr()
    assert fit_main(["--model", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: model")
    assert fit_main(["--device", "gpu"]) == 2
    assert capsys.readouterr().err.startswith("error: device 'gpu' cannot be used here")
    with pytest.raises(SystemExit, match="2"):
        fit_main(["--steps", "0"])
    assert "--steps: '0' is not a whole number of at least 1" in capsys.readouterr().err
    few = "--model debug --samples 1 --steps 3 --degree 1 --size 16 --recipes recolor --output".split()
    assert fit_main([*few, str(tmp_path / "new" / "teacache.json")]) == 0 and (tmp_path / "new/teacache.json").exists()
    capsys.readouterr()
    for output in (tmp_path, file / "under.json"):  # said before the model samples
        assert fit_main([*few, str(output)]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("error:") and err.count("\n") == 1
    with pytest.raises(ValueError, match="fit_teacache"):
        accelerations(f"teacache:polynomial={tmp_path / 'none.json'}")


def test_models_are_fitted_and_measured_at_the_times_that_they_are_used_at(tiny_pipeline, tmp_path, monkeypatch):
    """Those of their own scheduler, which the shipped model has shifted toward noise."""
    UniRealPipeline.from_components(tiny_pipeline.as_components(), shift=6.0).save_pretrained(tmp_path / "model")
    times = []

    def seen(transformer, scheduler, *arguments, **how):
        out = denoise(transformer, scheduler, *arguments, **how)
        times.append(scheduler.timesteps.tolist())
        return out

    for module in (fit_teacache, benchmarks.acceleration):
        monkeypatch.setattr(module, "denoise", seen)
    call = f"--model {tmp_path / 'model'} --steps 3"
    assert fit_main([*call.split(), *"--samples 1 --degree 1 --size 16 --recipes recolor".split()]) == 0
    assert benchmark([*call.split(), *"--sizes 16 --areas 0.1 --limit 1 --accelerate condition_cache".split()]) == 0
    assert len(times) == 5 and all(t == pytest.approx([1000, 12000 / 13, 750]) for t in times)


@pytest.mark.parametrize("attention", ["full", "isolated"])
def test_what_does_not_change_is_embedded_once(attention):
    """A sequence that takes text and inputs over equals one that is packed anew, bit for bit."""
    transformer, (given, noise) = model(attention, position="both"), inputs(3, batch=2, num_results=2)
    first = transformer.pack(noise, torch.tensor([1.0, 1.0]), *given.arguments(FULL))
    later, t = [x + 1 for x in noise], torch.tensor([0.3, 0.3])
    anew, known = (transformer.pack(later, t, *given.arguments(FULL), known=k) for k in (None, first))
    assert torch.equal(anew.tokens, known.tokens) and torch.equal(anew.temb, known.temb)
    assert anew.segments == known.segments and torch.equal(anew.keys, known.keys)
    assert all(torch.equal(a, b) for a, b in zip(anew.rotary, known.rotary, strict=True))
    projected = []
    hook = transformer.patch_embed.text_proj.register_forward_hook(lambda *_: projected.append(1))
    sample(transformer, given, noise, "condition_cache:refresh=1")
    hook.remove()
    assert len(projected) == 1


def test_a_call_embeds_its_inputs_once(monkeypatch):
    """Text, input frames, their positions and the pooled text: with every plug-in, and each result in every step."""
    transformer, (given, noise) = model("isolated", position="both", pooled=True), inputs(3, num_results=2)
    places, work = [], {"frames": 0, "text": 0, "pooled": 0}
    original = unireal.model.transformer.frame_positions
    monkeypatch.setattr(
        unireal.model.transformer, "frame_positions", lambda *given: places.append(1) or original(*given)
    )

    def counts(name):
        return lambda *_: work.update({name: work[name] + 1})

    parts = {"frames": transformer.patch_embed.proj, "text": transformer.patch_embed.text_proj,
             "pooled": transformer.text_pooling}  # fmt: skip
    for name, part in parts.items():
        part.register_forward_hook(counts(name))
    sample(transformer, given, noise, ["condition_cache", spot(left_half()), TeaCache(threshold=0.5)])
    assert work == {"frames": 3 + 10 * 2, "text": 1, "pooled": 1} and len(places) == 1


def test_isolated_text_and_inputs_are_computed_once_after_the_first_choice():
    """From then on nothing can change them; before, all is as without plug-in, bit for bit."""
    transformer, (given, noise) = model("isolated"), inputs(1)
    with counted(transformer) as work:
        out = sample(transformer, given, noise, spot(torch.zeros(4, 6, dtype=torch.bool)))  # keeps none
    assert set(work.tokens) == {TEXT + 48} and equal(out, sample(transformer, given, noise))
    with counted(transformer) as work:
        sample(transformer, given, noise, spot(left_half(), last=0.2))
    assert work.tokens == [TEXT + 48] * 2 + [12] * 3 + [24] + [12] * 2 + [24] * 2
    apart = sample(transformer, given, noise, spot(left_half(), last=0.2))
    together = sample(transformer, given, noise, [spot(left_half(), last=0.2), "condition_cache"])
    assert (apart[0] - together[0]).abs().max() < 1e-5 * apart[0].abs().max()


def test_isolated_attention_needs_fewer_full_steps():
    plugin = SpotEdit()
    assert plugin.full_steps(28, False) == {0, 1, 2, 8, 13, 18, 23}
    assert plugin.full_steps(28, True) == {0, 1, 10, 18, 26}
    assert SpotEdit(initial=0.1, reset=0.4).full_steps(10, True) == {0, 5}  # not 9, as nothing comes after it
    assert SpotEdit(initial=0.1, reset=0.18).full_steps(28, True) == plugin.full_steps(28, False)
    for attention, full in (("full", 7), ("isolated", 5)):
        transformer, (given, noise) = model(attention), inputs(1)
        with counted(transformer) as work:
            sample(transformer, given, noise, SpotEdit(judge=keeping(left_half()), tau=0.5), steps=28)
        assert len([n for n in work.tokens if n >= 24]) == full


def test_live_memory_counts_what_is_alive_at_once():
    x = torch.ones(1000)
    with LiveMemory() as memory:
        a = x * 2
        b = a + 1
        assert memory.now == 8000
        del a
        part = b.view(10, 100)[0]
        b.add_(1)
        assert memory.now == 4000
        del b
        assert memory.now == 4000  # a view holds it
        del part
    assert memory.now == 0 and memory.peak == 8000


def test_the_benchmark_writes_table_chart_and_numbers(tmp_path, capsys):
    output = tmp_path / "runs" / "acceleration"
    command = f"--model debug --steps 6 --sizes 16 32 --areas 0.1 0.4 --limit 1 --output {output}"
    assert benchmark([*command.split(), "--accelerate", "condition_cache", "spotedit+teacache:threshold=0.5"]) == 0
    report = json.loads(output.with_suffix(".json").read_text())
    assert len(report["rows"]) == 2 * 2 * 3 and len(report["samples"]) == 12
    plain, cached, combined = report["rows"][6:9]
    assert plain["tokens"] == 1 and cached["tokens"] < 1 and combined["tokens"] < 1
    assert plain["PSNR to plain"] is None and plain["SSIM to plain"] == pytest.approx(1)
    assert all(row["memory MiB"] > 0 for row in report["rows"]) and cached["memory MiB"] > plain["memory MiB"]
    assert all(abs(s["area"] - s["wanted_area"]) < 0.1 for s in report["samples"] if s["size"] == 32)
    table = output.with_suffix(".md").read_text()
    assert table.startswith("| pixels |") and "spotedit+teacache:threshold=0.5" in table
    chart = ElementTree.parse(output.with_suffix(".svg")).getroot()
    assert len(chart.findall(".//{*}polyline")) == 2
    capsys.readouterr()
    assert benchmark(["--accelerate", "spotedt"]) == 2
    assert "did you mean 'spotedit'" in capsys.readouterr().err
    for wrong in (["--limit", "0"], ["--areas", "1.5"], ["--steps", "0"], ["--extra-inputs", "-1"]):
        with pytest.raises(SystemExit, match="2"):
            benchmark(wrong)
        assert capsys.readouterr().err.startswith("error:")
    small = "--model debug --steps 2 --sizes 16 --areas 0.1 --limit 1 --accelerate condition_cache".split()
    for wrong in (["--sizes", "4"], ["--guidance", "nan"], ["--output", f"{output}.json/x"], ["--device", "gpu"]):
        assert benchmark([*small, *wrong]) == 2 and "error: " in capsys.readouterr().err
    for share in ("0.1", "0.2"):  # the dot belongs to the name
        assert (
            benchmark([*small, "--output", f"{output}{share}"]) == 0
            and output.with_name(f"{output.name}{share}.svg").exists()
        )
