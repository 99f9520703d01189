"""Fine-tuning: an adapter, parts of the weights, all of them; and a new task in one file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import debug_components, quiet_pipeline
from PIL import Image
from processes import forget_accelerate
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unireal.cli import main as infer
from unireal.experiments import EXPERIMENTS, LoraConfig, OptimizerConfig, TrainConfig
from unireal.pipeline import UniRealPipeline
from unireal.plugins import load_plugin
from unireal.tasks import CANVAS, TASKS, TaskSpec, register
from unireal.training.cli import main
from unireal.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_training")
ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "new_task"
STEEP = OptimizerConfig(lr=2e-2, warmup=0, ema=0.5)
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
LORA = "adapter_model.safetensors"


@pytest.fixture
def finetuning(tiny_pipeline_folder) -> TrainConfig:
    """From a saved model of the debug size."""
    return replace(EXPERIMENTS["debug"], model=str(tiny_pipeline_folder), optimizer=STEEP, steps=2)


def train(config: TrainConfig, output: Path, resume: bool = False) -> Trainer:
    forget_accelerate()
    output.mkdir(exist_ok=True)
    trainer = Trainer(config, output)
    if resume:
        trainer.resume()
    trainer.train()
    return trainer


def changed(before: Path, after: Path) -> set[str]:
    a, b = load_file(before / WEIGHTS), load_file(after / WEIGHTS)
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


def test_a_lora_is_saved_alone_and_loads_with_lora(finetuning, tiny_pipeline_folder, tmp_path, picture, capsys):
    config = replace(finetuning, lora=LoraConfig(rank=2))
    trainer = train(config, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["checkpoints", "logs", "lora"]
    assert sorted(p.name for p in (tmp_path / "run/lora").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    (shard,) = (tmp_path / "run/checkpoints/step-0000002").glob("*.safetensors")
    assert shard.stat().st_size < 200_000 and all("lora_" in name for name in load_file(shard))
    pipeline = UniRealPipeline.from_pretrained(tiny_pipeline_folder)
    pipeline.load_lora_weights(tmp_path / "run/lora")
    loaded = {n: p for n, p in pipeline.transformer.named_parameters() if "lora_" in n}
    averages = dict(zip(trainer.tensors.parameters, trainer.ema.shadow_params, strict=True))
    assert all(torch.equal(p, averages[f"transformer.{n}"]) for n, p in loaded.items()) and len(loaded) == 16
    assert any(p.abs().max() > 0 for n, p in loaded.items() if "lora_B" in n)
    arguments = ["edit", "--canvas", picture("room.png"), "--prompt", "red", "--model", tiny_pipeline_folder]
    results = []
    for name, lora in (("plain.png", []), ("adapted.png", ["--lora", tmp_path / "run/lora"])):
        assert infer([str(a) for a in (*arguments, "--output", tmp_path / name, *lora)]) == 0
        results.append(np.asarray(Image.open(tmp_path / name)))
    assert (results[0] != results[1]).any()


def test_an_adapter_on_another_base_is_told(finetuning, tiny_pipeline_folder, infer, tmp_path):
    """Its file names the base; a copy is the same, and adapters that do not say are taken as they are."""
    quiet_pipeline(debug_components(seed=1)).save_pretrained(tmp_path / "other/model", safe_serialization=True)
    shutil.copytree(tiny_pipeline_folder, tmp_path / "copied")
    train(replace(finetuning, lora=LoraConfig(rank=2)), tmp_path / "run")
    weights = tmp_path / "run/lora/adapter_model.safetensors"
    with safe_open(weights, "pt") as file:
        assert file.metadata()["base_model"] == "debug" and len(file.metadata()["base_fingerprint"]) == 32
    told = "LoRA 'run/lora' was trained on 'debug', which has other weights than this model ('other/model'); "

    def warnings(model: str) -> list[str]:
        done = infer(*"t2i --prompt red --lora run/lora --json --output o.png".split(), model=model)
        assert done.status == 0 and done.err.count("warning: LoRA") == len(json.loads(done.out)["warnings"])
        return json.loads(done.out)["warnings"]

    (warning,) = warnings("other/model")
    assert warning == told + "give the model it was trained on"
    assert not warnings(str(tiny_pipeline_folder)) and not warnings("copied")
    tensors = load_file(weights)
    save_file(tensors, weights)
    assert not warnings("./other/model")  # not the pipeline of the first call, which infer.py keeps


def test_a_lora_resumes_exactly(finetuning, tmp_path):
    config = replace(finetuning, lora=LoraConfig(rank=2), steps=4, checkpoint_every=2)
    whole = train(config, tmp_path / "whole")
    train(replace(config, steps=2), tmp_path / "parts")
    resumed = train(config, tmp_path / "parts", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.ema.shadow_params, resumed.ema.shadow_params, strict=True))


def test_an_adapter_goes_on_with_another_run(finetuning, tmp_path):
    first = replace(finetuning, lora=LoraConfig(rank=2, alpha=4.0, targets=("to_q", "proj_out")))
    train(first, tmp_path / "first")
    again = replace(finetuning, lora=LoraConfig(start=str(tmp_path / "first/lora")))
    still = replace(again, optimizer=replace(finetuning.optimizer, lr=0.0))
    for config, name in ((still, "still"), (again, "again")):
        train(config, tmp_path / name)
    before, kept, after = (load_file(tmp_path / name / "lora" / LORA) for name in ("first", "still", "again"))
    assert before.keys() == kept.keys() == after.keys() and any("proj_out" in name for name in after)
    assert all(torch.equal(before[name], kept[name]) for name in before)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    configs = [json.loads((tmp_path / name / "lora/adapter_config.json").read_text()) for name in ("first", "again")]
    assert [(c["r"], c["lora_alpha"]) for c in configs] == [(2, 4.0), (2, 4.0)]


def test_what_is_trained_goes_on_with_the_model_that_it_began_with(finetuning, tiny_pipeline_folder, tmp_path):
    quiet_pipeline(debug_components(seed=1)).save_pretrained(tmp_path / "other", safe_serialization=True)
    config = replace(finetuning, lora=LoraConfig(rank=2))
    train(config, tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds only what was trained; '.*other' has other weights"):
        train(replace(config, model=str(tmp_path / "other"), steps=3), tmp_path / "run", resume=True)
    shutil.copytree(tiny_pipeline_folder, tmp_path / "copied")
    train(replace(config, model=str(tmp_path / "copied"), steps=3), tmp_path / "run", resume=True)
    train(finetuning, tmp_path / "all")  # all weights are in its checkpoint
    train(replace(finetuning, model=str(tmp_path / "other"), steps=3), tmp_path / "all", resume=True)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("conditions",), {"role_embedding.weight", "index_embedding.weight", "patch_embed.text_proj"}),
        (("projections",), {"to_q", "to_k", "to_v", "to_out"}),
        ((r"blocks\.1\.ff",), {"transformer_blocks.1.ff"}),
    ],
)
def test_only_the_chosen_parts_change(finetuning, tiny_pipeline_folder, tmp_path, parts, expected):
    trainer = train(replace(finetuning, trainable=parts), tmp_path / "run")
    names = changed(tiny_pipeline_folder, tmp_path / "run/model")
    assert names and all(any(part in name for part in expected) for name in names)
    assert all(any(part in name for name in names) for part in expected)
    assert len(trainer.parameters) < 30
    text = "text_encoder/model.safetensors"
    before, after = load_file(tiny_pipeline_folder / text), load_file(tmp_path / "run/model" / text)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_all_weights_change_and_the_models_settings_stay(finetuning, tiny_pipeline_folder, tmp_path):
    train(finetuning, tmp_path / "run")
    assert len(changed(tiny_pipeline_folder, tmp_path / "run/model")) > 40
    before, after = (UniRealPipeline.from_pretrained(f) for f in (tiny_pipeline_folder, tmp_path / "run/model"))
    assert after.config.default_steps == before.config.default_steps == 2
    assert after.scheduler.config.shift == before.scheduler.config.shift


def test_parts_and_an_adapter_make_a_model_that_loads(finetuning, tiny_pipeline_folder, tmp_path):
    """The adapter is merged into the model, and saved alone besides."""
    config = replace(finetuning, trainable=("conditions",), lora=LoraConfig(rank=2))
    train(config, tmp_path / "run")
    names = changed(tiny_pipeline_folder, tmp_path / "run/model")
    assert any("role_embedding" in name for name in names) and any(".attn1.to_q.weight" in name for name in names)
    assert not any(".ff." in name for name in names)
    pipeline = UniRealPipeline.from_pretrained(tmp_path / "run/model")
    assert not any("lora" in name for name, _ in pipeline.transformer.named_parameters())
    base = UniRealPipeline.from_pretrained(tiny_pipeline_folder)
    base.load_lora_weights(tmp_path / "run/lora")
    base.transformer.fuse_lora()
    adapted = base.transformer.transformer_blocks[0].attn1.to_q.base_layer.weight
    torch.testing.assert_close(pipeline.transformer.transformer_blocks[0].attn1.to_q.weight, adapted)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--trainable nothing", "trainable 'nothing' matches no parameter"),
        ("--trainable (", "is no regular expression"),
        ("--lora.rank -1", "lora has rank >= 0"),
        ("--lora.rank 2", "the fresh model 'debug' below it would be lost; give --model a trained one"),
        ("--lora.rank 2 --trainable output --lora.targets to_x", "no layer's name ends in 'to_x'"),
        ("--lora.start unireal-tiny-128 --lora.rank 2", "lora.start 'unireal-tiny-128' has its own rank, alpha and"),
        ("--lora.start runs/none --trainable output", "LoRA folder 'runs/none' lacks adapter_config.json"),
        ("--lora.start unireal-tiny-128 --trainable output", "was made for another model (unireal-tiny)"),
        ("--plugin missing.py", "plugin 'missing.py' is not a file"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, expected):
    try:
        status = main(["debug", "--output", str(tmp_path / "run"), *arguments.split()])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and expected in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


# The documented example: a task in one file


def test_the_example_learns_its_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    small = ["--steps", "6", "--data.batch-size", "4", "--optimizer.lr", "1e-2", "--optimizer.warmup", "0"]
    small += ["--optimizer.decay", "0", "--sample-every", "0", "--precision", "no", "--workers", "0"]
    losses: list[float] = []
    mean_loss = Trainer._mean_loss
    monkeypatch.setattr(Trainer, "_mean_loss", lambda self, x: losses.append(mean_loss(self, x)) or losses[-1])
    assert main(["examples/new_task/run.yaml", "--output", str(tmp_path / "run"), *small]) == 0
    assert np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])
    assert TASKS["night"].slots == (CANVAS,)
    capsys.readouterr()
    arguments = ["night", "--canvas", "examples/room.png", "--output", str(tmp_path / "night.png"), "--steps", "1"]
    assert infer([*arguments, "--plugin", "examples/new_task/task.py", "--lora", str(tmp_path / "run/lora")]) == 0
    assert Image.open(tmp_path / "night.png").size == Image.open("examples/room.png").size


def test_a_new_process_knows_the_task_by_its_plugin():
    command = [sys.executable, "infer.py", "--list-tasks", "--plugin", "examples/new_task/task.py"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "night" in listing and "show a scene at night" in listing


def test_names_of_tasks_are_taken_once():
    first = load_plugin(EXAMPLE / "task.py").NIGHT
    assert register(first) is first
    with pytest.raises(ValueError, match="there is a task 'edit' already"):
        register(TaskSpec(name="edit", summary="another", slots=()))
