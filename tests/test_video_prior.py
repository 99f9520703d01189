"""The warm start computes what CogVideoX computes, and its v-prediction is the same model in our time."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import quiet_pipeline
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_3d_rotary_pos_embed, get_resize_crop_region_for_grid
from transformers import T5Config, T5EncoderModel

from unireal.config import MODELS
from unireal.diffusion.flow import add_noise, as_clean, as_velocity, flow_loss
from unireal.diffusion.guidance import Guidance
from unireal.diffusion.sampling import Conditions, denoise
from unireal.model.build import build, word_tokenizer
from unireal.model.embeddings import frame_times
from unireal.model.noise_schedule import NoiseSchedule
from unireal.model.text_encoder import TextFeatures
from unireal.model.transformer import UniRealTransformer
from unireal.model.video_prior import main
from unireal.pipeline import UniRealPipeline
from unireal.sample import Role

TOLERANCE = 1e-4
SCHEDULE = {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
SHIFT = {"sincos": 3.0, "rotary": 1.0}
FACTS = {  # train step -> s, computed beforehand from CogVideoX's published schedules
    3.0: {0: 0.048, 100: 0.379, 250: 0.556, 500: 0.755, 750: 0.905, 900: 0.970, 999: 1.0},
    1.0: {0: 0.028, 100: 0.263, 250: 0.422, 500: 0.640, 750: 0.844, 900: 0.948, 999: 1.0},
}


def scheduler(position: str) -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(
        **SCHEDULE, snr_shift_scale=SHIFT[position], clip_sample=False, timestep_spacing="trailing"
    )


def random_prior(position: str, **config) -> CogVideoXTransformer3DModel:
    """Random weights everywhere, modulation and output included."""
    torch.manual_seed(0)
    tiny = {
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "text_embed_dim": 12,
        "time_embed_dim": 24,
        "sample_height": 12,
        "sample_width": 18,
        "sample_frames": 49,
        "use_rotary_positional_embeddings": position == "rotary",
    }
    prior = CogVideoXTransformer3DModel(**tiny | config).eval()
    for name, parameter in prior.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim == 1 else 1.5 * parameter[0].numel() ** -0.5)
        if "norm" in name and name.endswith("weight") and parameter.ndim == 1:
            parameter.data += 1
    return prior


def save_prior(prior: CogVideoXTransformer3DModel, folder: Path) -> Path:
    prior.save_pretrained(folder / "transformer")
    position = "rotary" if prior.config.use_rotary_positional_embeddings else "sincos"
    scheduler(position).save_pretrained(folder / "scheduler")
    return folder


@torch.no_grad()
def run_prior(prior: CogVideoXTransformer3DModel, x: torch.Tensor, text: torch.Tensor, step) -> torch.Tensor:
    """CogVideoX on x (B, F, C, H, W), with rotary positions as its pipeline prepares them."""
    config, rotary = prior.config, None
    if config.use_rotary_positional_embeddings:
        p = config.patch_size
        grid = x.shape[-2] // p, x.shape[-1] // p
        crop = get_resize_crop_region_for_grid(grid, config.sample_width // p, config.sample_height // p)
        rotary = get_3d_rotary_pos_embed(config.attention_head_dim, crop, grid, x.shape[1])
    return prior(x, text, torch.as_tensor(step).expand(len(x)), image_rotary_emb=rotary, return_dict=False)[0]


@torch.no_grad()
def parity(prior: CogVideoXTransformer3DModel, ours: UniRealTransformer, x: torch.Tensor, step: int) -> float:
    """Largest difference of the two on frames x (B, F, C, H, W) at a train step."""
    text = torch.randn(len(x), prior.config.max_text_seq_length, prior.config.text_embed_dim)
    expected = run_prior(prior, x, text, step)
    s = ours.noise_schedule.times[step].expand(len(x))
    noisy = [f * torch.hypot(1 - s, s).view(-1, 1, 1, 1) for f in x.unbind(1)]
    padding = torch.arange(text.shape[1]).expand(len(x), -1) < 5
    got = torch.stack(ours(noisy, s, text, encoder_attention_mask=padding), dim=1)
    assert 0.1 < expected.std() < 100
    return (got - expected).abs().max().item()


CASES = [
    # head dim, patch, frames, latent size, train step
    (16, 2, 13, (12, 18), 999),
    (16, 2, 1, (6, 10), 0),
    (32, 2, 5, (18, 10), 250),
    (64, 2, 3, (14, 22), 731),
    (64, 1, 2, (5, 7), 500),
    (32, 2, 8, (2, 26), 42),
]


@pytest.mark.parametrize("position", ["sincos", "rotary"])
@pytest.mark.parametrize(("head_dim", "patch", "frames", "size", "step"), CASES)
def test_parity(tmp_path, position, head_dim, patch, frames, size, step):
    """The sample size, and others that go through both models' paths for other resolutions."""
    heads = 3 if head_dim == 16 else 1
    scale = 1.875 if patch == 2 else 1.0
    prior = random_prior(
        position,
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        patch_size=patch,
        spatial_interpolation_scale=scale,
        temporal_interpolation_scale=1.0 if frames != 3 else 1.5,
    )
    ours = UniRealTransformer.from_video_prior(save_prior(prior, tmp_path))
    assert parity(prior, ours, torch.randn(2, frames, 4, *size), step) < TOLERANCE


def test_every_weight_is_used(tmp_path):
    prior = random_prior("rotary")
    folder = save_prior(prior, tmp_path)
    ours = UniRealTransformer.from_video_prior(folder).state_dict()
    theirs = prior.state_dict()
    assert set(ours) - set(theirs) == {"role_embedding.weight", "index_embedding.weight"}
    assert all(torch.equal(ours[k], v) for k, v in theirs.items())
    assert not ours["role_embedding.weight"].any() and not ours["index_embedding.weight"].any()


def test_overrides_and_dtype(tmp_path):
    folder = save_prior(random_prior("sincos").to(torch.bfloat16), tmp_path)
    assert UniRealTransformer.from_video_prior(folder).dtype == torch.bfloat16
    ours = UniRealTransformer.from_video_prior(
        folder, dtype=torch.float32, max_inputs=3, condition_attention="isolated", prediction_type="velocity"
    )
    assert ours.dtype == torch.float32 and ours.noise_schedule is None
    assert ours.config.max_inputs == 3 and ours.config.frame_span == ours.config.max_results == 13


@pytest.mark.parametrize("position", ["sincos", "rotary"])
@pytest.mark.parametrize("attention", ["full", "isolated"])
def test_with_inputs(tmp_path, position, attention):
    """Input frames at first are further frames of the video: the answer moves, but stays of its size."""
    prior = random_prior(position)
    ours = UniRealTransformer.from_video_prior(save_prior(prior, tmp_path), condition_attention=attention)
    x, text = torch.randn(2, 4, 12, 18), torch.randn(2, 226, 12)
    condition = [torch.randn(2, 4, 12, 18), torch.randn(2, 4, 8, 10)]
    roles = torch.tensor([[Role.CANVAS.index, Role.ASSET.index]] * 2)
    s = torch.full((2,), 0.7)
    with torch.no_grad():
        alone = ours([x], s, text)[0]
        given = ours([x], s, text, condition, roles)[0]
        swapped = ours([x], s, text, condition, roles.flip(1))[0]
        pair = torch.stack(ours([x, -x], s, text))
        timed = torch.stack(ours([x, -x], s[:, None].expand(2, 2), text))
    torch.testing.assert_close(pair, timed)
    assert given.isfinite().all() and torch.equal(given, swapped)
    assert 0.5 < given.std() / alone.std() < 2
    assert 0 < (given - alone).std() < 1.5 * alone.std()


def test_frame_times_stay_in_the_trained_range():
    for inputs in range(1, 5):
        for results in range(1, 9 - inputs):
            times = frame_times(inputs, results, 13)
            assert times == sorted(set(times)) and times[0] == 0 and times[-1] == 12
            assert times[inputs] - times[inputs - 1] > 1


@pytest.mark.parametrize("position", ["sincos", "rotary"])
def test_schedule(position):
    theirs = scheduler(position)
    schedule = NoiseSchedule(**SCHEDULE, snr_shift_scale=SHIFT[position])
    signal = ((1 - schedule.times) / torch.hypot(1 - schedule.times, schedule.times)) ** 2
    torch.testing.assert_close(signal, theirs.alphas_cumprod.float(), atol=1e-6, rtol=0)
    for step, s in FACTS[SHIFT[position]].items():
        assert abs(schedule.times[step].item() - s) < 6e-4
    steps = torch.arange(1000)
    torch.testing.assert_close(schedule.train_step(schedule.times), steps.float(), atol=1e-3, rtol=0)
    between = schedule.train_step((schedule.times[:-1] + schedule.times[1:]) / 2)
    torch.testing.assert_close(between, steps[:-1] + 0.5, atol=1e-2, rtol=0)
    assert schedule.train_step(torch.tensor([[0.0, 1.0]])).tolist() == [[0.0, 999.0]]


def test_oracle_velocity():
    """Whoever knows x0 and the noise says v = a e - b x0; we must read noise - x0, and no loss."""
    clean, noise = torch.randn(2, 64, 3, 4, 5).unbind(0)
    t = torch.linspace(0, 1, 64)
    n = torch.hypot(1 - t, t).view(-1, 1, 1, 1)
    a, b = (1 - t.view(-1, 1, 1, 1)) / n, t.view(-1, 1, 1, 1) / n
    noisy, v = add_noise(clean, noise, t), a * noise - b * clean
    velocity = as_velocity(v, noisy, t, "v_prediction")
    torch.testing.assert_close(velocity, noise - clean, atol=1e-5, rtol=0)
    torch.testing.assert_close(as_clean(velocity, noisy, t), clean, atol=1e-5, rtol=0)
    assert flow_loss(v, noisy, clean, noise, t, "v_prediction").max() < 1e-10
    wrong = flow_loss(v + 0.1, noisy, clean, noise, t, "v_prediction")
    torch.testing.assert_close(wrong, 0.01 / n.flatten() ** 2, atol=1e-5, rtol=0)  # the error of the velocity


@pytest.mark.parametrize("position", ["sincos", "rotary"])
def test_clean_prediction_equals_ddim(tmp_path, position):
    prior, theirs = random_prior(position), scheduler(position)
    ours = UniRealTransformer.from_video_prior(save_prior(prior, tmp_path))
    theirs.set_timesteps(1000)
    text = torch.randn(1, 226, 12)
    for step in (0, 100, 500, 900, 999):
        x = torch.randn(1, 2, 4, 12, 18)
        v = run_prior(prior, x, text, step)
        expected = theirs.step(v, step, x).pred_original_sample
        s = ours.noise_schedule.times[step].expand(1)
        noisy = [f * torch.hypot(1 - s, s) for f in x.unbind(1)]
        with torch.no_grad():
            predicted = ours(noisy, s, text)
        clean = [as_clean(as_velocity(p, f, s, "v_prediction"), f, s) for p, f in zip(predicted, noisy, strict=True)]
        torch.testing.assert_close(torch.stack(clean, dim=1), expected, atol=TOLERANCE, rtol=0)


def plain_text(features: torch.Tensor) -> TextFeatures:
    shape = features.shape[:2]
    return TextFeatures(features, torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.long))


@torch.no_grad()
def test_sampling_equals_ddim(tmp_path):
    """On DDIM's own times our Euler steps are DDIM's; on ours the two approach each other."""
    prior, theirs = random_prior("sincos", num_layers=1, max_text_seq_length=4), scheduler("sincos")
    prior.proj_out.weight.data *= 0.3
    ours = UniRealTransformer.from_video_prior(save_prior(prior, tmp_path))
    text, noise = torch.randn(1, 4, 12), torch.randn(1, 2, 4, 6, 4)

    def ddim(steps: int) -> torch.Tensor:
        theirs.set_timesteps(steps)
        x = noise
        for t in theirs.timesteps:
            x = theirs.step(run_prior(prior, x, text, t), int(t), x, return_dict=False)[0]
        return x

    expected = ddim(20)
    times = torch.cat([ours.noise_schedule.times[theirs.timesteps], torch.zeros(1)])
    latents = list(noise.unbind(1))
    for s, following in itertools.pairwise(times):
        predicted = ours(latents, s[None], text)
        velocities = [as_velocity(v, x, s[None], "v_prediction") for v, x in zip(predicted, latents, strict=True)]
        latents = [x + (following - s) * u for x, u in zip(latents, velocities, strict=True)]
    torch.testing.assert_close(torch.stack(latents, dim=1), expected, atol=TOLERANCE, rtol=0)

    given = Conditions(plain_text(text), plain_text(text), [], torch.zeros(1, 0, dtype=torch.long))
    apart = []
    for steps in (10, 100, 500):
        euler = FlowMatchEulerDiscreteScheduler(shift=3.07)
        got = denoise(ours, euler, list(noise.unbind(1)), given, Guidance(), steps)
        apart.append((torch.stack(got, dim=1) - ddim(steps)).square().mean().sqrt().item())
    assert apart[0] > apart[1] > apart[2] and apart[2] < 0.02 * expected.std()


WORDS = ["make", "the", "circle", "blue", "a", "red", "square", "like"]


@pytest.fixture(scope="module")
def cogvideox(tmp_path_factory) -> Path:
    """A tiny random CogVideoX pipeline as diffusers saves it."""
    folder = tmp_path_factory.mktemp("prior") / "cogvideox"
    tokenizer = word_tokenizer(WORDS)
    torch.manual_seed(0)
    text = T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=12, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        scaling_factor=0.7,
    )
    CogVideoXPipeline(tokenizer, text, vae, random_prior("rotary"), scheduler("rotary")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def converted(cogvideox, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "unireal"
    assert main([str(cogvideox), "--output", str(folder)]) == 0
    return folder


def test_converted_pipeline(cogvideox, converted):
    pipe, theirs = UniRealPipeline.from_pretrained(converted), CogVideoXPipeline.from_pretrained(cogvideox)
    assert tuple(pipe.config.native_size) == (256, 256)
    assert (pipe.config.default_steps, pipe.config.default_guidance) == (50, 6.0)
    assert pipe.scheduler.config.shift == 1.77
    assert pipe.transformer.config.max_text_length == 226
    words = pipe.tokenizer.convert_tokens_to_ids(["IMG1", "IMG8", "RES1", "RES13"])
    assert len({*words, pipe.tokenizer.unk_token_id}) == 5
    assert len(pipe.tokenizer) <= pipe.text_encoder.get_input_embeddings().num_embeddings
    shared = len(theirs.tokenizer)
    torch.testing.assert_close(pipe.text_encoder.shared.weight[:shared], theirs.text_encoder.shared.weight)

    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red square", task="t2i", size=(40, 64), num_inference_steps=2).images[0]
    assert image.size == (64, 40)
    canvas = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    edited = pipe("make the circle blue", canvas=canvas, num_inference_steps=2, output_type="np").images[0]
    assert edited.shape == canvas.shape and edited.std() > 0


@torch.no_grad()
def test_frames_pass_through_the_video_vae(cogvideox, converted):
    """One frame is one latent frame, scaled as CogVideoX scales it."""
    codec = UniRealPipeline.from_pretrained(converted).as_components().codec
    vae = AutoencoderKLCogVideoX.from_pretrained(cogvideox / "vae")
    frame = torch.rand(2, 3, 32, 48) * 2 - 1
    expected = vae.encode(frame[:, :, None]).latent_dist.mode() * 0.7
    assert expected.shape == (2, 4, 1, 4, 6) and codec.latent_size((30, 41)) == (4, 6)
    torch.testing.assert_close(codec.encode(frame), expected[:, :, 0])
    pixels = vae.decode(expected / 0.7).sample
    torch.testing.assert_close(codec.decode(expected[:, :, 0], (30, 41)), pixels[:, :, 0, :30, :41])


def test_text_features_are_the_priors(cogvideox, converted):
    theirs = CogVideoXPipeline.from_pretrained(cogvideox)
    pipe = UniRealPipeline.from_pretrained(converted)
    expected = theirs.encode_prompt("make the circle blue", do_classifier_free_guidance=False)[0]
    got = pipe.as_components().text(["make the circle blue"])
    assert got.mask.all()
    torch.testing.assert_close(got.features, expected, atol=TOLERANCE, rtol=0)


def test_a_fresh_model_takes_the_encoders_of_a_priors_pipeline(cogvideox):
    """Google's repository of T5 holds no safetensors."""
    small = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "pad_text": True}
    config = replace(MODELS["2b"], transformer=small, text=str(cogvideox), vae=str(cogvideox))
    parts, theirs = build(config, []), CogVideoXPipeline.from_pretrained(cogvideox)
    text = quiet_pipeline(parts).as_components().text
    expected = theirs.encode_prompt("make the circle blue", do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(text(["make the circle blue"]).features, expected, atol=TOLERANCE, rtol=0)
    assert text.frozen and isinstance(parts.vae, AutoencoderKLCogVideoX)
    assert all(MODELS[size].text == MODELS[size].vae for size in ("2b", "5b"))


def test_trains(converted):
    """One step of the flow objective in velocity space reaches the new embeddings."""
    transformer = UniRealPipeline.from_pretrained(converted).transformer.train()
    clean, noise, t = torch.randn(2, 4, 4, 6), torch.randn(2, 4, 4, 6), torch.tensor([0.2, 0.9])
    noisy = add_noise(clean, noise, t)
    roles = torch.full((2, 1), Role.CANVAS.index)
    prediction = transformer([noisy], t, torch.randn(2, 226, 12), [torch.randn(2, 4, 4, 6)], roles)[0]
    flow_loss(prediction, noisy, clean, noise, t, transformer.config.prediction_type).mean().backward()
    assert transformer.role_embedding.weight.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in transformer.parameters())


REFUSED = [
    ({"in_channels": 8}, "5B-I2V"),
    ({"in_channels": 8, "use_learned_positional_embeddings": True}, "5B-I2V"),
    ({"patch_size_t": 2}, "1.5"),
    ({"ofs_embed_dim": 8}, "1.5"),
    ({"activation_fn": "geglu"}, "gelu"),
    ({"_class_name": "WanTransformer3DModel"}, "WanTransformer3DModel"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSED)
def test_refused_models(cogvideox, tmp_path, capsys, change, reason):
    source = Path(shutil.copytree(cogvideox, tmp_path / "source"))
    path = source / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert refusal(source, tmp_path, capsys, reason)


def refusal(source: Path | str, tmp_path: Path, capsys, *reasons: str) -> bool:
    """Exit status 2, one line on stderr that gives the reasons, and nothing written."""
    capsys.readouterr()
    assert main([str(source), "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and all(r in lines[0] for r in reasons), lines
    return not (tmp_path / "out").exists()


def test_refused_folders(cogvideox, tmp_path, capsys):
    assert refusal(tmp_path / "nothing", tmp_path, capsys, "nothing", "neither a folder nor a hub id")
    assert refusal("no-such/model", tmp_path, capsys, "no-such/model", "cannot be downloaded")
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty", tmp_path, capsys, "missing")
    source = Path(shutil.copytree(cogvideox, tmp_path / "source"))
    weights = source / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert refusal(source, tmp_path, capsys, "pickled", "safetensors")
    weights.write_bytes(b"cut off")
    assert refusal(source, tmp_path, capsys, weights.name, "damaged")
    weights.with_suffix(".bin").rename(weights)
    path = source / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "epsilon"}))
    assert refusal(source, tmp_path, capsys, "epsilon", "v_prediction")
    assert main([str(source), "--output", str(cogvideox)]) == 2
    with pytest.raises(SystemExit) as stopped:
        main([str(source)])
    assert stopped.value.code == 2 and "--output" in capsys.readouterr().err.splitlines()[-1]


def test_weights_that_do_not_fit(tmp_path):
    folder = save_prior(random_prior("rotary"), tmp_path)
    with pytest.raises(ValueError, match="do not fit"):
        UniRealTransformer.from_video_prior(folder, num_layers=1)
