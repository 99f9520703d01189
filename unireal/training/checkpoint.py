"""Checkpoints of a training run: everything that is needed to go on exactly where it stopped.

A checkpoint is written under a temporary name and renamed when complete, so what exists is always whole.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

_STATE, _EMA = "state.json", "ema.safetensors"


def save_checkpoint(
    folder: Path, accelerator: Accelerator, ema: EMAModel, state: dict[str, Any], data: dict[str, Any], keep: int
) -> Path:
    """Writes folder/step-N for state["step"] = N and removes all but the newest `keep`.

    data: where this process stands in its data. Raises OSError if the disk is full; the older ones are then untouched.
    """
    target = folder / f"step-{state['step']:07d}"
    temporary = target.with_name(target.name + ".tmp")
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary), safe_serialization=True)
    (temporary / f"data-{accelerator.process_index}.json").write_text(json.dumps(data))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        averaged = {str(i): p.detach().cpu().contiguous() for i, p in enumerate(ema.shadow_params)}
        save_file(averaged, temporary / _EMA)
        (temporary / _STATE).write_text(json.dumps(state | {"ema_steps": ema.optimization_step}))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        for old in complete_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return target


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.suffix != ".tmp" and (p / _STATE).is_file())


def load_checkpoint(path: Path, accelerator: Accelerator, ema: EMAModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restores model, optimizers, random states and averages; returns (state, data) as they were saved.

    Raises ValueError if the weights or the averages do not fit the model.
    """
    try:
        accelerator.load_state(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit this model; resume with the configuration it was saved with") from error
    state = json.loads((path / _STATE).read_text())
    averaged = load_file(path / _EMA)
    if len(averaged) != len(ema.shadow_params):
        raise ValueError(f"{path} averages {len(averaged)} tensors, this model has {len(ema.shadow_params)}")
    with torch.no_grad():
        for i, shadow in enumerate(ema.shadow_params):
            shadow.copy_(averaged[str(i)])
    ema.optimization_step = state["ema_steps"]
    data_file = path / f"data-{accelerator.process_index}.json"
    if not data_file.is_file():
        raise ValueError(f"{path} was saved by fewer processes; resume with the same number")
    return state, json.loads(data_file.read_text())
