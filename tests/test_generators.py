"""The generators of video_edit on tiny random pipelines of diffusers' real classes, saved and loaded as folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_annotators as tiny
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from tiny_editor import save_editor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from data_builders.annotators.maps import DepthAnything
from data_builders.annotators.protocols import Annotators
from data_builders.builders import generators
from data_builders.builders.generators import DiffusersEditor, WanGenerator, WanRefiner, load_studio, vace_depth
from data_builders.world.oracle import Oracle
from data_builders.world.video import WorldVideo

WORDS = ["make", "the", "red", "circle", "green"]


@pytest.fixture(scope="module")
def editor_folder(tmp_path_factory) -> Path:
    return save_editor(tmp_path_factory.mktemp("editor"), _clip_tokenizer())


def _clip_tokenizer() -> CLIPTokenizer:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(vocabulary)},
        merges=[],
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=16,
    )


def _wan_parts() -> dict:
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )
    text = UMT5EncoderModel(UMT5Config(vocab_size=16, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    return {"tokenizer": tokenizer, "text_encoder": text, "vae": vae}


SIZE = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 16,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}


@pytest.fixture(scope="module")
def generator_folder(tmp_path_factory) -> Path:
    parts = _wan_parts()
    transformer = WanVACETransformer3DModel(**SIZE, vace_layers=[0], vace_in_channels=2 * 4 + 64)
    with torch.no_grad():  # fresh weights are so small that the conditions do not show in 8 bits
        for parameter in transformer.parameters():
            parameter.normal_(0, 0.5)
    folder = tmp_path_factory.mktemp("generator")
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    WanVACEPipeline(**parts, transformer=transformer, scheduler=scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def refiner_folder(tmp_path_factory) -> Path:
    """As Wan2.2 is stored: the transformer for much noise and one for little, of which the second has weights of 0."""
    parts, folder = _wan_parts(), tmp_path_factory.mktemp("refiner")
    experts = [WanTransformer3DModel(**SIZE) for _ in range(2)]
    torch.nn.init.zeros_(experts[1].proj_out.weight)
    torch.nn.init.zeros_(experts[1].proj_out.bias)
    names = {"transformer": experts[0], "transformer_2": experts[1]}
    pipeline = WanPipeline(**parts, **names, scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0), boundary_ratio=0.9)
    pipeline.save_pretrained(folder)
    return folder


def picture(seed: int, size: tuple[int, int] = (30, 44)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_the_editor_keeps_the_size_and_follows_the_seed(editor_folder) -> None:
    editor = DiffusersEditor.from_pretrained(str(editor_folder), steps=2)
    made = [editor.edit(picture(0), "make the circle green", seed) for seed in (1, 1, 2)]
    assert made[0].shape == (30, 44, 3) and made[0].dtype == np.uint8
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()


def test_the_generator_sees_depth_and_key_frame(generator_folder) -> None:
    generator = WanGenerator.from_pretrained(str(generator_folder), steps=2, guidance=1.0)
    rng = np.random.default_rng(0)
    depth = [rng.integers(0, 65536, (30, 44)).astype(np.uint16) for _ in range(7)]
    made = generator.generate(depth, picture(1), "make the circle green", 3)
    assert len(made) == 5  # of 7 frames, the first 4 k + 1
    assert {m.shape for m in made} == {(30, 44, 3)} and made[0].dtype == np.uint8
    again = generator.generate(depth, picture(1), "make the circle green", 3)
    np.testing.assert_array_equal(made, again)
    for other in (([d[::-1] for d in depth], picture(1)), (depth, np.full_like(picture(1), 255))):
        assert (np.array(generator.generate(*other, "make the circle green", 3)) != np.array(made)).any()


def test_large_videos_take_more_of_the_noisy_times(generator_folder, monkeypatch) -> None:
    monkeypatch.setattr(generators, "_SMALL", 32 * 48)  # in place of 832x480, which take long
    generator = WanGenerator.from_pretrained(str(generator_folder), steps=2, guidance=1.0)
    for size, shift in (((32, 48), 3), ((32, 64), 5), ((30, 44), 3)):
        generator.generate([np.zeros(size, np.uint16)], picture(1, size), "make the circle green", 3)
        half = 0.5 * shift / (1 + 0.5 * (shift - 1))  # as Wan shifts the middle of the times
        assert generator.pipeline.scheduler.sigmas[1].item() == pytest.approx(half, abs=1e-3)


@pytest.mark.parametrize("kind", [WanGenerator, WanRefiner])
def test_the_vae_of_wan_keeps_32_bits(generator_folder, refiner_folder, monkeypatch, kind) -> None:
    monkeypatch.setattr(generators, "_dtype", lambda device: torch.bfloat16)  # as on a GPU
    pipeline = kind.from_pretrained(str(generator_folder if kind is WanGenerator else refiner_folder)).pipeline
    assert pipeline.transformer.dtype == pipeline.text_encoder.dtype == torch.bfloat16
    assert pipeline.vae.dtype == torch.float32


def _as_vace_draws(raw: np.ndarray) -> np.ndarray:
    """What VACE's DepthV2Annotator makes of Depth Anything's inverse distances: uint8 (H, W)."""
    raw = raw - raw.min()
    return (raw / raw.max() * 255).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_depth_is_drawn_as_vace_was_trained_on_it(tmp_path, kind) -> None:
    estimator = DepthAnything.from_pretrained(str(tiny.depth_anything(tmp_path, kind)))
    image = picture(4)
    inputs = estimator.processor(images=image, return_tensors="pt")
    with torch.inference_mode():
        outputs = estimator.model(**inputs)
    found = estimator.processor.post_process_depth_estimation(outputs, target_sizes=[image.shape[:2]])
    raw = found[0]["predicted_depth"].numpy()
    (drawn,) = vace_depth([estimator.depth(image)])
    assert drawn.shape == (30, 44, 3) and drawn.dtype == np.uint8 and drawn.min() == 0 and drawn.max() == 255
    expected = _as_vace_draws(raw if kind == "relative" else -raw)  # metres grow with distance
    assert np.abs(drawn.astype(int) - expected[..., None]).max() <= 1
    nearest = raw.argmax() if kind == "relative" else raw.argmin()
    assert (drawn.reshape(-1, 3)[nearest] == 255).all()


def test_the_nearest_thing_of_the_world_is_white() -> None:
    video = WorldVideo(5, (48, 64))
    drawn = vace_depth(list(Oracle([video]).depths(video.frames)))
    for true, shown in zip(video.depth, drawn, strict=True):
        order = np.argsort(true, axis=None)
        assert (np.diff(shown[..., 0].flat[order].astype(int)) <= 0).all()
    assert max(d.max() for d in drawn) == 255 and min(d.min() for d in drawn) == 0


def test_depth_keeps_its_grey_when_something_comes_nearer() -> None:
    wall = np.full((8, 8), 40000, np.uint16)
    wall[0] = 60000
    hand = wall.copy()
    hand[4:, 4:] = 10000
    before, after = vace_depth([wall, hand])
    np.testing.assert_array_equal(before[:4], after[:4])
    assert before[0, 0, 0] == 0 and before[4, 4, 0] == 102 and after[4, 4, 0] == 255
    assert not np.any(vace_depth([np.full((4, 4), 7, np.uint16)]))  # a flat clip is no error


def test_refinement_adds_little_noise_and_takes_four_steps(refiner_folder, monkeypatch) -> None:
    refiner = WanRefiner.from_pretrained(str(refiner_folder))
    assert not refiner.pipeline.transformer.proj_out.weight.any()  # the expert for low noise
    times = []
    step = refiner.pipeline.scheduler.step

    def noting(velocity, time, *rest, **more):
        times.append(float(time) / 1000)
        return step(velocity, time, *rest, **more)

    monkeypatch.setattr(refiner.pipeline.scheduler, "step", noting)
    frames = [picture(seed) for seed in range(5)]
    made = refiner.refine(frames, "make the circle green", 0)
    assert len(times) == 4 and 0.1 < times[0] < 0.15 and times == sorted(times, reverse=True)
    assert len(made) == 5 and made[0].shape == (30, 44, 3)


@pytest.mark.parametrize(("noise", "steps"), [(0.15, 4), (0.0, 4), (0.1, 1)])
def test_too_much_noise_is_refused(refiner_folder, noise, steps) -> None:
    with pytest.raises(ValueError, match=r"below 0\.15"):
        WanRefiner.from_pretrained(str(refiner_folder), noise=noise, steps=steps)


@pytest.mark.parametrize("part", ["editor", "generator", "refiner"])
def test_a_pipeline_that_is_not_there_is_told(tmp_path, part) -> None:
    with pytest.raises(ValueError, match=r"cannot load .*nowhere.*; give a folder"):
        load_studio(Annotators(), {part: str(tmp_path / "nowhere")})


@pytest.mark.parametrize("subfolder", ["vae", "transformer_2"])
def test_weights_that_are_cut_off_are_told(refiner_folder, tmp_path, subfolder) -> None:
    folder = shutil.copytree(refiner_folder, tmp_path / "refiner")
    (weights,) = (folder / subfolder).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot load .*refiner.*; give a folder") as told:
        WanRefiner.from_pretrained(str(folder))
    assert "\n" not in str(told.value)


def test_what_cannot_be_loaded_is_told_in_one_line(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"cannot load .*; give a folder") as told:
        load_studio(Annotators(), {"editor": str(tmp_path / "nowhere")})
    assert "\n" not in str(told.value)
