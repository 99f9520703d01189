"""SpotEdit on diffusers' own editing pipelines: tiny random ones, of the real classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    T5Config,
    T5EncoderModel,
)

from unireal.acceleration import ConditionCache, SpotEdit, TeaCache
from unireal.acceleration.measure import LiveMemory
from unireal.acceleration.public import accelerated
from unireal.model.build import word_tokenizer
from unireal.public import PUBLIC_MODELS

FACTOR, GRID = 32, 16  # the autoencoders' factor; the pipelines work at 1024 x 1024, so 16 x 16 tokens
STEPS = 10
INIT = {"initial": 0.2, "reset": 0.3}  # of 10 steps: 0, 1, 5 and 8 are full


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)


def clip_tokenizer() -> CLIPTokenizer:
    letters = [chr(c) for c in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=16)


def flux() -> FluxKontextPipeline:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    clip = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    t5 = word_tokenizer(["make", "it", "green"])
    return FluxKontextPipeline(
        scheduler=scheduler(),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 6, up_block_types=("UpDecoderBlock2D",) * 6,
            block_out_channels=(4,) * 6, layers_per_block=1, latent_channels=4, norm_num_groups=2,
            use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.5,
        ).eval(),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), projection_dim=16, **clip)).eval(),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(t5), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ).eval(),
        tokenizer_2=t5,
        transformer=FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
        ).eval(),
    )  # fmt: skip


def qwen_processor() -> Qwen2VLProcessor:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    letters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]  # byte-level
    vocab = {w: i for i, w in enumerate([*special, *letters])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=special[1:])
    sizes = {"patch_size": 14, "merge_size": 2, "size": {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}}
    return Qwen2VLProcessor(Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes))


def qwen(kind: type = QwenImageEditPipeline, **transformer) -> QwenImageEditPipeline:
    torch.manual_seed(0)
    processor = qwen_processor()
    ids = {f"{name}_token_id": processor.tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in
           (("image", "image_pad"), ("vision_start", "vision_start"), ("vision_end", "vision_end"))}  # fmt: skip
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": len(processor.tokenizer), "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
              "fullatt_block_indexes": [0]}  # fmt: skip
    return kind(
        scheduler=scheduler(),
        vae=AutoencoderKLQwenImage(
            base_dim=4, z_dim=4, dim_mult=[1] * 6, num_res_blocks=1, temperal_downsample=[False] * 5,
            latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0],
        ).eval(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        ).eval(),
        tokenizer=processor.tokenizer,
        processor=processor,
        transformer=QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=16, axes_dims_rope=(4, 4, 8), **transformer,
        ).eval(),
    )  # fmt: skip


CFG = {"true_cfg_scale": 3.0, "negative_prompt": "it"}


@pytest.fixture(scope="module", autouse=True)
def small_qwen():
    """Qwen's pipelines always work at a megapixel, at which their video autoencoder takes seconds: here it is less."""

    def dimensions(area: int, ratio: float):
        width = round((256 * 256 * ratio) ** 0.5 / 32) * 32
        return width, round(width / ratio / 32) * 32, None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.pipelines.qwenimage.pipeline_qwenimage_edit.calculate_dimensions", dimensions)
        two = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus.calculate_dimensions"
        patch.setattr(two, lambda area, ratio: dimensions(area, ratio)[:2])
        yield


@pytest.fixture(scope="module")
def pipelines():
    made = {"flux": flux(), "qwen": qwen(), "plus": qwen(QwenImageEditPlusPipeline, zero_cond_t=True)}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return made


CANVAS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
KINDS = {"flux": {}, "flux guided": CFG, "qwen": CFG, "plus": CFG}


def run(pipeline, kind="flux", canvas=CANVAS, steps=STEPS, count=1, **arguments):
    """The result's tokens (B, N, 4 C)."""
    return pipeline(
        image=canvas, prompt="make it green", num_inference_steps=steps, num_images_per_prompt=count,
        generator=torch.Generator().manual_seed(0), output_type="latent", **KINDS[kind], **arguments
    ).images  # fmt: skip


def as_frame(tokens: torch.Tensor) -> torch.Tensor:
    """(B, N, 4 C) to (B, C, h, w)."""
    grid = int(tokens.shape[1] ** 0.5)
    return torch.nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (grid, grid)), 2)


@contextmanager
def counted(pipeline) -> Iterator[list[int]]:
    """Image tokens of every pass through the first block."""
    tokens: list[int] = []
    hook = pipeline.transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda block, args, arguments: tokens.append(arguments["hidden_states"].shape[1]), with_kwargs=True
    )
    try:
        yield tokens
    finally:
        hook.remove()


def left(share: float = 0.5, grid: int = 16):
    """SpotEdit that keeps the left part; `seen` gets the canvas's latents."""
    kept = torch.zeros(grid, grid)
    kept[:, : int(grid * share)] = 1
    seen = []

    def judge(clean, canvas):
        seen.append(canvas)
        return 1 - kept.expand(len(clean), grid, grid)

    return judge, seen


def grid_of(kind: str) -> int:
    return 16 if kind.startswith("flux") else 4


@pytest.mark.parametrize("kind", KINDS)
def test_neutral_settings_equal_the_plain_pipeline_bit_for_bit(pipelines, kind):
    pipeline = pipelines[kind.split()[0]]
    plain = run(pipeline, kind, steps=4)
    with accelerated(pipeline, ()):
        assert torch.equal(run(pipeline, kind, steps=4), plain)
    for plugin in (SpotEdit(tau=0), SpotEdit(tau=0, fusion="cos2"), ConditionCache(refresh=1)):
        with accelerated(pipeline, plugin):
            assert torch.equal(run(pipeline, kind, steps=4), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_partial_steps_compute_the_active_tokens_and_the_rest_becomes_the_canvas(pipelines, kind):
    pipeline, grid = pipelines[kind.split()[0]], grid_of(kind)
    judge, seen = left(grid=grid)
    spot = SpotEdit(judge=judge, tau=0.5, **INIT)
    with counted(pipeline) as tokens, accelerated(pipeline, spot):
        out = as_frame(run(pipeline, kind))
    full, half = 2 * grid**2, grid**2 // 2  # result and canvas; half of the result
    steps = [full, full, half, half, half, full, half, half, full, half]
    branches = 2 if KINDS[kind] else 1
    assert tokens == [count for count in steps for _ in range(branches)]
    middle = grid  # latent pixels: two to a token
    assert torch.equal(out[..., :middle], seen[0][..., :middle].to(out.dtype))
    assert torch.isfinite(out).all() and not torch.equal(out[..., middle:], seen[0][..., middle:])
    assert spot.mask.shape == (1, grid, grid) and (spot.mask == (np.arange(grid) >= grid // 2)).all()


def test_a_full_step_computes_all_whatever_the_condition_cache_has(pipelines):
    spot = SpotEdit(judge=left()[0], tau=0.5, **INIT)
    with counted(pipelines["flux"]) as tokens, accelerated(pipelines["flux"], [ConditionCache(refresh=10), spot]):
        run(pipelines["flux"])
    assert [step for step, count in enumerate(tokens) if count == 2 * 16**2] == [0, 1, 5, 8]


def test_a_partial_pass_equals_a_full_one_when_nothing_has_changed(pipelines):
    """The same latents at the same time: stored keys are those that would be computed."""
    for name in ("flux", "qwen", "plus"):
        pipeline, passes = pipelines[name], []
        original = pipeline.transformer.forward
        judge, _ = left(grid=grid_of(name))
        spot = SpotEdit(judge=judge, tau=0.5, initial=0.1, reset=0)
        with accelerated(pipeline, spot):
            intercepted = pipeline.transformer.forward

            def keep(passes=passes, intercepted=intercepted, **arguments):
                passes.append(arguments)
                return intercepted(**(passes[0] if len(passes) == 2 else arguments))

            results = []
            pipeline.transformer.forward = lambda keep=keep, results=results, **a: (
                results.append(keep(**a)) or results[-1]
            )
            run(pipeline, "flux", steps=10)
            pipeline.transformer.forward = intercepted
        assert pipeline.transformer.forward == original
        grid = grid_of(name)
        rows = (torch.arange(grid * grid) % grid) >= grid // 2
        full, partial = results[0][0][:, : grid * grid], results[1][0][:, : grid * grid]
        torch.testing.assert_close(partial[:, rows], full[:, rows], atol=1e-5, rtol=1e-4)
        assert (partial[:, ~rows] == 0).all()


def test_fusions_differ(pipelines):
    outs = {}
    for fusion in ("cache", "reference", "cos2", "cos2_recursive"):
        judge, _ = left()
        with accelerated(pipelines["flux"], SpotEdit(judge=judge, tau=0.5, fusion=fusion, **INIT)):
            outs[fusion] = run(pipelines["flux"])
        assert torch.isfinite(outs[fusion]).all()
    names = list(outs)
    assert all(not torch.equal(outs[a], outs[b]) for i, a in enumerate(names) for b in names[:i])


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_the_decoder_judges_by_default(pipelines, name):
    """Above the highest score all is kept: the canvas comes back, and blocks run in full steps only."""
    pipeline, spot = pipelines[name], SpotEdit(tau=4.1, **INIT)
    judge, seen = left(grid=grid_of(name))
    with accelerated(pipeline, SpotEdit(judge=judge, tau=0.5)):
        run(pipeline, name, steps=4)
    with counted(pipeline) as tokens, accelerated(pipeline, spot):
        out = as_frame(run(pipeline, name))
    assert torch.equal(out, seen[0].to(out.dtype)) and not spot.mask.any()
    assert len(tokens) == (4 if name == "flux" else 8)
    partly = SpotEdit(tau=0.2)
    with accelerated(pipeline, partly):
        run(pipeline, name)
    assert partly.mask.shape == spot.mask.shape


def test_several_calls_batches_and_half_precision(pipelines):
    pipeline = pipelines["flux"]
    judge, seen = left()
    spot = SpotEdit(judge=judge, tau=0.5, **INIT)
    with accelerated(pipeline, spot):
        two, again = run(pipeline, count=2), run(pipeline, count=2)
    assert torch.equal(two, again) and spot.mask.shape == (2, 16, 16)
    assert not torch.equal(two[0], two[1])
    half = flux().to(torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    with accelerated(half, spot):
        out = as_frame(run(half))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out[..., :16].float(), seen[-1][..., :16])


def test_stored_keys_are_gone_when_the_result_is_decoded(pipelines, monkeypatch):
    pipeline, decode, alive = pipelines["flux"], pipelines["flux"].vae.decode, []
    for plugins in ((), SpotEdit(judge=left()[0], tau=0.5, **INIT)):
        with LiveMemory() as memory, accelerated(pipeline, plugins):
            note = lambda *z, memory=memory, **given: alive.append(memory.now) or decode(*z, **given)  # noqa: E731
            monkeypatch.setattr(pipeline.vae, "decode", note)
            pipeline(image=CANVAS, prompt="make it green", num_inference_steps=3, output_type="np")
    stored = 3 * 2 * 2 * 16**2 * 32 * 4  # keys and values of image tokens in three blocks
    assert len(alive) == 2 and alive[1] - alive[0] < stored / 4


def test_without_a_canvas_of_the_results_size_nothing_is_saved(pipelines):
    pipeline, spot = pipelines["flux"], SpotEdit(tau=10)
    wide = {"width": 1024, "height": 512, "max_area": 1024 * 512}
    plain = run(pipeline, **wide)
    with accelerated(pipeline, spot):
        assert torch.equal(run(pipeline, **wide), plain)
    assert spot.mask is None and spot.regions(1, (4, 6), 2)[0].all()


def test_condition_cache_keeps_the_canvas_keys(pipelines):
    pipeline = pipelines["flux"]
    with counted(pipeline) as tokens, accelerated(pipeline, ConditionCache(refresh=4)):
        run(pipeline)
    assert tokens == [512, 256, 256, 256, 512, 256, 256, 256, 512, 256]


@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_is_restored(pipelines, kind):
    pipeline = pipelines[kind.split()[0]]
    before, plain = state(pipeline), run(pipeline, kind, steps=3)

    def fails(pipe, step, t, given):
        if step == 1:
            raise RuntimeError("stop")
        return given

    judge, _ = left(grid=grid_of(kind))
    with pytest.raises(RuntimeError, match="stop"), accelerated(pipeline, SpotEdit(judge=judge, tau=0.5)):
        run(pipeline, kind, callback_on_step_end=fails)
    with accelerated(pipeline, SpotEdit()):
        assert state(pipeline) != before
    assert state(pipeline) == before
    assert torch.equal(run(pipeline, kind, steps=3), plain)
    with accelerated(pipeline, SpotEdit(judge=judge, tau=0.5, **INIT)):  # a call after a broken one, in one session
        with pytest.raises(RuntimeError, match="stop"):
            run(pipeline, kind, callback_on_step_end=fails)
        after = run(pipeline, kind)
    with accelerated(pipeline, SpotEdit(judge=judge, tau=0.5, **INIT)):
        assert torch.equal(run(pipeline, kind), after)
    assert state(pipeline) == before


def state(pipeline) -> tuple:
    transformer = pipeline.transformer
    own = sorted({*vars(transformer)} & {"forward"}), sorted({*vars(pipeline.scheduler)} & {"step", "set_timesteps"})
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in transformer.modules()]
    return own, hooks, list(map(id, transformer.attn_processors.values()))


def test_errors_say_what_to_do(pipelines):
    pipeline = pipelines["flux"]
    spot = SpotEdit()
    with pytest.raises(ValueError, match="'teacache' works on UniReal models only"), accelerated(pipeline, TeaCache()):
        pass
    with pytest.raises(ValueError, match="given 2 times"), accelerated(pipeline, [spot, spot]):
        pass
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ValueError, match="disable_cache"), accelerated(pipeline, spot):
        pass
    pipeline.transformer.disable_cache()
    changed = flux()
    changed.transformer.fuse_qkv_projections()
    with pytest.raises(ValueError, match="unfuse_qkv_projections"), accelerated(changed, spot):
        pass
    pipeline.vae.enable_tiling()
    with pytest.raises(ValueError, match="cosine"), accelerated(pipeline, spot):
        run(pipeline, canvas=torch.zeros(1, 4, 32, 32))  # latents
    pipeline.vae.disable_tiling()


def test_infer_edits_with_public_weights(infer, picture, kontext_folder):
    canvas = picture("in.png", (40, 24))
    command = ["edit", "--canvas", canvas, "--prompt", "make it green", "--steps", 3, "--json"]
    plain = infer(*command, "--output", "plain.png", model=kontext_folder)
    assert plain.status == 0, plain.err
    report = json.loads(plain.out.splitlines()[-1])
    assert report["files"] == ["plain.png"] and report["steps"] == 3
    command += ["--accelerate", "spotedit:tau=0", "--spot-mask", "mask.png"]
    neutral = infer(*command, "--output", "neutral.png", model=kontext_folder)
    assert json.loads(neutral.out.splitlines()[-1])["files"] == ["neutral.png", "mask.png"]
    one, other = (np.asarray(Image.open(name)) for name in ("plain.png", "neutral.png"))
    assert one.shape == (24, 40, 3) and np.array_equal(one, other)
    assert np.asarray(Image.open("mask.png")).min() == 255
    kept = infer("edit", "--canvas", canvas, "--prompt", "x", "--steps", 3, "--guidance", 2, "--num-results", 2,
                 "--accelerate", "spotedit:tau=4.1:paste=True", "--spot-mask", "mask.png", "--output", "kept.png",
                 model=kontext_folder)  # fmt: skip
    assert kept.status == 0 and kept.out.split() == ["kept_1.png", "kept_2.png", "mask_1.png", "mask_2.png"]
    assert np.array_equal(np.asarray(Image.open("kept_2.png")), np.asarray(Image.open(canvas)))
    assert np.asarray(Image.open("mask_1.png")).shape == (24, 40, 3) and np.asarray(Image.open("mask_1.png")).max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("edit --image-guidance 2", "takes no --image-guidance"),
        ("edit --negative-prompt blurry", "takes no --negative-prompt"),
        ("edit --context realistic style", "takes no --context"),
        ("edit --accelerate teacache", "needs a UniReal model"),
        ("depth", "is none of: edit"),
        ("insert --asset in.png", "is none of: edit"),
    ],
)
def test_infer_says_what_public_weights_do_not_take(infer, picture, kontext_folder, arguments, message):
    canvas = picture("in.png", (40, 24))
    words = arguments.replace("realistic style", "realistic_style").split()
    words = [word.replace("_style", " style") for word in words]
    outcome = infer(*words, "--canvas", canvas, "--prompt", "x", "--output", "out.png", model=kontext_folder)
    assert outcome.status == 2 and message in outcome.err and outcome.err.count("\n") == 1


def test_the_negative_prompt_goes_to_qwen():
    arguments = PUBLIC_MODELS["QwenImageEditPipeline"].arguments
    assert arguments(None, CANVAS, None, "blurry")["negative_prompt"] == "blurry"
    assert arguments(None, CANVAS, 3.0, None)["negative_prompt"] == " "  # guidance needs one
    with pytest.raises(ValueError, match="acts through guidance; give a scale above 1"):
        arguments(None, CANVAS, 1.0, "blurry")


def test_infer_refuses_other_pipelines(infer, picture, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    outcome = infer(
        "edit", "--canvas", picture("in.png"), "--prompt", "x", "--output", "o.png", model=tmp_path / "model"
    )
    assert outcome.status == 2 and "StableDiffusionPipeline" in outcome.err and "FluxKontextPipeline" in outcome.err


def test_the_mask_needs_spotedit(infer, picture):
    outcome = infer("edit", "--canvas", picture("in.png"), "--prompt", "x", "--output", "o.png", "--spot-mask", "m.png")
    assert outcome.status == 2 and "--accelerate spotedit" in outcome.err
