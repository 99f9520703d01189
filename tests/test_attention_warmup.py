"""Ditto's warm-up of attention between reference frames and text: the weights themselves, and runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import debug_components
from processes import forget_accelerate

from data_builders.world.recipes import world_sample
from unireal.data.preparation import value_at
from unireal.data.sources import Source
from unireal.experiments import EXPERIMENTS, OptimizerConfig, TrainConfig
from unireal.model.blocks import attend
from unireal.sample import Role
from unireal.training.attention_warmup import weighted
from unireal.training.cli import main
from unireal.training.objective import Objective, Step, predicted, prepare_step
from unireal.training.trainer import Trainer
from unireal.transforms import collate

pytestmark = pytest.mark.usefixtures("small_training")
ASSET, CANVAS = Role.ASSET.index, Role.CANVAS.index
SIZE = (16, 16)  # 4 tokens a frame


def make_step(parts, weight: float = 1.0, seeds: tuple[int, ...] = (0, 1, 2)) -> Step:
    """An insertion has a canvas and an asset; instructions of several lengths are padded."""
    samples = [world_sample("insert", seed, SIZE) for seed in seeds]
    samples[0] = replace(samples[0], instruction="red")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    step = prepare_step(collate(samples), parts, torch.linspace(0.3, 0.9, len(seeds)), generators, 5.0)
    step.reference_weight = weight
    return step


def packed(parts, step: Step):
    text = parts.text.encode_tokens(step.text) if isinstance(step.text, dict) else step.text
    return parts.transformer.pack(
        step.noisy, step.t, text.features, step.condition, step.roles, text.mask, text.referring
    )


def test_the_schedule():
    points = ((10, 9.0), (20, 1.0))
    assert [value_at(step, points) for step in (0, 10, 15, 20, 99)] == [9.0, 9.0, 5.0, 1.0, 1.0]
    assert value_at(7, ()) == 1.0


@pytest.mark.parametrize("length", [40, 600])  # by matmul and softmax, and by a backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_shifts_from_the_text_to_the_reference(length, dtype):
    parts = debug_components(text_length=length)
    step = make_step(parts)
    step.text = {name: torch.nn.functional.pad(x, (0, length - x.shape[1])) for name, x in step.text.items()}
    sequence, (text, canvas, asset) = packed(parts, step), (slice(0, length), *slices(length, 4, 1))
    count = sequence.tokens.shape[1]
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(3, 2, count, 16, generator=generator).to(dtype) for _ in range(2))
    value = torch.eye(count, dtype=dtype).expand(3, 2, -1, -1)

    def masses(keys):
        weights = attend(query, key, value, keys).float()  # (B, heads, N, N)
        assert not weights[..., :length].masked_select(~sequence.keys[:, None, None, :length]).any()
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, count), atol=2e-2, rtol=0)
        return [weights[..., part].sum(-1) for part in (text, canvas, asset)]

    before = masses(sequence.keys)
    for ratio in (9.0, 2.0, 0.5):
        after = masses(weighted(sequence, step.condition, step.roles, 8, ratio).keys)
        tolerance = {"rtol": 1e-4 if dtype == torch.float32 else 0.1, "atol": 0.0}
        torch.testing.assert_close(after[2] / after[0], ratio * before[2] / before[0], **tolerance)
        torch.testing.assert_close(after[2] / after[1], ratio**0.5 * before[2] / before[1], **tolerance)


def slices(start: int, *lengths: int) -> list[slice]:
    found = []
    for length in lengths:
        found.append(slice(start, start + length))
        start += length
    return found


def test_only_samples_with_a_reference_are_weighed():
    parts = debug_components()
    step = make_step(parts, 9.0)
    step.roles[1] = CANVAS
    sequence = packed(parts, step)
    keys = weighted(sequence, step.condition, step.roles, 8, 9.0).keys
    seen = sequence.keys
    assert not keys[1][seen[1]].any() and torch.equal(keys == -torch.inf, ~seen)
    with_it, without = Objective(parts)(step), Objective(parts)(replace(step, reference_weight=1.0))
    assert with_it[1] == without[1] and (with_it != without).tolist() == [True, False, True]
    step.roles[:] = CANVAS
    assert weighted(sequence, step.condition, step.roles, 8, 9.0) is sequence


def test_at_one_nothing_is_added(monkeypatch):
    parts, given = debug_components(), []
    run = parts.transformer.run
    monkeypatch.setattr(parts.transformer, "run", lambda sequence, **options: given.append(sequence) or run(sequence))
    Objective(parts)(make_step(parts))
    Objective(parts)(make_step(parts, 9.0))
    assert [sequence.keys.dtype for sequence in given] == [torch.bool, torch.float32]
    padded = debug_components(pad_text=True)  # CogVideoX attends to its padding
    assert packed(padded, make_step(padded)).keys is None
    losses = [Objective(padded)(make_step(padded, weight)) for weight in (1.0, 9.0)]
    assert (losses[0] != losses[1]).all()


def test_a_padded_prompt_does_not_change_its_result():
    parts = debug_components()
    text = parts.text.encode_tokens(make_step(parts).text)
    assert not text.mask.all()
    together = Objective(parts).predict(make_step(parts, 9.0), make_step(parts).noisy)[0]
    alone = make_step(parts, 9.0, seeds=(0,))
    torch.testing.assert_close(Objective(parts).predict(alone, alone.noisy)[0], together[:1], atol=1e-5, rtol=0)


def test_isolated_inputs_still_do_not_see_the_results():
    parts = debug_components(condition_attention="isolated")
    step = make_step(parts, 9.0)
    other = replace(step, noise=[x + 1 for x in step.noise])

    def run(step, weight):
        sequence = packed(parts, step)
        if weight != 1:
            sequence = weighted(sequence, step.condition, step.roles, 8, weight)
        tokens = parts.transformer.run(sequence)
        return tokens[:, : sequence.num_condition], tokens[:, sequence.num_condition :]

    (inputs, results), (same, changed) = run(step, 9.0), run(other, 9.0)
    assert torch.equal(inputs, same) and not torch.equal(results, changed)
    plain_inputs, plain_results = run(step, 1.0)
    assert not torch.allclose(plain_results, results) and not torch.allclose(plain_inputs, inputs)


def test_recomputed_blocks_are_weighed_too():
    parts = debug_components()
    step = make_step(parts, 9.0)
    losses = Objective(parts)(step)
    parts.transformer.enable_gradient_checkpointing()
    again = Objective(parts)(step)
    assert torch.equal(losses, again)
    again.mean().backward()
    assert parts.transformer.transformer_blocks[0].attn1.to_q.weight.grad.any()


def test_a_teacher_is_not_weighed():
    parts = debug_components()
    step, text = make_step(parts, 9.0), parts.text.encode_tokens(make_step(parts).text)
    outputs = predicted(parts.transformer, step, step.noisy, text)
    expected = predicted(parts.transformer, replace(step, reference_weight=1.0), step.noisy, text)
    assert torch.equal(outputs[0], expected[0])
    assert not torch.equal(Objective(parts).predict(step, step.noisy)[0], expected[0])


# Runs

INSERTIONS = Source("data_builders.world.stream:WorldStream", options={"recipes": ("insert",), "sizes": (SIZE,)})
RUN = replace(
    EXPERIMENTS["debug"],
    data=replace(EXPERIMENTS["debug"].data, sources=(INSERTIONS,), input_dropout=0.0),
    steps=4,
    checkpoint_every=2,
    optimizer=OptimizerConfig(lr=1e-2, warmup=0),
)


def run(config: TrainConfig, output, resume: bool = False) -> list[float]:
    forget_accelerate()
    output.mkdir(exist_ok=True)
    trainer = Trainer(config, output)
    if resume:
        trainer.resume()
    return trainer.train()


def test_a_run_is_weighed_until_the_warmup_ends_and_resumes_exactly(tmp_path, tiny_pipeline_folder):
    trained = replace(RUN, model=str(tiny_pipeline_folder))  # a fresh model's output is 0, whatever it looks at
    plain = run(trained, tmp_path / "plain")
    assert run(replace(trained, reference_weight=((0, 1.0),)), tmp_path / "neutral") == plain
    still = replace(trained, optimizer=OptimizerConfig(lr=0.0))
    first = run(replace(still, reference_weight=((0, 9.0), (1, 1.0))), tmp_path / "first")
    assert [a == b for a, b in zip(first, run(still, tmp_path / "still"), strict=True)] == [False, True, True, True]
    warm = replace(trained, reference_weight=((0, 9.0), (3, 1.0)))
    losses = run(warm, tmp_path / "whole")
    assert losses[0] != plain[0]
    run(replace(warm, steps=2), tmp_path / "parts")
    assert run(warm, tmp_path / "parts", resume=True) == losses[2:]


@pytest.mark.parametrize(
    "points", [((5, 9.0), (0, 1.0)), ((0, 9.0),), ((0, 0.0), (5, 1.0)), ((0, -2.0), (5, 1.0)), ((0, 9.0), (5, 1.5))]
)
def test_a_schedule_that_cannot_be(points):
    with pytest.raises(ValueError, match=r"ascending .* and ends at 1"):
        replace(RUN, reference_weight=points)


def test_on_the_command_line(tmp_path, capfd):
    values = ["--reference-weight", "0", "9", "5", "2"]
    assert main(["debug", "--output", str(tmp_path / "run"), *values]) == 2
    assert "ends at 1" in capfd.readouterr().err
    assert main(["debug", "--output", str(tmp_path / "run"), "--distillation.steps", "4", *values[:-1], "1"]) == 2
    assert "distillation excludes a teacher and a reference_weight" in capfd.readouterr().err
