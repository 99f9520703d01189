"""What differs when a model is cut into shards (FSDP2): the set-up, and putting parts together again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import PartialState
from accelerate.utils import (
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    parse_flag_from_env,
)
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import T5EncoderModel

from unireal.model.build import Components
from unireal.model.transformer import UniRealTransformer

# The others wait while one process saves a model or draws a sheet, and are killed after 10 minutes by default.
_WAIT = timedelta(hours=6)


def make_accelerator(precision: str, accumulation: int, output: Path) -> Accelerator:
    """The accelerator of a run, as `accelerate launch` has configured it; sharded by FSDP2 on CPUs as well."""
    sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
    accelerator = Accelerator(
        mixed_precision=precision,
        # gradients that wait to be shared out are whole: those of a large model have no room on one GPU
        gradient_accumulation_plugin=GradientAccumulationPlugin(accumulation, sync_each_batch=sharded),
        log_with="tensorboard",
        project_dir=output,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_WAIT)],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > accelerator.num_processes:  # each would believe to be alone, and write into the same folder
        if torch.distributed.is_initialized():  # one that ends while another still connects would crash it
            torch.distributed.barrier()
        told = f"{launched} processes were launched, but there is no GPU over which they would know of one another"
        raise ValueError(f"{told}; set ACCELERATE_USE_CPU=true to train on CPUs")
    state = accelerator.state
    plugin = getattr(state, "fsdp_plugin", None) or _requested_plugin()
    if plugin is not None and plugin.fsdp_version != 2:
        raise ValueError("FSDP of version 1 cannot train this model; set fsdp_version: 2, as in configs/fsdp2.yaml")
    if plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
        # accelerate takes FSDP for accelerators only, but torch's works on CPUs (gloo), where it can be tested
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # as accelerate itself does on GPUs
    if plugin is not None and precision == "bf16":
        # accelerate's own would round times, latents and positions too, inside our dataclasses, and sum gradients so
        plugin.mixed_precision_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    return accelerator


def _requested_plugin() -> FullyShardedDataParallelPlugin | None:
    return FullyShardedDataParallelPlugin() if parse_flag_from_env("ACCELERATE_USE_FSDP") else None


def is_sharded(parameters: Iterable[torch.Tensor]) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in one piece; a shard is put together from those of all processes, which must all ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def in_one_piece(shards: Mapping[str, torch.Tensor], kept: bool) -> dict[str, torch.Tensor]:
    """Tensors put together one after another, on the CPU: all of a large model have no room on a GPU that holds a
    shard of it. All processes must ask; only those that say `kept` get any."""
    pieces = {}
    for name, shard in shards.items():
        piece = whole(shard)
        if kept:
            pieces[name] = piece.cpu()
    return pieces


def rebuilt(components: Components, tensors: Mapping[str, torch.Tensor]) -> Components:
    """The components in one piece. tensors: by the names of components.trainable's parameters, whole."""
    with torch.device("meta"):
        transformer = UniRealTransformer.from_config(components.transformer.config)
        for name, adapter in getattr(components.transformer, "peft_config", {}).items():
            transformer.add_adapter(adapter, name)
        parts = {"transformer": transformer}
        if components.text_encoder is not None and any(name.startswith("text_encoder.") for name in tensors):
            parts["text_encoder"] = T5EncoderModel(components.text_encoder.config)
    for part, module in parts.items():
        own = {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
        module.load_state_dict(own, strict=False, assign=True)
    if "text_encoder" in parts:
        parts["text_encoder"].tie_weights()
    text_encoder = parts.get("text_encoder", components.text_encoder)
    return Components(transformer, text_encoder, components.tokenizer, components.vae)
