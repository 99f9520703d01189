"""Training throughput of our blocks against diffusers' CogVideoX blocks, forward and backward, in turns in one run.

Both have the same weights and the same tokens.

python benchmarks/training.py
python benchmarks/training.py --heads 48 --layers 4 --size 512 --device cuda --dtype bfloat16
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from torch import nn

from unireal.arguments import Parser, at_least_one
from unireal.model.blocks import UniRealBlock
from unireal.model.embeddings import frame_positions, frame_times, rotary_embedding
from unireal.model.packing import PackedSequence, Segment

TEXT, TIME = 226, 512  # tokens of CogVideoX's text, width of its time embedding


@dataclass(frozen=True)
class Setup:
    """heads of 64 channels; side: pixels of a square frame; frames: how many there are, inputs and results alike."""

    heads: int
    layers: int
    side: int
    frames: int
    batch: int
    device: str
    dtype: torch.dtype

    @property
    def grid(self) -> tuple[int, int]:
        return self.side // 16, self.side // 16

    @property
    def tokens(self) -> int:
        return TEXT + self.frames * self.grid[0] * self.grid[1]


class Ours(nn.Module):
    """A stack of our blocks on one sequence; all frames have one time, as in CogVideoX."""

    def __init__(self, setup: Setup):
        super().__init__()
        dim = setup.heads * 64
        self.blocks = nn.ModuleList(UniRealBlock(dim, setup.heads, 64, TIME, True, 1e-5) for _ in range(setup.layers))

    def forward(self, text: torch.Tensor, video: torch.Tensor, temb: torch.Tensor, rotary: tuple) -> torch.Tensor:
        segments = (Segment("text", text.shape[1], 0), Segment("result", video.shape[1], 0))
        cos, sin = rotary
        unturned = cos.new_ones(text.shape[1], cos.shape[1]), sin.new_zeros(text.shape[1], sin.shape[1])
        whole = torch.cat([unturned[0], cos]), torch.cat([unturned[1], sin])
        x = torch.cat([text, video], dim=1)
        sequence = PackedSequence(x, segments, temb[:, None], whole, None, isolated=False)
        for layer, block in enumerate(self.blocks):
            x = block(x, sequence, layer)
        return x


class Theirs(nn.Module):
    """A stack of diffusers' blocks."""

    def __init__(self, setup: Setup):
        super().__init__()
        dim = setup.heads * 64
        self.blocks = nn.ModuleList(
            CogVideoXBlock(dim, setup.heads, 64, TIME, attention_bias=True) for _ in range(setup.layers)
        )

    def forward(self, text: torch.Tensor, video: torch.Tensor, temb: torch.Tensor, rotary: tuple) -> torch.Tensor:
        for block in self.blocks:
            video, text = block(video, text, temb, image_rotary_emb=rotary)
        return torch.cat([text, video], dim=1)


def inputs(setup: Setup) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Text and video tokens, time embedding, and the rotary angles of the video."""
    generator = torch.Generator().manual_seed(0)
    dim, visual = setup.heads * 64, setup.tokens - TEXT
    shapes = (setup.batch, TEXT, dim), (setup.batch, visual, dim), (setup.batch, TIME)
    made = [torch.randn(shape, generator=generator).to(setup.device, setup.dtype) for shape in shapes]
    positions = frame_positions(frame_times(0, setup.frames, 13), [setup.grid] * setup.frames)
    cos, sin = rotary_embedding(positions.to(setup.device), 64, 10000.0)
    return *made, (cos, sin)


def seconds(step: Callable[[], None], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(setup: Setup, repeats: int) -> tuple[list[float], list[float], float]:
    """Seconds of every training step of ours and theirs, measured in turns, and how far their results are apart."""
    torch.manual_seed(0)
    theirs = Theirs(setup).to(setup.device, setup.dtype)
    ours = Ours(setup).to(setup.device, setup.dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    given = inputs(setup)
    with torch.no_grad():
        a, b = ours(*given), theirs(*given)
        difference = float((a - b).abs().max() / b.abs().max())

    def step(stack: nn.Module) -> None:
        stack(*given).square().mean().backward()
        stack.zero_grad(set_to_none=True)

    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        order = ((ours, times[0]), (theirs, times[1]))
        for stack, measured in order if turn % 2 else order[::-1]:
            spent = seconds(lambda stack=stack: step(stack), setup.device)
            if turn:  # the first is for warming up
                measured.append(spent)
    return *times, difference


def main() -> None:
    parser = Parser(prog="python benchmarks/training.py", description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=at_least_one, default=8, help="of 64 channels (CogVideoX-2B: 30, 5B: 48)")
    parser.add_argument("--layers", type=at_least_one, default=2, help="(2B: 30, 5B: 42)")
    parser.add_argument(
        "--size", type=at_least_one, nargs="+", default=[256, 512], help="sides of the frames, in pixels"
    )
    parser.add_argument("--frames", type=at_least_one, default=2)
    parser.add_argument("--batch", type=at_least_one, default=1)
    parser.add_argument("--repeats", type=at_least_one, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    print("| frames | tokens | ours tokens/s | CogVideoX tokens/s | ours / CogVideoX | largest difference |")
    print("|---|---|---|---|---|---|")
    for side in options.size:
        dtype = getattr(torch, options.dtype)
        setup = Setup(options.heads, options.layers, side, options.frames, options.batch, options.device, dtype)
        ours, theirs, difference = compare(setup, options.repeats)
        count = setup.batch * setup.tokens
        rates = [count / median(times) for times in (ours, theirs)]
        # of the two steps of each turn, which lie side by side: what else runs here slows both
        ratio = median(b / a for a, b in zip(ours, theirs, strict=True))
        print(
            f"| {setup.frames} of {side}x{side} | {setup.tokens} | {rates[0]:.0f} | {rates[1]:.0f} | "
            f"{ratio:.2f} | {difference:.1e} |"
        )


if __name__ == "__main__":
    main()
