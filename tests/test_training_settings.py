"""What a run's settings say reaches the part that they are for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import debug_components, quiet_pipeline
from processes import forget_accelerate
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_builders.world.recipes import world_sample
from unireal.data.mixture import Mixture
from unireal.data.preparation import DataConfig, prepared
from unireal.data.sources import Source
from unireal.diffusion.flow import TimeSampling, flow_loss
from unireal.experiments import EXPERIMENTS, LoraConfig, OptimizerConfig, Stage, TrainConfig
from unireal.pipeline import UniRealPipeline
from unireal.sample import Frame, Role, Sample
from unireal.training import sheets, trainer
from unireal.training.checkpoint import complete_checkpoints
from unireal.training.cli import overridden
from unireal.training.objective import Objective, Step
from unireal.training.optimizers import make_optimizers
from unireal.training.trainer import Trainer
from unireal.transforms import collate

pytestmark = pytest.mark.usefixtures("small_training")
EDITS = Source("data_builders.world.stream:WorldStream", options={"recipes": ("recolor",), "sizes": ((16, 16),)})
DATA = DataConfig((EDITS,), batch_size=2, text_dropout=0, input_dropout=0)
CONSTANT = OptimizerConfig(lr=1e-3, warmup=0)


@pytest.fixture
def config(tiny_pipeline_folder) -> TrainConfig:
    return replace(EXPERIMENTS["debug"], model=str(tiny_pipeline_folder), data=DATA, optimizer=CONSTANT)


def made(config: TrainConfig, output: Path) -> Trainer:
    forget_accelerate()
    output.mkdir(exist_ok=True)
    return Trainer(config, output)


def test_as_many_samples_as_asked_lose_their_text_context_or_inputs():
    sample = world_sample("recolor", 0, (8, 8))
    config = DataConfig(text_dropout=0.3, context_dropout=0.5, input_dropout=0.2)

    def lost(config: DataConfig) -> np.ndarray:
        """(1000, 3): without text and context, without context alone, without inputs."""
        samples = [prepared(sample, number, 0, config) for number in range(1000)]
        assert all(s.instruction or not s.context for s in samples)
        return np.array([(not s.instruction, bool(s.instruction) and not s.context, not s.inputs) for s in samples])

    seen = lost(config)
    np.testing.assert_allclose(seen.mean(axis=0), [0.2 + 0.8 * 0.3, 0.8 * 0.7 * 0.5, 0.2], atol=0.05)
    assert seen[seen[:, 2], 0].all()  # as in guidance: without images there is no text, but not the other way round
    assert (lost(config) == seen).all() and (lost(replace(config, seed=1)) != seen).any()
    assert not lost(replace(config, text_dropout=0, context_dropout=0, input_dropout=0)).any()


def test_noise_times_weights_and_rates_of_the_stages(config, tmp_path, monkeypatch):
    times, weights, noise, rates = [], [], [], []

    def watched(*arguments):
        step = prepare(*arguments)
        times.append(step.t.min().item())
        weights.append(step.weight[0].max().item())
        noise.append(step.noise[0])
        return step

    prepare = trainer.prepare_step
    monkeypatch.setattr(trainer, "prepare_step", watched)
    later = Stage(2, DATA, TimeSampling(mean=20.0))
    run = made(replace(config, stages=(later,), steps=5, optimizer=replace(CONSTANT, decay=2), changed_weight=7.0),
               tmp_path / "run")  # fmt: skip
    run.train(lambda step, loss: rates.append(run.optimizers[0].param_groups[0]["lr"]))
    assert max(times[:2]) < 0.999 and min(times[2:]) > 0.999
    assert weights == [7.0] * 5 and rates == pytest.approx([1e-3] * 4 + [5e-4])
    made(replace(config, steps=1, changed_weight=7.0), tmp_path / "same").train()
    made(replace(config, steps=1, seed=1), tmp_path / "other").train()
    assert torch.equal(noise[5], noise[0]) and not torch.equal(noise[6], noise[0])
    assert not torch.equal(noise[2], noise[0])  # the samples of a stage are counted from 0, its noise is new


def test_the_seed_of_the_data_changes_which_data_set_and_which_record_come():
    source = Source("test_training:Numbered", options={"length": 50})
    orders = []
    for seed in (0, 0, 1):
        mixture = Mixture((source, source), seed)
        places = [mixture.step() for _ in range(60)]
        orders.append(([place["source"] for place in places], [mixture.record(place)[1] for place in places]))
    assert orders[0] == orders[1] and all(a != b for a, b in zip(orders[0], orders[2], strict=True))


def test_noise_follows_from_the_sample_alone(tiny_pipeline):
    """And not from the state of torch, which is another in each process and at each step."""
    batch, parts = collate([world_sample("recolor", 0, (16, 16))] * 2), tiny_pipeline.as_components()
    drawn = []
    for state in (1, 2):
        torch.manual_seed(state)
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        drawn += trainer.prepare_step(batch, parts, torch.ones(2), generators, 5.0).noise
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0][0], drawn[0][1])


def test_all_results_are_scored_and_the_changed_region_more():
    parts, generator = debug_components(), torch.Generator().manual_seed(0)
    clean, noise, given = ([torch.randn(2, 3, 16, 16, generator=generator) for _ in range(2)] for _ in range(3))
    weight, t = [torch.ones(2, 1, 16, 16) for _ in range(2)], torch.tensor([0.3, 0.8])
    weight[0][..., :8] = 5.0
    weight[1][..., :4] = 3.0
    roles, kind = torch.zeros(2, 0, dtype=torch.long), parts.transformer.config.prediction_type
    step = Step([], clean, noise, t, roles, {}, weight)
    losses = Objective(parts).flow_losses(step, step.noisy, given)
    frames = zip(given, step.noisy, clean, noise, weight, strict=True)
    each = [flow_loss(*four, t, kind, its) for *four, its in frames]
    torch.testing.assert_close(losses, (each[0] + each[1]) / 2)
    assert (losses != Objective(parts).flow_losses(replace(step, weight=weight[::-1]), step.noisy, given)).all()


def test_accumulated_batches_are_one(config, tmp_path):
    one = made(replace(config, steps=1), tmp_path / "one")
    loss = one.train()
    two = made(replace(config, steps=1, data=replace(DATA, batch_size=1), accumulation=2), tmp_path / "two")
    assert two.train() == pytest.approx(loss, rel=1e-5)


class Poor:
    """Of four samples one is bad and one has a long prompt."""

    def __getitem__(self, number: int) -> Sample:
        if number % 4 == 0:
            raise ValueError("bad")
        frame = Frame(np.zeros((16, 16, 3), np.uint8), Role.RESULT)
        return Sample("t2i", "red " * (100 if number % 4 == 1 else 1), results=(frame,))


def test_bad_records_and_cut_prompts_are_in_the_log(config, tmp_path):
    data = replace(DATA, sources=(Source("test_training_settings:Poor"),), bad_share=1.0)
    made(replace(config, data=data, checkpoint_every=9), tmp_path / "run").train()
    (folder,) = (p for p in tmp_path.glob("run/logs/**") if list(p.glob("events*")))
    log = EventAccumulator(str(folder))
    log.Reload()
    for name in ("bad records", "prompts cut off"):
        assert [event.value for event in log.Scalars(name)] == [1, 2]
    assert [p.name for p in complete_checkpoints(tmp_path / "run/checkpoints")] == ["step-0000002"]


def test_gradients_are_clipped_before_the_update(config, tmp_path):
    run = made(replace(config, optimizer=replace(CONSTANT, max_grad_norm=0.01), accumulation=2), tmp_path / "run")
    norms = []

    def norm(*_):
        norms.append(torch.stack([p.grad.norm() for p in run.parameters if p.grad is not None]).norm().item())

    run.optimizers[0].optimizer.register_step_pre_hook(norm)
    run.train()
    assert norms == pytest.approx([0.01] * 2, rel=1e-3)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_the_average_follows_as_it_is_told_to(config, tmp_path, decay):
    run = made(replace(config, optimizer=replace(CONSTANT, ema=decay)), tmp_path / "run")
    before = [p.detach().clone() for p in run.parameters]
    run.train()
    moved = [p for p, old in zip(run.parameters, before, strict=True) if not torch.equal(p, old)]
    same = [torch.equal(p, shadow) for p, shadow in zip(run.parameters, run.ema.shadow_params, strict=True)]
    assert len(moved) > 40 and all(same) == (decay == 0.0)


def test_settings_of_the_optimizers():
    parts = debug_components().trainable
    config = OptimizerConfig(lr=0.1, muon_lr=0.2, text_lr=0.3, weight_decay=0.05, betas=(0.5, 0.6))
    adamw, muon = make_optimizers(parts, config)
    assert {group["weight_decay"] for optimizer in (adamw, muon) for group in optimizer.param_groups} == {0.05}
    assert {group["betas"] for group in adamw.param_groups} == {(0.5, 0.6)}
    names = {parameter: name for name, parameter in parts.named_parameters()}
    hidden = {names[p].split(".", 3)[3] for group in muon.param_groups for p in group["params"]}
    assert hidden == {f"attn1.{part}.weight" for part in ("to_q", "to_k", "to_v", "to_out.0")} | {
        "ff.net.0.proj.weight", "ff.net.2.weight"
    }  # fmt: skip
    text, rest = (next(g for g in adamw.param_groups if g["lr"] == lr) for lr in (0.3, 0.1))
    assert all(names[p].startswith("text_encoder") for p in text["params"]) and len(rest["params"]) > 20


def test_settings_of_an_adapter(config, tmp_path):
    config = replace(config, lora=LoraConfig(rank=2, alpha=8.0, targets=("to_q", "proj_out")))
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(99 + len(weights))  # every process begins with another state
        transformer = made(replace(config, seed=seed), tmp_path / "run").components.transformer
        weights.append(torch.cat([p.flatten() for n, p in transformer.named_parameters() if "lora_A" in n]))
    adapter = transformer.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha, set(adapter.target_modules)) == (2, 8.0, {"to_q", "proj_out"})
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_recomputed_and_compiled_blocks(config, tmp_path):
    for asked in (False, True):
        run = made(replace(config, gradient_checkpointing=asked, compile=asked), tmp_path / "run")
        transformer = run.components.transformer
        assert transformer.gradient_checkpointing == asked
        assert all((b._compiled_call_impl is not None) == asked for b in transformer.transformer_blocks)


@pytest.mark.parametrize(
    ("words", "compiled", "recomputed"),
    [
        (["--compile", "False", "--gradient-checkpointing", "true"], False, True),
        (["--no-compile", "--gradient_checkpointing", "True", "--steps", "9"], False, True),
        (["--gradient-checkpointing", "--compile"], True, True),
    ],
)
def test_fields_that_are_true_or_false_take_a_value_or_none(words, compiled, recomputed):
    found = overridden(EXPERIMENTS["tiny"], words)
    assert (found.compile, found.gradient_checkpointing) == (compiled, recomputed)


def test_a_tuned_model_keeps_its_settings_and_a_fresh_one_has_the_last_stages_shift(config, tmp_path):
    kept = {"native_size": (32, 48), "asset_scale": 0.25, "default_steps": 3, "default_guidance": 2.5}
    kept["default_image_guidance"] = 1.5
    quiet_pipeline(debug_components(), shift=4.0, **kept).save_pretrained(tmp_path / "model", safe_serialization=True)
    made(replace(config, model=str(tmp_path / "model"), steps=1), tmp_path / "run").train()
    tuned = UniRealPipeline.from_pretrained(tmp_path / "run/model")
    assert tuned.scheduler.config.shift == 4.0
    assert {name: tuned.config[name] for name in kept} == kept
    stages = (Stage(1, DATA, TimeSampling(shift=3.0)), Stage(2, DATA))
    assert made(replace(config, model="debug", stages=stages), tmp_path / "run").start.settings["shift"] == 3.0


def test_an_export_that_fails_keeps_the_earlier_one(tmp_path):
    def full(folder: Path) -> None:
        folder.mkdir()
        raise OSError("no space left on device")

    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("whole")
    with pytest.raises(OSError, match="no space"):
        sheets._replace(tmp_path / "model", full)
    assert (tmp_path / "model/weights").read_text() == "whole"


def test_sheets_show_frames_as_large_as_they_are_trained_on(tiny_pipeline, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(UniRealPipeline, "generate", lambda self, s: shown.extend(s) or [[s[0].results[0].image]])
    sheets.save_sheet(tiny_pipeline.as_components(), {}, replace(DATA, side=32), tmp_path / "sheet.png")
    assert {f.size for s in shown for f in (*s.inputs, *s.results)} == {(32, 32)}
