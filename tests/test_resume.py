"""A run that is killed at any moment, or meets a full disk, goes on exactly where its last checkpoint stands.

KILLS=10 pytest tests/test_resume.py    kills more often
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from processes import forget_accelerate
from safetensors.torch import load_file

from unireal.experiments import EXPERIMENTS, OptimizerConfig, TrainConfig
from unireal.training import checkpoint
from unireal.training.checkpoint import complete_checkpoints, newest_checkpoint
from unireal.training.cli import main
from unireal.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_training")
KILLS = int(os.environ.get("KILLS", "3"))
CONFIG = replace(
    EXPERIMENTS["debug"], steps=8 + 4 * KILLS, checkpoint_every=2, optimizer=OptimizerConfig(lr=1e-2, muon_lr=0.01)
)
WEIGHTS = "model/transformer/diffusion_pytorch_model.safetensors"


def train(config: TrainConfig, output: Path, log: Path) -> None:
    """Starts or resumes a run; every step adds a line to the log at once."""
    forget_accelerate()
    output.mkdir(exist_ok=True)
    trainer = Trainer(config, output)
    if complete_checkpoints(output / "checkpoints"):
        trainer.resume()
    with log.open("a") as file:
        trainer.train(lambda step, loss: print(step, repr(loss), file=file, flush=True))


def in_child(function: Callable[..., int | None], *arguments: object, errors: Path | None = None) -> int:
    """Forks a process that calls the function and exits with what it returns; returns the process's id."""
    if child := os.fork():
        return child
    status = 70
    try:
        if errors is not None:
            sys.stderr = errors.open("w", buffering=1)
        status = function(*arguments) or 0
    finally:
        os._exit(status)


def logged(log: Path) -> list[tuple[int, str]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(step), loss) for step, _, loss in (line.partition(" ") for line in lines)]


def assert_readable(output: Path) -> None:
    for folder in complete_checkpoints(output / "checkpoints"):
        parts = list(folder.glob("*.safetensors"))
        assert parts and all(load_file(file) for file in parts)


def test_killed_at_random_and_resumed_equals_one_run(tmp_path):
    train(CONFIG, tmp_path / "whole", tmp_path / "whole.log")
    expected = dict(logged(tmp_path / "whole.log"))
    assert list(expected) == list(range(1, CONFIG.steps + 1))
    output, log = tmp_path / "killed", tmp_path / "killed.log"
    rng = random.Random(0)
    for _ in range(KILLS):
        before = len(logged(log))
        child = in_child(train, CONFIG, output, log)
        steps = rng.randint(1, 5)
        while len(logged(log)) < before + steps and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.4))  # some die in a step, some in a checkpoint
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert_readable(output)
    train(CONFIG, output, log)
    lines = logged(log)
    assert lines[-1][0] == CONFIG.steps and {step for step, _ in lines} == set(expected)
    assert all(loss == expected[step] for step, loss in lines)
    whole, killed = (load_file(tmp_path / run / WEIGHTS) for run in ("whole", "killed"))
    assert all((whole[name] == killed[name]).all() for name in whole)


def _train_until_one_is_half_removed(config: TrainConfig, output: Path, log: Path) -> None:
    def killed(folder: Path, **_: object) -> None:
        for file in Path(folder).glob("*.safetensors"):
            file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.shutil.rmtree = killed  # type: ignore[assignment]  # in a process of its own
    train(config, output, log)


def test_killed_while_an_old_checkpoint_is_removed(tmp_path):
    output, log = tmp_path / "run", tmp_path / "log"
    config = replace(CONFIG, steps=4, checkpoint_every=1)
    child = in_child(_train_until_one_is_half_removed, config, output, log)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert logged(log)[-1][0] == 3 and newest_checkpoint(output).name == "step-0000003"
    assert_readable(output)
    train(config, output, log)
    assert sorted(p.name for p in (output / "checkpoints").iterdir()) == ["step-0000003", "step-0000004"]


def _run_with_little_room(output: Path, limit: int, *options: str) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # for what a full disk would refuse
    forget_accelerate()
    return main(["debug", "--output", str(output), "--steps", "4", *options])


def test_no_room_for_a_checkpoint_is_told_and_keeps_the_last_one(tmp_path):
    output, errors = tmp_path / "run", tmp_path / "stderr"
    assert main(["debug", "--output", str(output), "--steps", "2"]) == 0
    before = [p.name for p in complete_checkpoints(output / "checkpoints")]
    child = in_child(_run_with_little_room, output, 20_000, "--resume", errors=errors)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    last = errors.read_text().splitlines()[-1]
    assert last.startswith(f"train.py: cannot write to {output} (") and "too large" in last
    assert last.endswith(f"{output / 'checkpoints' / before[-1]} is whole; make room and --resume")
    assert "Traceback" not in errors.read_text()
    assert sorted(p.name for p in (output / "checkpoints").iterdir()) == before
    forget_accelerate()
    assert main(["debug", "--output", str(output), "--resume", "--steps", "4"]) == 0


def test_no_room_for_the_model_is_told_and_keeps_the_checkpoint(tmp_path):
    output, errors, parts = tmp_path / "run", tmp_path / "stderr", ("--trainable", "role_embedding")
    child = in_child(_run_with_little_room, output, 50_000, *parts, errors=errors)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    last = errors.read_text().splitlines()[-1]
    assert last.startswith(f"train.py: cannot write to {output} (") and "too large" in last
    assert last.endswith("step-0000004 is whole; make room and --resume") and "Traceback" not in errors.read_text()
    assert {path.name for path in output.iterdir()} == {"checkpoints", "logs"}
    forget_accelerate()
    assert main(["debug", "--output", str(output), "--steps", "4", "--resume", *parts]) == 0


def test_no_room_for_the_first_checkpoint_leaves_nothing_to_resume(tmp_path):
    output, errors = tmp_path / "run", tmp_path / "stderr"
    child = in_child(_run_with_little_room, output, 20_000, errors=errors)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert errors.read_text().splitlines()[-1].endswith("no checkpoint was saved yet")
    (output / "checkpoints/step-0000001.tmp").mkdir()  # what a killed run leaves
    forget_accelerate()
    assert main(["debug", "--output", str(output), "--steps", "2"]) == 0


@pytest.mark.parametrize("damage", ["state.json", "*.safetensors"])
def test_a_damaged_checkpoint_is_told(tmp_path, capsys, damage):
    output = tmp_path / "run"
    assert main(["debug", "--output", str(output), "--steps", "1"]) == 0
    (file,) = (output / "checkpoints/step-0000001").glob(damage)
    file.write_bytes(file.read_bytes()[:100])
    capsys.readouterr()
    forget_accelerate()
    assert main(["debug", "--output", str(output), "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "step-0000001" in error and "older one" in error
