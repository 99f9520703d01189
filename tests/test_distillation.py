"""Distillation into few steps: the target's formula, and whole runs at the debug size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import debug_components
from diffusers import FlowMatchEulerDiscreteScheduler
from processes import forget_accelerate
from safetensors.torch import load_file

from unireal.diffusion.guidance import FULL, Guidance
from unireal.diffusion.sampling import Conditions, denoise, sampling_times, velocity
from unireal.experiments import Distillation, get_experiment
from unireal.pipeline import UniRealPipeline
from unireal.sample import Role
from unireal.training.cli import main
from unireal.training.distillation import Distilled, Grid, make_objective, settings_of
from unireal.training.objective import Step
from unireal.training.start import Start

pytestmark = pytest.mark.usefixtures("small_training")
SHIFT = 3.0


def make_step(components, batch: int = 4, results: int = 1, seed: int = 0) -> Step:
    generator = torch.Generator().manual_seed(seed)

    def frames(count):
        return [torch.randn(batch, 3, 16, 16, generator=generator) for _ in range(count)]

    return Step(
        condition=frames(1), clean=frames(results), noise=frames(results),
        t=torch.linspace(0.05, 1, batch), roles=torch.full((batch, 1), Role.CANVAS.index),
        text=components.text.tokenize(["make it red"] * batch),
        weight=[torch.ones(batch, 1, 16, 16) for _ in range(results)],
    )  # fmt: skip


def test_the_grid_divides_the_samplers_own_steps():
    grid = Grid(4, 8, SHIFT)
    bounds = sampling_times(FlowMatchEulerDiscreteScheduler(shift=SHIFT), 4, torch.device("cpu")).flip(0)
    assert len(grid.times) == 4 * 8 + 1 and grid.times[0] == 0 and grid.times[-1] == 1
    torch.testing.assert_close(grid.times[8::8], bounds)
    t, below, end = grid.snap(torch.tensor([0.0, 1e-6, 0.5, 0.999, 1.0]))
    assert (t > below).all() and (below >= end).all() and t[-1] == 1 and end[0] == 0
    assert (t >= torch.tensor([0.0, 1e-6, 0.5, 0.999, 1.0])).all()
    index = torch.searchsorted(grid.times, t)
    torch.testing.assert_close(below, grid.times[index - 1])
    torch.testing.assert_close(end, grid.times[(index - 1) // 8 * 8])
    at_bounds = grid.snap(bounds)
    torch.testing.assert_close(at_bounds[0], bounds)
    torch.testing.assert_close(at_bounds[2], torch.cat([torch.zeros(1), bounds[:-1]]))


@pytest.mark.parametrize("kind", ["sample", "velocity"])
def test_a_teacher_on_a_straight_path_is_its_own_student(kind):
    """If the predicted image, or the velocity, is the same everywhere, one step is as good as many: the loss is 0."""
    components = debug_components(prediction_type=kind)
    torch.nn.init.zeros_(components.transformer.proj_out.weight)
    objective = Distilled(components, Distillation(steps=4), SHIFT)
    step = make_step(components, results=2)
    assert objective(step).max() < 1e-6
    with torch.no_grad():
        components.transformer.proj_out.bias += 0.5  # the student alone: the teacher is a copy
    losses = objective(step)  # it agrees with itself, but not with the teacher, which is asked where segments end
    assert losses[0] > 0.1 and losses[0] > 10 * losses[1:].max()


def test_the_loss_is_the_distance_to_where_the_path_ends():
    """From the first grid time of a segment on, the teacher alone decides: by hand."""
    components = debug_components()
    objective = Distilled(components, Distillation(steps=4, substeps=3), SHIFT)
    step = make_step(components)
    grid = objective.grid
    step.t = grid.times[[1, 4, 7, 10]]  # one grid step above each segment's end
    losses = objective(step)
    t, end = grid.times[[1, 4, 7, 10]], grid.times[[0, 3, 6, 9]]
    x_t = (1 - t.view(-1, 1, 1, 1)) * step.clean[0] + t.view(-1, 1, 1, 1) * step.noise[0]
    given = Conditions(components.text.encode_tokens(step.text), None, step.condition, step.roles)
    with torch.no_grad():
        v = velocity(components.transformer, [x_t], t, FULL, given)[0]
    assert torch.allclose(losses, torch.zeros(4), atol=1e-8)  # the student is still the teacher
    step.t = grid.times[[2, 5, 8, 11]]
    t, below = step.t, grid.times[[1, 4, 7, 10]]
    x_t = (1 - t.view(-1, 1, 1, 1)) * step.clean[0] + t.view(-1, 1, 1, 1) * step.noise[0]
    with torch.no_grad():
        v = velocity(components.transformer, [x_t], t, FULL, given)[0]
        x_s = x_t - (t - below).view(-1, 1, 1, 1) * v
        x_b = x_s - (below - end).view(-1, 1, 1, 1) * velocity(components.transformer, [x_s], below, FULL, given)[0]
        target = (x_t - x_b) / (t - end).view(-1, 1, 1, 1)
        expected = ((v - target) * t.view(-1, 1, 1, 1) / t.clamp(min=0.1).view(-1, 1, 1, 1)).square().mean((1, 2, 3))
    torch.testing.assert_close(objective(step), expected, rtol=1e-3, atol=1e-7)
    assert expected.min() > 0


def test_targets_have_no_gradients_and_weights_count():
    """The gradient is that of the distance to a target that stays where it is."""
    components = debug_components()
    objective, step = Distilled(components, Distillation(steps=4, substeps=3), SHIFT), make_step(components)
    step.t = objective.grid.times[[2, 5, 8, 11]]  # where the student has a say in the target
    bias = components.transformer.proj_out.bias
    losses = objective(step)
    text, t = components.text.encode_tokens(step.text), step.t.view(-1, 1, 1, 1)
    x_t = (1 - t) * step.clean[0] + t * step.noise[0]
    given = Conditions(text, None, step.condition, step.roles)
    _, below, end = objective.grid.snap(step.t)
    below, end = below.view(-1, 1, 1, 1), end.view(-1, 1, 1, 1)
    v = velocity(components.transformer, [x_t], step.t, FULL, given)[0]
    with torch.no_grad():
        x_s = x_t - (t - below) * v
        x_b = x_s - (below - end) * velocity(components.transformer, [x_s], below.flatten(), FULL, given)[0]
        target = (x_t - x_b) / (t - end)
    scale = t / t.clamp(min=0.1)
    expected = ((v - target) * scale).square().mean((1, 2, 3))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-7)
    found, true = (torch.autograd.grad(x.sum(), bias, retain_graph=True)[0] for x in (losses, expected))
    torch.testing.assert_close(found, true, rtol=1e-3, atol=1e-6)
    step.weight[0][..., :8] = 3.0
    weighed = ((v - target) * scale).square() * step.weight[0] / 2
    torch.testing.assert_close(objective(step), weighed.mean((1, 2, 3)), rtol=1e-3, atol=1e-7)


def test_the_teacher_is_guided_as_asked_and_sampled_as_its_pipeline_is():
    components = debug_components()
    step = make_step(components)
    plain, text, images = (
        Distilled(components, Distillation(4, guidance=a, image_guidance=b), SHIFT)(step).detach()
        for a, b in ((1, 1), (3, 1), (1, 3))
    )
    assert (plain != text).all() and (plain != images).all() and (text != images).all()
    config = replace(get_experiment("debug"), distillation=Distillation(steps=4))
    objective = make_objective(config, Start(components, {"shift": 4.0}, Path("model")))
    assert torch.equal(objective.grid.times, Grid(4, 8, 4.0).times)
    assert settings_of(config) == {"default_steps": 4, "default_guidance": 1.0, "default_image_guidance": 1.0}


def test_the_student_of_four_steps_comes_closer_to_the_teacher_of_many():
    components = debug_components()
    objective = Distilled(components, Distillation(steps=4, guidance=2.0), 1.0)
    teacher = objective._teacher[0]
    step = make_step(components, batch=4)
    tokens = step.text

    @torch.no_grad()
    def sampled(parts, steps, guidance):
        no_text = parts.text([""] * 4)
        given = Conditions(parts.text.encode_tokens(tokens), no_text, step.condition, step.roles)
        scheduler = FlowMatchEulerDiscreteScheduler()
        return denoise(parts.transformer, scheduler, step.noise, given, Guidance(guidance), steps)[0]

    truth = sampled(teacher, 32, 2.0)
    step.clean = [truth]  # a random teacher's data is what it makes of noise
    before = [(sampled(*how) - truth).square().mean() for how in ((teacher, 4, 2.0), (components, 4, 1.0))]
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        step.t = torch.rand(4, generator=generator)
        optimizer.zero_grad()
        objective(step).mean().backward()
        optimizer.step()
    after = (sampled(components, 4, 1.0) - truth).square().mean()
    assert after < 0.6 * min(before), (before, after)
    assert torch.equal(truth, sampled(teacher, 32, 2.0))  # the teacher has not learned


RUN = ["debug", "--distillation.steps", "4", "--distillation.guidance", "1.5", "--data.batch-size", "2",
       "--optimizer.ema", "0.5", "--optimizer.warmup", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def teacher_folder(tiny_pipeline_folder) -> str:
    return str(tiny_pipeline_folder)


def weights(folder: Path, part: str = "transformer") -> dict[str, torch.Tensor]:
    return load_file(next((folder / part).glob("*.safetensors")))


def test_a_run_makes_an_ordinary_model_of_four_steps_and_resumes_exactly(teacher_folder, tmp_path, capfd):
    def train(output, steps, *more):
        status = main(
            [*RUN, "--model", teacher_folder, "--output", str(tmp_path / output), "--steps", str(steps), *more]
        )
        forget_accelerate()
        assert status == 0, capfd.readouterr().err
        return tmp_path / output / "model"

    student = train("whole", 4)
    pipeline = UniRealPipeline.from_pretrained(student)
    assert pipeline.config.default_steps == 4 and pipeline.config.default_guidance == 1.0
    before, after = weights(Path(teacher_folder)), weights(student)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) > len(before) / 2 and all(torch.isfinite(x).all() for x in after.values())
    latest = weights_of_run(tmp_path / "whole")
    assert any(not torch.equal(after[n], latest[n]) for n in changed)  # what is saved is the average
    train("parts", 2)
    resumed = weights(train("parts", 4, "--resume"))
    assert all(torch.equal(resumed[name], after[name]) for name in after)


def weights_of_run(output: Path) -> dict[str, torch.Tensor]:
    """The trained weights themselves in a run's newest checkpoint."""
    newest = max((output / "checkpoints").glob("step-*"))
    tensors = {k: v for file in newest.glob("*.safetensors") for k, v in load_file(file).items()}
    prefix = "model.transformer."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def test_a_fresh_model_has_nothing_to_teach(tmp_path, capfd):
    assert main([*RUN, "--output", str(tmp_path / "run")]) == 2
    error = capfd.readouterr().err
    assert "nothing to teach" in error and error.count("\n") == 1
    with pytest.raises(ValueError, match="substeps >= 1"):
        Distillation(steps=4, substeps=0)


def test_the_recipe_starts_from_the_shipped_model():
    config = get_experiment("tiny-4step")
    assert config.model == "unireal-tiny" and config.distillation.steps == 4
