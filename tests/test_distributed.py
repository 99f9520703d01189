"""Training in several processes: the shipped launch files, the same losses as in one process, other numbers of
processes after a resumption.
"""

from __future__ import annotations

import json
import os
import weakref
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import forget_accelerate, launch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from unireal.data.buckets import BucketedBatches, deal
from unireal.data.preparation import DataConfig
from unireal.data.sources import Source
from unireal.experiments import EXPERIMENTS, OptimizerConfig, TrainConfig
from unireal.sample import Frame, Role, Sample
from unireal.training import sharding, start
from unireal.training.checkpoint import complete_checkpoints
from unireal.training.trainer import Trainer

# Two batches for every step, of one process that accumulates them or of two: the samples are the same.
MUON = OptimizerConfig(lr=1e-2, muon_lr=0.01, warmup=0)
TWO_PROCESSES = replace(EXPERIMENTS["debug"], steps=4, checkpoint_every=2, optimizer=MUON, gradient_checkpointing=True)
ONE_PROCESS = replace(TWO_PROCESSES, accumulation=2)
WEIGHTS = "model/transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def small_vocabulary():
    before, start._VOCABULARY_SAMPLES = start._VOCABULARY_SAMPLES, 100
    yield
    start._VOCABULARY_SAMPLES = before
    forget_accelerate()


def train(config: TrainConfig, output: Path, resume: bool = False, sharded: bool = False) -> None:
    """Writes the losses to output/losses.json."""
    output.mkdir(exist_ok=True)
    trainer = Trainer(config, output)
    assert all(isinstance(p, DTensor) == sharded for p in trainer.parameters)
    if resume:
        trainer.resume()
    losses = trainer.train()
    assert trainer.step == config.steps
    if trainer.accelerator.is_main_process:
        (output / "losses.json").write_text(json.dumps(losses))


def losses(output: Path) -> list[float]:
    return json.loads((output / "losses.json").read_text())


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """A run of one process."""
    forget_accelerate()
    output = tmp_path_factory.mktemp("runs") / "one"
    train(ONE_PROCESS, output)
    return output


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    """The same run in shards in two processes."""
    output = tmp_path_factory.mktemp("runs") / "sharded"
    launch("fsdp2.yaml", 2, train, TWO_PROCESSES, output, False, True)
    return output


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """The same run in two processes with the whole model in each."""
    output = tmp_path_factory.mktemp("runs") / "copied"
    launch("ddp.yaml", 2, train, TWO_PROCESSES, output)
    return output


@pytest.mark.parametrize("run", ["sharded", "copied"])
def test_two_processes_train_as_one(one, run, request):
    other = request.getfixturevalue(run)
    assert len(losses(other)) == 4 and losses(other) == pytest.approx(losses(one), abs=1e-3)
    a, b = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], atol=5e-3) for name in a)  # Muon computes in bfloat16


def test_shards_are_saved_by_all_processes(sharded):
    (checkpoint, _) = complete_checkpoints(sharded / "checkpoints")
    parts = [load_file(file) for file in sorted(checkpoint.glob("shard-*.safetensors"))]
    assert len(parts) == 2
    name = "model.transformer.transformer_blocks.0.ff.net.0.proj.weight"
    assert parts[0][name].shape == parts[1][name].shape == (64, 32)
    assert not {file.suffix for file in checkpoint.iterdir()} - {".safetensors", ".json"}  # nothing pickled


def _from_step_2(run: Path, target: Path) -> Path:
    """A folder in which the run got no further than step 2."""
    (target / "checkpoints").mkdir(parents=True)
    first = complete_checkpoints(run / "checkpoints")[0]
    os.symlink(first, target / "checkpoints" / first.name)
    return target


def test_one_process_goes_on_with_the_shards_of_two(one, sharded, tmp_path):
    forget_accelerate()
    output = _from_step_2(sharded, tmp_path / "run")
    train(ONE_PROCESS, output, resume=True)
    assert losses(output) == pytest.approx(losses(one)[2:], abs=1e-3)


def test_two_processes_go_on_with_the_checkpoint_of_one(one, tmp_path):
    output = _from_step_2(one, tmp_path / "run")
    launch("fsdp2.yaml", 2, train, TWO_PROCESSES, output, True, True)
    assert losses(output) == pytest.approx(losses(one)[2:], abs=1e-3)


def _train_as_on_gpus(config: TrainConfig, output: Path) -> None:
    """accelerate gives the shards a policy of its own for bf16 on GPUs, but not on CPUs."""
    requested = sharding._requested_plugin

    def plugin():
        made = requested()
        made.set_mixed_precision("bf16")
        return made

    sharding._requested_plugin = plugin
    train(config, output, sharded=True)


def test_shards_in_bf16_round_neither_times_nor_latents(tmp_path):
    config = replace(TWO_PROCESSES, precision="bf16", steps=2, optimizer=OptimizerConfig(lr=1e-4, warmup=0))
    forget_accelerate()
    train(replace(config, accumulation=2), tmp_path / "one")
    launch("fsdp2.yaml", 2, _train_as_on_gpus, config, tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)


def _train_and_see_gradients(config: TrainConfig, output: Path) -> None:
    """Checks that gradients are cut into shards after every batch of an accumulation."""
    backward = Trainer._backward

    def checked(self, batch, turn, stage):
        loss = backward(self, batch, turn, stage)
        if turn == 0:
            assert all(isinstance(parameter.grad, DTensor) for parameter in self.parameters)
        return loss

    Trainer._backward = checked
    train(config, output, sharded=True)


def test_no_process_holds_all_gradients_while_they_add_up(tmp_path):
    config = replace(TWO_PROCESSES, steps=2, optimizer=OptimizerConfig(lr=1e-3, warmup=0))
    forget_accelerate()
    train(replace(config, accumulation=4), tmp_path / "one")
    launch("fsdp2.yaml", 2, _train_and_see_gradients, replace(config, accumulation=2), tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-3)


def _train_and_count(config: TrainConfig, output: Path) -> None:
    """Writes how many whole tensors were there at a time at most, and how long a process waits for the others."""
    put_together, alive, waits = DTensor.full_tensor, [0, 0], []  # alive: now, at most

    def gone():
        alive[0] -= 1

    def counted(shard):
        tensor = put_together(shard)
        weakref.finalize(tensor, gone)
        alive[0] += 1
        alive[1] = max(alive)
        waits.append(torch.distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout)
        return tensor

    DTensor.full_tensor = counted
    train(config, output, sharded=True)
    told = {"whole": alive[1], "minutes": waits[0].total_seconds() / 60}
    (output / f"{os.environ['RANK']}.json").write_text(json.dumps(told))


def test_one_process_alone_holds_the_whole_model_and_is_waited_for(tmp_path):
    launch("fsdp2.yaml", 2, _train_and_count, replace(TWO_PROCESSES, steps=1, sample_every=1), tmp_path / "run")
    assert (tmp_path / "run/samples/step-0000001.png").is_file()
    first, second = (json.loads((tmp_path / f"run/{rank}.json").read_text()) for rank in range(2))
    assert second["whole"] <= 2 < first["whole"]
    assert min(first["minutes"], second["minutes"]) > 60  # a sheet of a large model, or writing it to a slow disk


def _refused(output: Path) -> None:
    del os.environ["ACCELERATE_USE_CPU"]
    with pytest.raises(ValueError, match=r"2 processes were launched.*set ACCELERATE_USE_CPU=true"):
        train(TWO_PROCESSES, output)


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes with GPUs know of one another")
def test_processes_that_would_not_know_of_one_another_are_refused(tmp_path):
    """They would all write to the same folder, as the only one."""
    launch("ddp.yaml", 2, _refused, tmp_path / "run")


# The data, dealt anew

WORLD = DataConfig((Source("data_builders.world.stream:WorldStream", options={"sizes": ((8, 8),)}),), batch_size=3)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_every_sample_is_seen_once_when_the_number_of_lanes_changes(before, after):
    seen: list[int] = []
    states = []
    for lane in range(before):
        made = list(islice(BucketedBatches(WORLD, lane, before), 12))
        seen += [number for batch, _ in made for number in batch.numbers]
        states += made[-1][1]
    assert any(state["waiting"] for state in states)
    states = json.loads(json.dumps(states))
    for _ in range(2):  # and when it changes again before all that is owed was seen
        states = deal(states, after, WORLD)
        new = []
        for lane, state in enumerate(states):
            made = list(islice(BucketedBatches(WORLD, lane, after, [state]), 4))
            seen += [number for batch, _ in made for number in batch.numbers]
            new += made[-1][1]
        states, before, after = new, after, before
    waiting = [place["draw"] for state in states for place in (*state["waiting"], *state["owed"])]
    farthest = max(state["mixture"]["draw"] for state in states)
    behind = [
        number
        for lane, state in enumerate(states)
        for number in range(state["mixture"]["draw"], farthest)
        if number % len(states) == lane
    ]
    assert sorted(seen + waiting + behind) == list(range(farthest))
    assert len(seen) == len(set(seen))


class Named:
    """So many samples that say in their source which data set and record they are."""

    def __init__(self, name: str):
        self.name = name

    def __len__(self) -> int:
        return 40

    def __getitem__(self, number: int) -> Sample:
        frame = Frame(np.zeros((8, 8 * (1 + number % 3), 3), np.uint8), Role.RESULT)
        return Sample("t2i", "x", results=(frame,), source={"record": f"{self.name} {number}"})


@pytest.mark.parametrize("lanes", [1, 2])
def test_every_sample_is_seen_once_when_the_weights_change(lanes):
    def config(*weights: float) -> DataConfig:
        named = zip("ab", weights, strict=True)
        return DataConfig(tuple(Source("test_distributed:Named", w, {"name": n}) for n, w in named), batch_size=4)

    def seen(config: DataConfig, states: list | None, count: int) -> tuple[list[str], list]:
        made = list(islice(BucketedBatches(config, state=states, turns=lanes), count * lanes))
        return [source["record"] for batch, _ in made for source in batch.sources], made[-1][1]

    before, after = config(3, 1), config(1, 3)
    first, states = seen(before, None, 6 // lanes)
    assert any(state["waiting"] for state in states)
    second, _ = seen(after, deal(json.loads(json.dumps(states)), lanes, after), 8 // lanes)
    assert len({*first, *second}) == len(first) + len(second)
    assert sum(name.startswith("a") for name in first) > 12 and sum(name.startswith("b") for name in second) > 16


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_curriculum_goes_on_when_the_size_of_a_step_changes(lanes):
    """Its steps are those that were taken, not those that steps of the present size would have been."""
    options = {"recipes": ("video_edit_reference",), "sizes": ((8, 8),)}
    world = (Source("data_builders.world.stream:WorldStream", options=options),)
    config = DataConfig(world, batch_size=1, input_dropout=0, scaffold=((0, 1.0), (20, 1.0), (20, 0.0)))
    taken = list(islice(BucketedBatches(config), 30))
    has_reference = [bool((batch.roles == Role.ASSET.index).any()) for batch, _ in taken]
    assert all(has_reference[:20]) and not any(has_reference[20:])
    larger = replace(config, batch_size=4)
    for steps, expected in ((10, True), (30, False)):
        states = deal(taken[steps - 1][1], lanes, larger)
        batch, _ = next(iter(BucketedBatches(larger, state=states, turns=lanes)))
        assert bool((batch.roles == Role.ASSET.index).any()) == expected


def test_no_bad_record_is_forgotten_when_the_lanes_change():
    states = [state for lane in range(2) for state in next(iter(BucketedBatches(WORLD, lane, 2)))[1]]
    states[0]["mixture"] |= {"read": 7, "bad": 1}
    counted = [state["mixture"] for state in deal(states, 3, WORLD)]
    assert sum(m["bad"] for m in counted) == 1
    assert sum(m["read"] for m in counted) == 7 + states[1]["mixture"]["read"]


def test_a_sample_does_not_depend_on_its_lane():
    config = replace(WORLD, text_dropout=0.3, context_dropout=0.3, input_dropout=0.3)

    def prompts(count: int) -> dict[int, str]:
        made = {}
        for lane in range(count):
            for batch, _ in islice(BucketedBatches(config, lane, count), 12 // count):
                made |= dict(zip(batch.numbers, batch.prompts, strict=True))
        return made

    one, three = prompts(1), prompts(3)
    common = one.keys() & three.keys()
    assert len(common) > 10 and all(one[number] == three[number] for number in common)
    assert "" in one.values()
