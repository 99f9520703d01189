"""The pipeline: round trips, batches, guidance, callbacks, every kind of autoencoder, number formats."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import debug_components, quiet_pipeline
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLCogVideoX, FirstBlockCacheConfig
from PIL import Image

from unireal.config import MODELS
from unireal.diffusion.guidance import FULL, NO_TEXT, NOTHING, Guidance, combine
from unireal.finishing import pasted
from unireal.model.vae import FrameCodec
from unireal.pipeline import UniRealPipeline
from unireal.request import Request
from unireal.sample import Role
from unireal.transforms import HOLE, mask_image, resize


def _image(size=(16, 24), seed=0) -> Image.Image:
    """A random picture of (height, width)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def _seed(number=0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def _edit(pipeline, prompt="Make the red circle blue.", **options):
    options = {"canvas": _image(), "generator": _seed(), "output_type": "np"} | options
    return pipeline(prompt, **options)


def test_round_trip(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path / "model", safe_serialization=True)
    assert not [f for f in (tmp_path / "model").rglob("*") if f.suffix in (".bin", ".pt", ".pkl")]
    again = UniRealPipeline.from_pretrained(tmp_path / "model")
    for name in ("native_size", "asset_scale", "default_steps", "default_guidance", "default_image_guidance"):
        assert again.config[name] == tiny_pipeline.config[name]
    assert (_edit(again).images[0] == _edit(tiny_pipeline).images[0]).all()


def test_a_batch_equals_single_runs(tiny_pipeline):
    prompts = ["red", "Make the red circle blue, and remove the red circle in the hole.", "IMG1"]
    batch = _edit(tiny_pipeline, prompts, generator=[_seed(i) for i in range(3)], guidance_scale=2.0)
    for i, prompt in enumerate(prompts):
        single = _edit(tiny_pipeline, prompt, generator=[_seed(i)], guidance_scale=2.0)
        assert np.abs(batch.images[i].astype(int) - single.images[0]).max() <= 1
    with pytest.raises(ValueError, match="2 generators were given for 3 samples"):
        _edit(tiny_pipeline, prompts, generator=[_seed(), _seed()])


def test_number_of_results(tiny_pipeline):
    variants = _edit(tiny_pipeline, num_results=3)
    assert len(variants.images) == 3 and [len(r) for r in variants.results] == [1, 1, 1]
    assert len({i.tobytes() for i in variants.images}) == 3
    joint = _edit(tiny_pipeline, "RES2", task="compose", num_results=2)
    assert [len(r) for r in joint.results] == [2] and (joint.images[0] == joint.results[0][0]).all()
    assert len(_edit(tiny_pipeline, ["red", "blue"], num_results=2).images) == 4
    as_tuple = _edit(tiny_pipeline, return_dict=False)
    assert isinstance(as_tuple, tuple) and as_tuple[0][0].shape == (16, 24, 3)


def test_callback_sees_and_replaces_latents(tiny_pipeline):
    seen = []

    def watch(pipe, step, t, values):
        seen.append((step, t, [x.shape for x in values["latents"]]))

    _edit(tiny_pipeline, num_inference_steps=4, callback_on_step_end=watch)
    assert [s[0] for s in seen] == [0, 1, 2, 3] and [s[1] for s in seen] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert seen[0][2] == [(1, 3, 16, 24)] and isinstance(tiny_pipeline, UniRealPipeline)

    def white(pipe, step, t, values):
        return {"latents": [torch.ones_like(x) for x in values["latents"]]} if step == 1 else None

    assert (_edit(tiny_pipeline, num_inference_steps=2, callback_on_step_end=white).images[0] == 255).all()


def _passes(pipeline, **options) -> int:
    count = Counter()
    hook = pipeline.transformer.register_forward_pre_hook(lambda *_: count.update(["pass"]))
    _edit(pipeline, num_inference_steps=4, **options)
    hook.remove()
    return count["pass"]


def test_passes_of_guidance(tiny_pipeline):
    assert _passes(tiny_pipeline) == 4
    assert _passes(tiny_pipeline, guidance_scale=3.0) == 8
    assert _passes(tiny_pipeline, image_guidance_scale=2.0, guidance_scale=2.0) == 8  # the middle branch cancels
    assert _passes(tiny_pipeline, image_guidance_scale=2.0, guidance_scale=3.0) == 12
    assert _passes(tiny_pipeline, guidance_scale=3.0, guidance_interval=(0.0, 0.5)) == 6
    assert _passes(tiny_pipeline, guidance_scale=3.0, task="t2i", canvas=None) == 8
    neutral = _edit(tiny_pipeline, guidance_scale=1.0, image_guidance_scale=1.0).images[0]
    assert (neutral == _edit(tiny_pipeline, guidance_scale=5.0, guidance_interval=(0.9, 0.95)).images[0]).all()
    assert (neutral != _edit(tiny_pipeline, guidance_scale=5.0).images[0]).any()


@pytest.mark.parametrize("image_guidance", [1.0, 2.0])
def test_a_negative_prompt_is_read_where_guidance_leaves_the_text_out(tiny_pipeline, image_guidance):
    how = {"guidance_scale": 3.0, "num_inference_steps": 2, "image_guidance_scale": image_guidance}
    plain = _edit(tiny_pipeline, **how).images[0]
    assert (_edit(tiny_pipeline, negative_prompt="", **how).images[0] == plain).all()
    assert (_edit(tiny_pipeline, negative_prompt="blue", **how).images[0] != plain).any()
    # led away from the prompt itself, nothing is left of the text's guidance
    same = {"prompt": "a red circle", "context": "", "task": "t2i", "canvas": None, "num_inference_steps": 2}
    guided = _edit(tiny_pipeline, negative_prompt="a red circle", guidance_scale=3.0, **same).images[0]
    assert np.abs(guided.astype(int) - _edit(tiny_pipeline, **same).images[0]).max() <= 1
    with pytest.raises(ValueError, match="negative prompt 'blue' acts through guidance, and this call has none"):
        _edit(tiny_pipeline, negative_prompt="blue")


def test_combine_is_the_written_formula():
    velocities = {b: [torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)] for b in (FULL, NO_TEXT, NOTHING)}
    weights = Guidance(text=3.0, image=1.7).weights(0, 4, has_images=True)
    for i, guided in enumerate(combine(velocities, weights)):
        full, images, nothing = (velocities[b][i] for b in (FULL, NO_TEXT, NOTHING))
        torch.testing.assert_close(guided, nothing + 1.7 * (images - nothing) + 3.0 * (full - images))
    weights = Guidance(text=3.0).weights(0, 4, has_images=False)
    full, nothing = velocities[FULL][0], velocities[NOTHING][0]
    torch.testing.assert_close(combine(velocities, weights)[0], nothing + 3.0 * (full - nothing))


@pytest.mark.parametrize(
    "options", [{"text": float("nan")}, {"image": float("inf")}, {"text": -1.0}, {"interval": (0.5, 0.1)}]
)
def test_bad_guidance(options):
    with pytest.raises(ValueError, match="guidance"):
        Guidance(**options)


def _vae(name: str):
    """A tiny autoencoder with random weights and 4 latent channels."""
    torch.manual_seed(0)
    if name == "AutoencoderKL":
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
        return AutoencoderKL(
            **blocks, block_out_channels=(8, 8), norm_num_groups=4, scaling_factor=0.7, shift_factor=0.2
        )
    if name == "AutoencoderKLCogVideoX":
        blocks = {"down_block_types": ["CogVideoXDownBlock3D"] * 4, "up_block_types": ["CogVideoXUpBlock3D"] * 4}
        return AutoencoderKLCogVideoX(
            **blocks, block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2
        )
    return AutoencoderDC(
        latent_channels=4,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        scaling_factor=0.5,
    )


FACTORS = {"AutoencoderKL": 2, "AutoencoderDC": 4, "AutoencoderKLCogVideoX": 8}


@pytest.fixture(scope="module", params=FACTORS)
def latent_pipeline(request):
    parts = debug_components(in_channels=4, patch_size=2)
    parts.vae = _vae(request.param).requires_grad_(False).eval()
    return quiet_pipeline(parts)


def test_autoencoders_in_the_pipeline(latent_pipeline, tmp_path):
    for size in ((37, 51), (1, 9), (32, 32)):
        out = _edit(latent_pipeline, canvas=_image(size))
        assert out.images[0].shape == (*size, 3)
    latent_pipeline.save_pretrained(tmp_path / "m", safe_serialization=True)
    again = UniRealPipeline.from_pretrained(tmp_path / "m")
    assert (
        type(again.vae) is type(latent_pipeline.vae)
        and (_edit(again).images[0] == _edit(latent_pipeline).images[0]).all()
    )


def test_every_frame_is_encoded_alone(latent_pipeline, monkeypatch):
    fed, given = [], []
    encode = FrameCodec.encode
    monkeypatch.setattr(FrameCodec, "encode", lambda self, x: fed.append(encode(self, x)) or fed[-1])
    hook = latent_pipeline.transformer.register_forward_pre_hook(lambda _, arguments: given.append(arguments[3]))
    images = [_image((16, 24), 1), _image((16, 24), 2)]
    _edit(latent_pipeline, task="compose", canvas=images)
    hook.remove()
    codec = FrameCodec(latent_pipeline.vae, 2)
    for image, used in zip(images, given[0], strict=True):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        torch.testing.assert_close(encode(codec, pixels), used)


def test_scaling_and_shift(latent_pipeline):
    vae, codec = latent_pipeline.vae, FrameCodec(latent_pipeline.vae, 2)
    factor = FACTORS[type(vae).__name__]
    assert codec.factor == factor and codec.latent_size((37, 51)) == tuple(-(-s // (2 * factor)) * 2 for s in (37, 51))
    frame = torch.rand(1, 3, 16, 32) * 2 - 1
    if isinstance(vae, AutoencoderDC):
        raw = vae.encode(frame).latent
    elif isinstance(vae, AutoencoderKL):
        raw = vae.encode(frame).latent_dist.mode()
    else:
        raw = vae.encode(frame[:, :, None]).latent_dist.mode()[:, :, 0]
    scaled = (raw - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor
    torch.testing.assert_close(codec.encode(frame), scaled)
    restored = vae.decode(raw[:, :, None] if codec.video else raw).sample
    torch.testing.assert_close(codec.decode(scaled, (15, 31)), restored.reshape(1, 3, 16, 32)[..., :15, :31])


def test_a_frozen_text_encoder_runs_once_per_prompt():
    parts = debug_components(text_length=226, pad_text=True)
    assert parts.text.frozen and "text_encoder" not in parts.trainable
    pipeline = quiet_pipeline(parts)
    count = Counter()
    parts.text_encoder.register_forward_pre_hook(lambda *_: count.update(["pass"]))
    first = _edit(pipeline)
    assert count["pass"] > 0
    count.clear()
    assert (_edit(pipeline).images[0] == first.images[0]).all() and count["pass"] == 0
    _edit(pipeline, ["Make the red circle blue.", "remove"])
    assert count["pass"] == 1
    parts = debug_components()
    assert not parts.text.frozen and "text_encoder" in parts.trainable


def test_models_of_other_lengths_may_share_a_text_encoder():
    short, long = (debug_components(text_length=length, pad_text=True) for length in (32, 64))
    long.text_encoder, long.tokenizer = short.text_encoder, short.tokenizer
    for parts, length in ((short, 32), (long, 64)):
        assert parts.text(["Make the red circle blue."]).features.shape[1] == length


def test_frozen_features_in_training():
    from unireal.training.objective import Objective, prepare_step
    from unireal.transforms import collate

    parts = debug_components(text_length=226, pad_text=True)
    sample, _ = Request("edit", "red", canvas=[np.array(_image())]).assemble((64, 64))
    step = prepare_step(collate([sample] * 2), parts, torch.tensor([0.5, 0.9]), [_seed(), _seed()], 5.0)
    losses = Objective(parts)(step)
    losses.mean().backward()
    assert losses.shape == (2,) and all(p.grad is None for p in parts.text_encoder.parameters())


def test_number_formats(tiny_pipeline, tiny_pipeline_folder):
    array = _edit(tiny_pipeline).images[0]
    assert array.dtype == np.uint8 and array.shape == (16, 24, 3)
    tensor = _edit(tiny_pipeline, output_type="pt").images[0]
    assert tensor.shape == (3, 16, 24) and (tensor.permute(1, 2, 0).mul(255).round().numpy() == array).all()
    picture = _edit(tiny_pipeline, output_type="pil").images[0]
    assert isinstance(picture, Image.Image) and (np.asarray(picture) == array).all()
    with pytest.raises(ValueError, match="output_type"):
        _edit(tiny_pipeline, output_type="jpg")
    half = UniRealPipeline.from_pretrained(tiny_pipeline_folder, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.transformer.dtype == torch.bfloat16
    assert np.abs(_edit(half).images[0].astype(int) - array).mean() < 12


def test_progress_bar(tiny_pipeline, capsys):
    tiny_pipeline.set_progress_bar_config(disable=False, ascii=True)
    _edit(tiny_pipeline, num_inference_steps=3)
    tiny_pipeline.set_progress_bar_config(disable=True)
    assert "3/3" in capsys.readouterr().err
    with pytest.raises(ValueError, match="number of steps"):
        _edit(tiny_pipeline, num_inference_steps=0)


def test_inputs_as_arrays_paths_and_dicts(tiny_pipeline, tmp_path):
    _image().save(tmp_path / "x.png")
    outs = [_edit(tiny_pipeline, canvas=c).images[0] for c in (_image(), np.array(_image()), str(tmp_path / "x.png"))]
    assert (outs[0] == outs[1]).all() and (outs[0] == outs[2]).all()
    for control in ({"depth": _image()}, [("depth", _image())]):
        assert _edit(tiny_pipeline, task="control", canvas=None, control=control).images[0].shape == (16, 24, 3)


@pytest.mark.parametrize("typed", ["", "Predict the depth map of IMG1.", " predict the depth map of IMG1"])
def test_the_usual_prompt_is_not_said_twice(typed):
    """It is what benchmarks of depth ask."""
    sample, _ = Request("depth", typed, canvas=[np.array(_image())]).assemble((64, 64))
    assert sample.instruction == "Predict the depth map of IMG1."
    sample, _ = Request("depth", "a sand room.", canvas=[np.array(_image())]).assemble((64, 64))
    assert sample.instruction == "Predict the depth map of IMG1; a sand room"


def test_large_assets_are_shrunk_to_the_results():
    asset, canvas = np.zeros((400, 1000, 3), np.uint8), np.zeros((20, 50, 3), np.uint8)
    sample, _ = Request("insert", "IMG2", canvas=[canvas], asset=[asset, canvas[:4, :4]]).assemble((64, 64))
    assert [f.size for f in sample.inputs] == [(20, 50), (20, 50), (4, 4)]
    resized, _ = replace(Request("customize", "x", asset=[asset]), size=(30, 10)).assemble((64, 64))
    assert resized.inputs[0].size == (12, 30) and resized.results[0].size == (30, 10)
    half, _ = Request("insert", "IMG2", canvas=[canvas], asset=[asset, canvas[:4, :4]]).assemble((64, 64), 0.5)
    assert [f.size for f in half.inputs] == [(20, 50), (10, 25), (4, 4)]


def test_assets_are_shown_to_a_model_at_the_size_that_it_is_used_to():
    """Whatever the size of the user's file; but the edited frame of a video is no part of a picture."""
    pipeline = quiet_pipeline(debug_components(), asset_scale=0.5)
    rng, canvas = np.random.default_rng(0), _image()
    large, small = (rng.integers(0, 256, (side, side, 3), np.uint8) for side in (64, 8))

    def inserted(asset):
        return _edit(pipeline, "Insert IMG2.", task="insert", canvas=canvas, asset=asset).images[0]

    longer = max(canvas.size)
    assert np.array_equal(inserted(large), inserted(resize(large, (longer // 2, longer // 2))))
    assert not np.array_equal(inserted(small), inserted(resize(small, (longer // 2, longer // 2))))  # never grown
    assert UniRealPipeline.from_pretrained("unireal-tiny").config.asset_scale == MODELS["tiny"].asset_scale == 0.5
    video, seen = [np.asarray(canvas)] * 4, []
    pipeline._run, run = lambda samples, how: seen.extend(samples) or run(samples, how), pipeline._run
    _edit(pipeline, "red", task="video_edit", canvas=None, video=video, asset=resize(large, canvas.size[::-1]))
    assert [f.size for f in seen[0].inputs if f.role is Role.ASSET] == [canvas.size[::-1]]


@pytest.mark.parametrize("size", [None, (40, 60)])
def test_no_grey_of_the_unknown_fades_into_what_is_painted_beyond_the_border(size):
    white = np.full((20, 20, 3), 255, np.uint8)
    request = Request("outpaint", canvas=[white], expand=(0, 0, 10, 0), size=size)
    sample, paste = request.assemble((64, 64))
    assert set(np.unique(sample.inputs[0].image)) == {HOLE, 255} and (sample.inputs[0].image[paste.mask] == HOLE).all()
    result = np.full((*sample.results[0].size, 3), 255, np.uint8)
    assert (pasted([result], paste)[0] == 255).all()


@pytest.mark.parametrize("erased", [0, 200])
def test_nothing_of_what_is_erased_fades_into_what_is_painted(erased):
    """Neither of a thing that is to go nor of a hole that is black already, as BrushBench gives it."""
    mask = np.zeros((20, 30), bool)
    mask[5:12, 7:] = mask[15, 3] = True  # up to the picture's border, and a single pixel
    canvas = np.where(mask[..., None], np.uint8(erased), np.uint8(90)).repeat(3, axis=2)
    sample, paste = Request("inpaint", canvas=[canvas], mask=mask_image(mask)).assemble((64, 64))
    assert (sample.inputs[0].image[mask] == HOLE).all()
    assert (pasted([np.full_like(canvas, 90)], paste)[0] == 90).all()
    step = pasted([np.full_like(canvas, 110)], paste)[0][8, :, 0]  # what is outside does fade in
    assert step[6:10].tolist() == [90, 100, 110, 110] and (step[10:] == 110).all()


@pytest.mark.parametrize("size", [(100, 100), (61, 47), (400, 300)])
def test_nothing_of_what_is_erased_goes_into_its_neighbours_when_the_size_changes(size):
    mask = np.zeros((200, 150), bool)
    mask[60:140, 40:99], mask[20, 3:90] = True, True  # a thing, and a scratch that is thinner than a new pixel
    around = np.array(_image((10, 8)).resize((150, 200)))
    request = Request(
        "inpaint", canvas=[np.where(mask[..., None], np.uint8(0), around)], mask=mask_image(mask), size=size
    )
    sample, paste = request.assemble((64, 64))
    clean, _ = replace(request, canvas=[around]).assemble((64, 64))
    assert np.array_equal(sample.inputs[0].image, clean.inputs[0].image)  # whatever there was
    far = np.array(Image.fromarray(around).resize((size[1], size[0]), Image.Resampling.LANCZOS)).astype(int)
    error = np.abs(paste.canvas - far).max(axis=2)
    assert error[~paste.mask].max() < 40 and np.median(error) <= 1
    even = replace(request, canvas=[np.where(mask[..., None], np.uint8(0), np.full_like(around, 200))])
    assert (pasted([np.full((*size, 3), 200, np.uint8)], even.assemble((64, 64))[1])[0] == 200).all()


def test_caches_of_diffusers_start_anew_in_every_call(tiny_pipeline_folder):
    pipeline = UniRealPipeline.from_pretrained(tiny_pipeline_folder)
    plain = _edit(pipeline, guidance_scale=2.0).images[0]
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    first, second = (_edit(pipeline, num_inference_steps=4, guidance_scale=2.0).images[0] for _ in range(2))
    assert (first == second).all()
    other = _edit(pipeline, canvas=_image((40, 8)), num_inference_steps=4, guidance_scale=2.0).images[0]
    assert other.shape == (40, 8, 3)
    pipeline.transformer.disable_cache()
    assert (_edit(pipeline, guidance_scale=2.0).images[0] == plain).all()


def test_a_call_that_fails_leaves_nothing_in_caches_of_diffusers(tiny_pipeline_folder):
    pipeline = UniRealPipeline.from_pretrained(tiny_pipeline_folder)
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    clean = _edit(pipeline, num_inference_steps=4).images[0]

    def fail(pipe, step, t, latents):
        if step == 1:
            raise KeyboardInterrupt

    for canvas in (_image(seed=1), _image((40, 8))):
        with pytest.raises(KeyboardInterrupt):
            _edit(pipeline, canvas=canvas, num_inference_steps=4, callback_on_step_end=fail)
        assert (_edit(pipeline, num_inference_steps=4).images[0] == clean).all()


def test_the_end_of_a_long_prompt_is_told(tiny_pipeline, caplog):
    """The debug model reads 64 tokens, the last of which is the end of the text."""
    end = "IMG1 is „vielleicht“"
    _edit(tiny_pipeline, ["red", "circle " * 70 + end, "circle " * 70 + end], num_results=2)
    assert len(caplog.messages) == 1 and "\n" not in caplog.text.strip()
    assert "tokens, the model reads 64; cut off: '" in caplog.messages[0] and caplog.messages[0].endswith(f"{end}'")
    caplog.clear()
    _edit(tiny_pipeline, "circle " * 50)
    assert not caplog.messages


def test_exactly_what_is_cut_off_is_told():
    text = debug_components(text_length=6).text
    assert text.cut_off("the red circle") == (4, "") and text.cut_off("the red circle in the") == (6, "")
    assert text.cut_off("the red circle in the hole, IMG1") == (9, "hole, IMG1")
    kept = text.tokenize(["the red circle in the hole, IMG1"])["input_ids"]
    assert (kept == text.tokenize(["the red circle in the"])["input_ids"]).all()


def test_a_video_tells_once(tiny_pipeline, caplog):
    list(tiny_pipeline.stream("circle " * 80, "t2v", num_frames=8, size=(16, 16)))
    assert len(caplog.messages) == 1
