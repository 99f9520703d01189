"""Training: a run and what it leaves, exact resumption, the command line, what is logged."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from processes import forget_accelerate
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_builders.world.recipes import world_sample
from unireal.config import MODELS
from unireal.data.buckets import BucketedBatches, batches
from unireal.data.mixture import Mixture, Source
from unireal.data.preparation import DataConfig
from unireal.experiments import EXPERIMENTS, OptimizerConfig, Stage, TrainConfig
from unireal.model.build import word_tokenizer
from unireal.pipeline import UniRealPipeline
from unireal.sample import Frame, Role, Sample
from unireal.tasks import TASKS
from unireal.training import sheets, start
from unireal.training.checkpoint import complete_checkpoints
from unireal.training.cli import main
from unireal.training.objective import Objective, prepare_step
from unireal.training.optimizers import learning_rate_factor
from unireal.training.trainer import Trainer
from unireal.transforms import collate

pytestmark = pytest.mark.usefixtures("small_training")
DEBUG = replace(EXPERIMENTS["debug"], steps=4, checkpoint_every=2)


def _trainer(config: TrainConfig, output: Path) -> Trainer:
    forget_accelerate()
    output.mkdir(exist_ok=True)
    return Trainer(config, output)


class EightPictures:
    """An endless stream of eight pictures, each with its own instruction."""

    def __getitem__(self, number: int) -> Sample:
        value = number % 8
        image = np.full((16, 16, 3), 28 * value + 20, np.uint8)
        image[:8] = 255 - image[:8]
        return Sample("t2i", f"red{value}", results=(Frame(image, Role.RESULT),))


class Numbered(EightPictures):
    """As many samples, numbered by their instruction."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Sample:
        return replace(super().__getitem__(number), instruction=str(number))


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished debug run."""
    output = tmp_path_factory.mktemp("runs") / "debug"
    assert (
        main(["debug", "--output", str(output), "--steps", "3", "--data.batch-size", "4", "--sample-every", "3"]) == 0
    )
    forget_accelerate()
    return output


def test_a_run_leaves_model_checkpoints_logs_and_sheets(run):
    assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "logs", "model", "samples"]
    assert [p.name for p in complete_checkpoints(run / "checkpoints")] == ["step-0000002", "step-0000003"]
    assert [p.name for p in (run / "samples").iterdir()] == ["step-0000003.png"]
    pipeline = UniRealPipeline.from_pretrained(run / "model")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("red", task="t2i", output_type="np").images[0].shape == (64, 64, 3)


def test_the_log_has_losses_by_task_and_time(run):
    (folder,) = (p for p in run.glob("logs/**") if list(p.glob("events*")))
    log = EventAccumulator(str(folder))
    log.Reload()
    names = set(log.Tags()["scalars"])
    assert {"loss", "gradient norm", "learning rate"} <= names
    assert {"share of time waiting for data", "samples waiting for a batch", "bad records", "prompts cut off"} <= names
    assert {n.removeprefix("loss by task/") for n in names if n.startswith("loss by task/")} <= set(TASKS)
    assert any(n.startswith("loss by task/") for n in names)
    assert {n for n in names if n.startswith("loss by time/")} <= {f"loss by time/{b / 5:.1f}" for b in range(5)}
    assert [e.step for e in log.Scalars("loss")] == [1, 2, 3]
    assert log.Scalars("learning rate")[0].value == pytest.approx(1e-3 / 100)


def test_the_exported_model_is_the_average(tmp_path):
    config = replace(DEBUG, optimizer=OptimizerConfig(lr=0.05, warmup=0, ema=0.9))
    run = _trainer(config, tmp_path / "run")
    run.train()
    saved = load_file(tmp_path / "run/model/transformer/diffusion_pytorch_model.safetensors")
    names = {id(p): n for n, p in run.components.transformer.named_parameters()}
    pairs = [(names[id(p)], p, s) for p, s in zip(run.parameters, run.ema.shadow_params, strict=True) if id(p) in names]
    assert len(pairs) == len(names)
    assert all((saved[name] == shadow).all() for name, _, shadow in pairs)
    assert any((saved[name] != live).any() for name, live, _ in pairs)


def test_sheets_show_what_training_does_not_reach(run, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(UniRealPipeline, "generate", lambda self, s: shown.extend(s) or [[s[0].results[0].image]])
    parts = UniRealPipeline.from_pretrained(run / "model").as_components()
    sheets.save_sheet(parts, {}, DEBUG.data, tmp_path / "sheet.png")
    trained = {s.results[0].image.tobytes() for s in islice(Mixture(DEBUG.data.sources, DEBUG.data.seed), 64)}
    assert len(shown) == sheets.SHEET_ROWS and not trained & {s.results[0].image.tobytes() for s in shown}


def test_overfitting_lowers_the_loss(tmp_path):
    data = DataConfig((Source("test_training:EightPictures"),), batch_size=8, text_dropout=0, context_dropout=0)
    optimizer = OptimizerConfig(lr=1e-2, muon_lr=0.02, warmup=5)
    config = replace(DEBUG, data=data, optimizer=optimizer, steps=120, log_every=50, checkpoint_every=120)
    losses = _trainer(config, tmp_path / "run").train()
    assert np.mean(losses[-30:]) < 0.5 * np.mean(losses[:10])


# Resumption


class _KilledError(Exception):
    pass


def _losses_of_killed_and_resumed(config: TrainConfig, output: Path, monkeypatch, after: int) -> list[float]:
    """A run that dies in step `after` + 1, and the losses after it is resumed from its newest checkpoint."""
    killed = _trainer(config, output)
    backward = Trainer._backward

    def dying(self, *arguments):
        if self.step == after:
            raise _KilledError
        return backward(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_backward", dying)
        with pytest.raises(_KilledError):
            killed.train()
    torch.manual_seed(99)  # what a new process starts with must not matter
    resumed = _trainer(config, output)
    resumed.resume()
    return resumed.train()


MUON = OptimizerConfig(lr=1e-2, muon_lr=0.02, warmup=3, decay=2)


@pytest.mark.parametrize(
    "changes",
    [{}, {"accumulation": 2, "optimizer": MUON}, {"workers": 1}, {"gradient_checkpointing": True, "precision": "bf16"}],
    ids=["plain", "accumulation and muon", "worker", "checkpointing and bf16"],
)
def test_kill_and_resume_equals_one_run(tmp_path, monkeypatch, changes):
    config = replace(DEBUG, steps=5, **changes)
    uninterrupted = _trainer(config, tmp_path / "a")
    losses = uninterrupted.train()
    resumed = _losses_of_killed_and_resumed(config, tmp_path / "b", monkeypatch, after=3)
    assert len(losses) == 5 and losses[2:] == resumed
    file = "model/transformer/diffusion_pytorch_model.safetensors"
    a, b = load_file(tmp_path / "a" / file), load_file(tmp_path / "b" / file)
    assert all((a[name] == b[name]).all() for name in a)


def test_other_data_begins_with_a_stage(tmp_path):
    """In the midst of a stage the mixture stays as it is; the words of a fresh model stay in any case."""
    one, other = (Source("test_training:Numbered", options={"length": length}) for length in (5, 7))
    config = replace(DEBUG, data=DataConfig((one,), batch_size=2), steps=2)
    first = _trainer(config, tmp_path / "run")
    first.train()
    mixed = replace(config.data, sources=(*DEBUG.data.sources, other))
    stays = r"mixture of 1 data sets with data.seed 0, this one has {} data sets with data.seed {}; .* starts at step 2"
    with pytest.raises(ValueError, match=stays.format(2, 0)):
        _trainer(replace(config, data=mixed), tmp_path / "run").resume()
    with pytest.raises(ValueError, match=stays.format(1, 3)):
        _trainer(replace(config, data=replace(config.data, seed=3)), tmp_path / "run").resume()
    resumed = _trainer(replace(config, stages=(Stage(2, mixed),), steps=4), tmp_path / "run")
    resumed.resume()
    assert len(resumed.train()) == 2
    assert resumed.components.tokenizer.get_vocab() == first.components.tokenizer.get_vocab()


def test_an_empty_data_set_is_told():
    with pytest.raises(ValueError, match="'test_training:Numbered' has no samples; leave it out"):
        Mixture([Source("test_training:Numbered", options={"length": 0})])


def test_no_clipping(tmp_path):
    free = _trainer(replace(DEBUG, optimizer=OptimizerConfig(max_grad_norm=0)), tmp_path / "free")
    loose = _trainer(replace(DEBUG, optimizer=OptimizerConfig(max_grad_norm=1e9)), tmp_path / "loose")
    assert free.train() == loose.train()
    assert all(torch.equal(a, b) for a, b in zip(free.parameters, loose.parameters, strict=True))


def test_the_changed_region_lies_where_it_is_in_padded_frames(tiny_pipeline):
    image, mask = np.zeros((12, 20, 3), np.uint8), np.zeros((12, 20), bool)
    mask[9, 14] = True  # frames are padded to 16 x 24 at the right and the bottom
    sample = Sample("edit", "x", inputs=(Frame(image, Role.CANVAS),), results=(Frame(image, Role.RESULT),), mask=mask)
    parts = tiny_pipeline.as_components()
    step = prepare_step(collate([sample]), parts, torch.tensor([0.5]), [torch.Generator()], changed_weight=5)
    (weight,) = step.weight
    assert (weight == 5).nonzero().tolist() == [[0, 0, 9, 14]] and weight.shape == (1, 1, 16, 24)


@pytest.mark.parametrize(("recipe", "weighed"), [
    ("segment", [1]), ("edit_mask", [2, 1]), ("customize_mask", [1, 1]), ("edit_depth", [2, 1]),
    ("video_edit", [2] * 4),
])  # fmt: skip
def test_masks_are_learned_with_one_weight_inside_and_outside(tiny_pipeline, recipe, weighed):
    """With more inside, the best guess where a pixel may or may not belong to a thing would be that it does. So also
    for the mask of an edit that is a result beside the edited picture; only pictures have two weights."""
    samples = [world_sample(recipe, seed, (16, 16)) for seed in range(4)]
    step = prepare_step(
        collate(samples), tiny_pipeline.as_components(), torch.rand(4), [torch.Generator()] * 4, changed_weight=5
    )
    assert [weight.unique().numel() for weight in step.weight] == weighed
    if 1 in weighed and "mask" in recipe:
        assert step.clean[-1].unique().numel() == 2


def test_half_written_checkpoints_are_ignored(tmp_path):
    run = _trainer(DEBUG, tmp_path / "run")
    run.train()
    folder = tmp_path / "run/checkpoints"
    (folder / "step-0000009.tmp").mkdir()
    (folder / "step-0000009.tmp/state.json").write_text("{")
    (folder / "step-0000008").mkdir()
    resumed = _trainer(DEBUG, tmp_path / "run")
    resumed.resume()
    assert resumed.step == 4 and resumed.train() == []


def test_a_mixture_resumes_to_the_sample_and_ranks_share_it():
    sources = [
        Source("test_training:Numbered", 3.0, {"length": 5}),
        Source("test_training:Numbered", 1.0, {"length": 7}),
    ]
    everything = [s.instruction for s in islice(Mixture(sources, 1), 40)]
    by_rank = [[s.instruction for s in islice(Mixture(sources, 1, rank, 2), 20)] for rank in range(2)]
    assert everything[::2] == by_rank[0] and everything[1::2] == by_rank[1]
    mixture = Mixture(sources, 1)
    list(islice(mixture, 13))
    again = Mixture(sources, 1)
    again.load_state(mixture.state())
    assert [s.instruction for s in islice(again, 27)] == everything[13:]
    single = [s.instruction for s in islice(Mixture(sources[:1], 1), 15)]
    assert all(sorted(single[i : i + 5]) == list("01234") for i in (0, 5, 10))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_resume_after_any_batch(workers):
    config = DataConfig(DEBUG.data.sources, batch_size=3, seed=5)
    stream = list(islice(iter(BucketedBatches(config, rank=1, world_size=2)), 7))
    again = islice(batches(config, 1, 2, stream[3][1], workers), 3)
    for (batch, state), (expected, expected_state) in zip(again, stream[4:], strict=True):
        assert batch.prompts == expected.prompts and batch.tasks == expected.tasks
        assert all((a == b).all() for a, b in zip(batch.results, expected.results, strict=True))
        assert batch.numbers == expected.numbers and state == expected_state


def test_batches_of_large_pictures_have_fewer_samples():
    sizes = ((16, 16), (16, 32), (32, 32), (64, 64))
    world = Source("data_builders.world.stream:WorldStream", options={"sizes": sizes, "recipes": ("recolor",)})
    config = DataConfig((world,), batch_size=8, full_batch_side=16, input_dropout=0)
    stream = list(islice(BucketedBatches(config), 40))
    found = {tuple(batch.results[0].shape[-2:]): len(batch.prompts) for batch, _ in stream}
    assert found == {(16, 16): 8, (16, 32): 4, (32, 32): 2, (64, 64): 1}
    resumed = list(islice(BucketedBatches(config, state=stream[10][1]), 29))
    assert [b.numbers for b, _ in resumed] == [b.numbers for b, _ in stream[11:]]


def test_buckets_overfull_at_a_resume_are_emptied():
    """As they are with a smaller size of batches, or with other weights of the recipes."""
    config = DataConfig(DEBUG.data.sources, batch_size=16, seed=5)
    first = list(islice(BucketedBatches(config), 6))
    later = list(islice(BucketedBatches(replace(config, batch_size=2), state=first[-1][1]), 300))
    batch, last = later[-1]
    assert len(batch.numbers) == 2
    seen = [number for batch, _ in first + later for number in batch.numbers]
    waiting = [place["draw"] for place in last[0]["waiting"]]
    assert sorted(seen + waiting) == list(range(last[0]["mixture"]["draw"]))  # none is lost, none comes twice
    assert len(last[0]["waiting"]) < 40  # about one for each kind of sample


def test_padding_is_below_five_percent_of_the_tokens(monkeypatch):
    config = EXPERIMENTS["tiny"]
    monkeypatch.setattr(start, "_VOCABULARY_SAMPLES", 1500)
    tokenizer, padded, total = word_tokenizer(start.vocabulary(config)), 0, 0
    for batch, _ in islice(batches(config.data, workers=0), 30):
        mask = tokenizer(batch.prompts, padding="longest", return_tensors="np")["attention_mask"]
        frames = len(batch.inputs) + len(batch.results)
        padded += int((mask == 0).sum())
        total += mask.size + len(batch.prompts) * frames * 64
    assert padded / total < 0.05


# The command line


@pytest.fixture
def rejected(capfd, tmp_path):
    """Asserts that a call is bad input and returns its one line."""

    def call(*arguments: str) -> str:
        forget_accelerate()
        before = sorted(tmp_path.rglob("*"))
        capfd.readouterr()
        assert main([*arguments]) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and error.startswith("train.py: ") and "Traceback" not in error, error
        assert sorted(tmp_path.rglob("*")) == before
        return error

    return call


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("debgu", "did you mean 'debug'?"),
        ("debug --resume", "no checkpoint in"),
        ("debug --steps 0", "steps must be at least 1, got 0"),
        ("debug --steps many", "invalid literal for int"),
        ("debug --optimizer.lrr 1", "Perhaps you meant: --optimizer.lr"),
        ("debug stray", "Unrecognized options: stray"),
        ("debug --data.batch-size 0", "data.batch_size must be at least 1"),
        ("debug --data.text-dropout 2", "is a share in 0..1"),
        ("debug --time.std 0", "std > 0"),
        ("debug --precision fp8", "precision must be"),
        ("debug --model huge", "neither a folder nor one of: unireal-tiny, debug, tiny"),
        ("debug --optimizer.max-grad-norm -1", "optimizer.max_grad_norm must be at least 0, got -1.0"),
        ("debug --optimizer.lr nan", "optimizer.lr must be at least 0, got nan"),
        ("debug --lora.rank 2 --lora.alpha nan", "alpha >= 0"),
        ("debug --optimizer.ema 2", "optimizer.ema is in 0..1"),
        ("debug --changed-weight 0", "changed_weight must be above 0"),
        ("debug --sample-every -1", "sample_every must be at least 0"),
        ("debug --workers 4", "workers is 1, a process that makes batches ahead, or 0"),
        ("debug --data.seed -1", "data.seed must be at least 0"),
    ],
)
def test_bad_arguments(rejected, tmp_path, arguments, expected):
    assert expected in rejected(*arguments.split(), "--output", str(tmp_path / "run"))


def test_an_existing_run_needs_resume(rejected, run):
    assert "add --resume or give another --output" in rejected("debug", "--output", str(run))
    larger = rejected("debug", "--output", str(run), "--resume", "--model", "tiny")
    assert "does not fit this model: t" in larger and "not trained there" in larger and "by --model" in larger
    assert f"give '{run / 'model'}'" in rejected("debug", "--output", str(run / "other"), "--model", str(run))


def test_a_resumed_run_has_no_fewer_steps(rejected, run):
    message = rejected("debug", "--output", str(run), "--resume", "--steps", "2")
    assert "step-0000003 is beyond the last of 2 steps; give --steps 3 or more" in message


def test_a_resumed_run_keeps_its_optimizers(rejected, run):
    message = rejected("debug", "--output", str(run), "--resume", "--steps", "5", "--optimizer.muon-lr", "0.01")
    assert "to_q.weight was trained by another optimizer than Muon; resume with optimizer.muon_lr at 0" in message


def test_an_output_below_a_file(rejected, tmp_path):
    (tmp_path / "file").write_text("")
    rejected("debug", "--output", str(tmp_path / "file" / "run"))


def test_overrides_and_a_start_from_a_saved_model(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Trainer, "train", lambda self: seen.append(self))
    options = [
        "--optimizer.lr",
        "5e-4",
        "--optimizer.muon_lr",
        "0.5",
        "--data.seed",
        "7",
        "--model",
        str(run / "model"),
    ]
    assert main(["debug", "--output", str(tmp_path / "run"), *options]) == 0
    assert seen[0].rates == [[5e-4], [0.5]] and seen[0].config.data.seed == 7 and seen[0].config.time == DEBUG.time
    loaded = load_file(run / "model/transformer/diffusion_pytorch_model.safetensors")
    assert all((p == loaded[n]).all() for n, p in seen[0].components.transformer.named_parameters())


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch, capfd):
    forward = Objective.forward
    monkeypatch.setattr(Objective, "forward", lambda self, step: forward(self, step) * float("nan"))
    assert main(["debug", "--output", str(tmp_path / "run")]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert "train.py: the loss is nan at step 0; lower the learning rate" in last
    assert not (tmp_path / "run/model").exists() and not complete_checkpoints(tmp_path / "run/checkpoints")


@pytest.mark.parametrize(
    ("after", "told"), [(1, "no checkpoint was saved yet"), (3, "step-0000002 is whole; --resume")]
)
def test_an_interrupted_run_says_from_where_it_goes_on(tmp_path, monkeypatch, capfd, after, told):
    backward = Trainer._backward

    def interrupted(self, *arguments):
        if self.step == after:
            raise KeyboardInterrupt
        return backward(self, *arguments)

    monkeypatch.setattr(Trainer, "_backward", interrupted)
    assert main(["debug", "--output", str(tmp_path / "run"), "--steps", "4", "--checkpoint-every", "2"]) == 130
    error = capfd.readouterr().err
    last = error.splitlines()[-1]
    assert "train.py: interrupted; " in last and last.endswith(told) and "Traceback" not in error


def test_a_missing_autoencoder_is_told(rejected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = rejected("debug", "--model", "tiny-latent", "--output", str(tmp_path / "run"))
    assert "'runs/vae' is no folder of an AutoencoderDC" in message and "unireal.training.autoencoder" in message


def test_a_fresh_models_vae_stays(tmp_path, monkeypatch):
    """No checkpoint holds the VAE, and latents of another one mean something else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "debug", replace(MODELS["debug"], vae="vae", vae_class="AutoencoderKL"))
    parts = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    config = replace(DEBUG, steps=1)
    for seed in (0, 1):
        torch.manual_seed(seed)
        AutoencoderKL(latent_channels=3, block_out_channels=(4,), norm_num_groups=2, **parts).save_pretrained("vae")
        if not seed:
            _trainer(config, tmp_path / "run").train()
            _trainer(config, tmp_path / "run").resume()
    with pytest.raises(ValueError, match="step-0000001 belongs to another VAE than 'vae' holds now; put that one back"):
        _trainer(config, tmp_path / "run").resume()


def test_learning_rate():
    config = OptimizerConfig(warmup=4, decay=5)
    factors = [learning_rate_factor(step, 20, config) for step in range(20)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0] and factors[-5:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
