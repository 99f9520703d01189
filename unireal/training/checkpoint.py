"""Checkpoints of a training run: everything that is needed to go on exactly where it stopped.

    step-0000500/shard-*.safetensors   trained weights, their averages, the optimizers' state; a part for each process
    step-0000500/state.json            the step, the run's configuration, and where its data stands

Tensors are written and read by torch.distributed.checkpoint, so that a checkpoint of N processes is resumed by any
number of them, sharded (FSDP2) or not. A checkpoint is written under a temporary name and renamed when complete, so
what exists is always whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

_STATE = "state.json"
_KEPT = {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.Muon: {"momentum_buffer"}}


class RunTensors:
    """All tensors of a run by name: "model.N", "ema.N" and "optimizer.KEY.N" for a parameter N.

    parameters: those that are trained, by name; the averages `ema` are of these, in this order, or None if none are
    kept.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizers: list[torch.optim.Optimizer],
        ema: EMAModel | None = None,
    ):
        self.parameters, self.optimizers, self.ema = dict(parameters), optimizers, ema

    def named(self) -> dict[str, torch.Tensor]:
        tensors = {f"model.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": s for name, s in zip(self.parameters, self.ema.shadow_params, strict=True)}
        names: dict[torch.Tensor, str] = {parameter: name for name, parameter in self.parameters.items()}
        for optimizer in self.optimizers:
            for parameter, values in optimizer.state.items():
                tensors |= {f"optimizer.{key}.{names[parameter]}": value for key, value in values.items()}
        return tensors

    def make_room(self, sizes: Mapping[str, torch.Size]) -> None:
        """Gives the optimizers, which are empty before their first step, the tensors that a checkpoint has for them.

        Raises ValueError for those of another optimizer.
        """
        names: dict[torch.Tensor, str] = {parameter: name for name, parameter in self.parameters.items()}
        stored = [name.split(".", 2) for name in sizes if name.startswith("optimizer.")]
        keys: dict[str, list[str]] = {}
        for _, key, name in stored:
            keys.setdefault(name, []).append(key)
        for optimizer in self.optimizers:
            kind = next(kind for kind in _KEPT if isinstance(optimizer, kind))
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    found = keys.get(names[parameter], [])
                    if found and set(found) != _KEPT[kind]:
                        raise ValueError(
                            f"{names[parameter]} was trained by another optimizer than {kind.__name__}; "
                            "resume with optimizer.muon_lr at 0, or above, as it was"
                        )
                    for key in found:
                        size = sizes[f"optimizer.{key}.{names[parameter]}"]
                        if size == parameter.shape:
                            room = torch.zeros_like(parameter, requires_grad=False)
                        else:  # a counter; torch keeps it on the CPU unless the whole step runs on the device
                            on_device = group.get("fused") or group.get("capturable")
                            room = torch.zeros(size, device=parameter.device if on_device else "cpu")
                        optimizer.state[parameter][key] = room


def save_checkpoint(
    folder: Path, accelerator: Accelerator, tensors: RunTensors, state: dict[str, Any], keep: int
) -> Path:
    """Writes folder/step-N for state["step"] = N and removes all but the newest `keep`; all processes call it.

    Raises OSError if the disk is full; the older ones are then untouched, and the room is free again.
    """
    target = folder / f"step-{state['step']:07d}"
    temporary = target.with_name(target.name + ".tmp")
    if accelerator.is_main_process:
        for unfinished in folder.glob("step-*.tmp"):
            shutil.rmtree(unfinished)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        with as_os_error():
            distributed_checkpoint.save(tensors.named(), storage_writer=writer, no_dist=accelerator.num_processes == 1)
        if accelerator.is_main_process:
            averaged = {} if tensors.ema is None else {"ema_steps": tensors.ema.optimization_step}
            _write(temporary / _STATE, state | averaged)
            if target.exists():
                _remove(target)
            os.replace(temporary, target)
            for old in complete_checkpoints(folder)[:-keep]:
                _remove(old)
    except OSError:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    accelerator.wait_for_everyone()
    return target


def _remove(checkpoint: Path) -> None:
    """Under a temporary name, so that one that is half removed when the run is killed is not taken for a whole one."""
    temporary = checkpoint.with_name(checkpoint.name + ".old.tmp")
    os.replace(checkpoint, temporary)
    shutil.rmtree(temporary)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.suffix != ".tmp" and (p / _STATE).is_file())


def newest_checkpoint(output: Path) -> Path:
    """Of the run in a folder. Raises ValueError if there is none."""
    if found := complete_checkpoints(output / "checkpoints"):
        return found[-1]
    raise ValueError(f"no checkpoint in {output / 'checkpoints'}; start without --resume")


def check_no_run(output: Path) -> None:
    """Raises ValueError if a folder holds a run that a new one would write over."""
    if complete_checkpoints(output / "checkpoints"):
        raise ValueError(f"{output} holds an earlier run; add --resume or give another --output")


def last_saved(output: Path, first: str = "") -> str:
    """From where a run that has ended can go on. first: what must be done before."""
    saved = complete_checkpoints(output / "checkpoints")
    return f"{saved[-1]} is whole; {first}--resume" if saved else "no checkpoint was saved yet"


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint holds besides tensors. Raises ValueError if it is damaged."""
    try:
        return json.loads((path / _STATE).read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def load_checkpoint(path: Path, accelerator: Accelerator, tensors: RunTensors) -> dict[str, Any]:
    """Restores weights, averages and optimizers in place; returns the state as it was saved. All processes call it.

    Raises ValueError if the checkpoint is damaged, or does not fit the model or what of it is trained.
    """
    try:
        state = read_state(path)
        reader = HuggingFaceStorageReader(str(path))
        stored = reader.read_metadata().state_dict_metadata.items()
        sizes = {name: entry.size for name, entry in stored if isinstance(entry, TensorStorageMetadata)}
        tensors.make_room(sizes)
        named = tensors.named()
        _check_fit(path, sizes, {name: tensor.shape for name, tensor in named.items()})
        with as_os_error():
            distributed_checkpoint.load(named, storage_reader=reader, no_dist=accelerator.num_processes == 1)
    except (OSError, SafetensorError, KeyError) as error:
        raise _unreadable(path, error) from error
    if tensors.ema is not None:
        tensors.ema.optimization_step = state["ema_steps"]
    return state


def _check_fit(path: Path, stored: Mapping[str, torch.Size], own: Mapping[str, torch.Size]) -> None:
    """Raises ValueError unless weights and averages have the same names and shapes."""
    names = [n for n in stored.keys() | own.keys() if not n.startswith("optimizer.") and stored.get(n) != own.get(n)]
    if not names:
        return
    name = max(names)  # "model." comes after "ema.", and is the plainer of the two
    there, here = (list(sizes[name]) if name in sizes else "not trained" for sizes in (stored, own))
    raise ValueError(
        f"{path} does not fit this model: {name.removeprefix('model.')} is {there} there, {here} here; resume with "
        "the configuration it was saved with, or start anew from the run's model by --model"
    )


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"checkpoint {path} cannot be read ({error}); remove it to resume from an older one")


@contextlib.contextmanager
def as_os_error():
    """safetensors has an error of its own for what went wrong in writing, and torch wraps that of any of the processes;
    it also warns if there is only one."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        raise next((c for c in causes if isinstance(c, OSError | ValueError)), OSError(str(causes[0]))) from error
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _write(path: Path, value: Any) -> None:
    with path.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
