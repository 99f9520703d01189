"""The objective: training times, noise, velocities and their error; and what guidance makes of several velocities."""

from __future__ import annotations

import pytest
import torch

from unireal.diffusion.flow import TimeSampling, add_noise, as_clean, as_velocity, flow_loss
from unireal.diffusion.guidance import FULL, Guidance


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _latents(seed: int) -> torch.Tensor:
    return torch.randn(3, 2, 4, 4, generator=_seeded(seed))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_times_are_logit_normal_and_shifted_toward_noise(shift):
    times = TimeSampling(shift=shift)(20_000, _seeded())
    assert times.dtype == torch.float32 and times.min() > 0 and times.max() < 1
    assert float(times.median()) == pytest.approx(shift / (1 + shift), abs=0.01)
    logits = torch.logit(times.double() / (shift - (shift - 1) * times.double()))  # the shift undone
    assert float(logits.mean()) == pytest.approx(0, abs=0.03) and float(logits.std()) == pytest.approx(1, abs=0.03)
    assert TimeSampling(shift=shift)(5, _seeded(1)).equal(TimeSampling(shift=shift)(5, _seeded(1)))


@pytest.mark.parametrize("settings", [{"std": 0}, {"std": -1}, {"shift": 0}, {"mean": float("nan")}])
def test_bad_times(settings):
    with pytest.raises(ValueError, match="std > 0 and shift > 0"):
        TimeSampling(**settings)


def _exact(prediction_type: str, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What a model that knows everything predicts."""
    s = t.view(-1, 1, 1, 1)
    v = ((1 - s) * noise - s * clean) / torch.hypot(1 - s, s)
    return {"velocity": noise - clean, "sample": clean, "v_prediction": v}[prediction_type]


@pytest.mark.parametrize("prediction_type", ["velocity", "sample", "v_prediction"])
def test_all_predictions_are_the_same_velocity_and_have_no_error(prediction_type):
    clean, noise, t = _latents(0), _latents(1), torch.tensor([0.05, 0.5, 1.0])
    noisy = add_noise(clean, noise, t)
    assert torch.allclose(noisy[2], noise[2])
    prediction = _exact(prediction_type, clean, noise, t)
    velocity = as_velocity(prediction, noisy, t, prediction_type)
    torch.testing.assert_close(velocity, noise - clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(as_clean(velocity, noisy, t), clean, atol=1e-4, rtol=1e-4)
    assert flow_loss(prediction, noisy, clean, noise, t, prediction_type).max() < 1e-8


def test_an_error_of_the_clean_image_counts_as_that_of_the_velocity():
    """But below MIN_TIME, where it would count without bounds."""
    clean, noise, t = _latents(0), _latents(1), torch.tensor([0.01, 0.2, 1.0])
    loss = flow_loss(clean + 0.1, add_noise(clean, noise, t), clean, noise, t, "sample")
    torch.testing.assert_close(loss, torch.tensor([(0.1 / 0.1) ** 2, (0.1 / 0.2) ** 2, 0.1**2]))


def test_weights_say_where_an_error_counts_not_how_much_a_sample_does():
    clean, noise, t = _latents(0), _latents(1), torch.full((3,), 0.5)
    noisy, wrong = add_noise(clean, noise, t), noise - clean
    wrong = torch.cat([wrong[..., :2] + 1, wrong[..., 2:]], dim=-1)  # in the left half
    weight = torch.ones(3, 1, 4, 4)

    def loss(weight: torch.Tensor | None) -> torch.Tensor:
        return flow_loss(wrong, noisy, clean, noise, t, "velocity", weight)

    assert torch.allclose(loss(None), torch.full((3,), 0.5)) and torch.allclose(loss(7 * weight), loss(None))
    weight[..., :2] = 3
    assert torch.allclose(loss(weight), torch.full((3,), 0.75))


@pytest.mark.parametrize("has_images", [True, False])
@pytest.mark.parametrize(("text", "image"), [(1.0, 1.0), (3.0, 1.0), (1.0, 2.0), (4.0, 1.5), (0.0, 0.0)])
def test_the_weights_of_guidance_add_up_to_1(text, image, has_images):
    weights = Guidance(text, image).weights(0, 4, has_images)
    assert sum(weights.values()) == pytest.approx(1) and all(weights.values())
    assert has_images or {branch.images for branch in weights if branch is not FULL} <= {False}


@pytest.mark.parametrize(("interval", "guided"), [((0, 1), "11111"), ((0.25, 0.5), "01100"), ((0.3, 0.4), "00000")])
def test_guidance_acts_in_its_interval_alone(interval, guided):
    guidance = Guidance(2.0, interval=interval)
    assert "".join(str(int(len(guidance.weights(step, 5, True)) > 1)) for step in range(5)) == guided
