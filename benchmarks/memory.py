"""How much memory and time training takes at the sizes of CogVideoX, and what one needs for it.

python benchmarks/memory.py
python benchmarks/memory.py --models 2b --sizes 512 --gpus 8 --tflops 400

Nothing large is computed: one block of the real width runs on fake tensors, which have sizes but no data. Hooks count
the bytes that autograd keeps, torch's FLOP counter the arithmetic. `--check` runs a small stack for real and compares
what was counted with how much the process grew.

A GPU holds, per trained parameter, weight, gradient, AdamW's two moments and the average in float32: 20 bytes, divided
by the number of GPUs under FSDP2. A frozen weight takes 4. Text features and latents are taken as precomputed, so
neither T5 nor VAE is there. Left out: the allocator's slack (add about 10%) and what communication buffers take.
"""

from __future__ import annotations

import argparse
import ctypes
import os
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unireal.config import MODELS, get_model
from unireal.model.blocks import UniRealBlock
from unireal.model.packing import PackedSequence, Segment
from unireal.model.transformer import UniRealTransformer

GIB = 1 << 30
TRAINED, FROZEN, COMPUTED = 20, 4, 2  # bytes per parameter: trained, frozen in float32, and in bfloat16
LORA_RANK = 64
TIME = 512  # width of CogVideoX's time embedding


@dataclass(frozen=True)
class Block:
    """What one block costs for one sample: parameters, bytes that autograd keeps of it, bytes of its input, FLOPs of a
    forward pass."""

    parameters: int
    kept: int
    entry: int
    flops: float


def make_block(heads: int, head_dim: int, dtype: torch.dtype) -> nn.Module:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return UniRealBlock(heads * head_dim, heads, head_dim, TIME, True, 1e-5)
    finally:
        torch.set_default_dtype(before)


def kept_of(block: nn.Module, tokens: int, text: int, dtype: torch.dtype) -> list[torch.UntypedStorage]:
    """One forward pass of a sample; returns what autograd keeps of it, without the weights."""
    weights = {p.untyped_storage()._cdata for p in block.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    dim, head_dim = block.attn1.to_q.in_features, block.attn1.norm_q.normalized_shape[0]
    x = torch.randn(1, tokens, dim, dtype=dtype, requires_grad=True)
    segments = Segment("text", text, 1), Segment("input", (tokens - text) // 2, 0)
    segments += (Segment("result", tokens - sum(s.length for s in segments), 1),)
    angles = torch.randn(tokens, head_dim), torch.randn(tokens, head_dim)
    temb = torch.randn(1, 2, TIME, dtype=dtype)
    sequence = PackedSequence(x, segments, temb, angles, None, isolated=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        block(x, sequence, 0)
    return list(kept.values())


def size(storages: list[torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in storages)


def count(model: str, side: int, inputs: int) -> tuple[Block, int]:
    """A block of a named size for a sample of `inputs` input frames and one result, and the sample's tokens."""
    config = get_model(model)
    heads, head_dim = (config.transformer[k] for k in ("num_attention_heads", "attention_head_dim"))
    tokens = config.max_text_length + (inputs + 1) * (side // 16) ** 2  # 8x by the VAE, 2x by the patches
    dim = heads * head_dim
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        block = make_block(heads, head_dim, torch.bfloat16)
        kept = size(kept_of(block, tokens, config.max_text_length, torch.bfloat16))
    parameters = sum(p.numel() for p in block.parameters())
    counted = counter.get_flop_counts()["Global"]
    flops = sum(n for op, n in counted.items() if "attention" not in str(op) and "bmm" not in str(op))
    flops += 4 * tokens * tokens * heads * head_dim  # attention, whose CPU kernel the counter does not know
    return Block(parameters, kept, 2 * tokens * dim, flops), tokens


@dataclass(frozen=True)
class Cost:
    """Bytes for each GPU and the TFLOPs of a step of one sample."""

    full: float
    full_everything_kept: float
    lora: float
    sampling: float
    teraflops: float


def cost(model: str, side: int, inputs: int, gpus: int) -> tuple[Cost, int]:
    config = get_model(model).transformer
    block, tokens = count(model, side, inputs)
    with torch.device("meta"):
        total = sum(p.numel() for p in UniRealTransformer(**config).parameters())
    layers, dim = config["num_layers"], config["num_attention_heads"] * config["attention_head_dim"]
    adapter = layers * 4 * 2 * dim * LORA_RANK
    in_use = 2 * COMPUTED * block.parameters  # the block that is computed, and the next one that is fetched
    checkpointed = layers * block.entry + block.kept
    everything = layers * block.kept
    return Cost(
        full=TRAINED * total / gpus + in_use + checkpointed,
        full_everything_kept=TRAINED * total / gpus + in_use + everything,
        lora=(FROZEN * total + TRAINED * adapter) / gpus + in_use + checkpointed,
        sampling=COMPUTED * total + block.kept,
        teraflops=4 * layers * block.flops / 1e12,  # forward, again for the checkpoints, and twice that backward
    ), tokens


def print_table(options: argparse.Namespace) -> None:
    gpus = options.gpus
    print(
        f"One sample for each of {gpus} GPUs, bfloat16, FSDP2. LoRA: rank {LORA_RANK} on the attention. Seconds: at "
        f"{options.tflops:g} TFLOP/s, an assumption, not a measurement.\n"
    )
    names = ("model", "frames", "inputs", "tokens", f"full, {gpus} GPUs", "without checkpointing", f"LoRA, {gpus} GPUs")
    names += ("LoRA, 1 GPU", "sampling", "TFLOP a step", "seconds")
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for model in options.models:
        for side in options.sizes:
            for inputs in options.inputs:
                many, tokens = cost(model, side, inputs, gpus)
                one, _ = cost(model, side, inputs, 1)
                sizes = (many.full, many.full_everything_kept, many.lora, one.lora, many.sampling)
                cells = [model, f"{side}x{side}", inputs, tokens, *(f"{taken / GIB:.1f} GiB" for taken in sizes)]
                cells += [f"{many.teraflops:.0f}", f"{many.teraflops / options.tflops:.2f}"]
                print("| " + " | ".join(map(str, cells)) + " |")


def check(layers: int = 8, heads: int = 8, tokens: int = 2048) -> None:
    """Runs a stack for real and compares the growth of the process with the bytes that were counted for it."""
    with FakeTensorMode():
        counted = layers * size(kept_of(make_block(heads, 64, torch.float32), tokens, 226, torch.float32))
    blocks = [make_block(heads, 64, torch.float32) for _ in range(layers)]
    held = [kept_of(blocks[0], tokens, 226, torch.float32)]  # libraries allocate on first use
    before = _resident()
    held += [kept_of(block, tokens, 226, torch.float32) for block in blocks]
    grown = _resident() - before
    print(f"{layers} blocks of {tokens} tokens: counted {counted / GIB:.3f} GiB, it grew by {grown / GIB:.3f} GiB")
    if not 0.95 < grown / counted < 1.1:
        raise SystemExit("error: what was counted is not what a real pass takes")


def _resident() -> int:
    """Bytes of this process in memory, once what was freed is given back."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [name for name in MODELS if name in ("2b", "5b")]
    parser.add_argument("--models", nargs="+", default=sizes, choices=sizes)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024], help="sides of the frames, in pixels")
    parser.add_argument("--inputs", type=int, nargs="+", default=[1, 2, 3, 4], help="numbers of input frames")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--tflops", type=float, default=400.0, help="that a GPU is taken to reach (default: 400)")
    parser.add_argument("--check", action="store_true", help="run a small stack and compare")
    options = parser.parse_args()
    check() if options.check else print_table(options)


if __name__ == "__main__":
    main()
