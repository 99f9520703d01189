"""Positions, times and indices as vectors.

The positions are explicit, (t, h, w) for every token, so that frames of any size and number share one sequence. The
frequencies are those of CogVideoX, so that its weights can be loaded.

Axes: N tokens, D model width, E width of one attention head.
"""

from __future__ import annotations

import math

import torch
from torch import nn


def frame_times(num_inputs: int, num_results: int, span: int) -> list[int]:
    """Temporal index of every frame, inputs first.

    Without inputs the results are the frames 0..R-1 of a video. With inputs, these count from 0 and the results end at
    span - 1, so that a gap separates the two where there is room (iMontage's marginal layout); results never precede
    or overlap inputs, and run beyond the span only if there are more than `span` frames.
    """
    if num_inputs == 0:
        return list(range(num_results))
    first = max(span - num_results, num_inputs)
    return [*range(num_inputs), *range(first, first + num_results)]


def position_step(grid: tuple[int, int], span: int | None) -> float:
    """Distance of neighbouring tokens in a sequence whose results have that grid: 1 without a span, else such that
    the results cover as much as span x span positions. So larger pictures have finer steps, not unseen positions
    (position interpolation, arXiv 2306.15595), and assets stay as large as they are beside the results.
    """
    return 1.0 if span is None else span / math.sqrt(grid[0] * grid[1])


def frame_positions(
    times: list[int], grids: list[tuple[int, int]], base_grid: tuple[int, int] | None = None, step: float = 1.0
) -> torch.Tensor:
    """(t, h, w) of every token of frames with the given token grids (rows, columns), float32 (N, 3).

    base_grid: the grid of a video prior, into which every frame is fitted; None counts rows and columns from 0.
    step: how far it counts from row to row and from column to column.
    """
    blocks = []
    for time, grid in zip(times, grids, strict=True):
        t = torch.tensor([float(time)], dtype=torch.float32)
        if base_grid is None:
            h, w = (step * torch.arange(n, dtype=torch.float32) for n in grid)
        else:
            h, w = _fitted(grid, base_grid)
        blocks.append(torch.cartesian_prod(t, h, w))
    return torch.cat(blocks)


def _fitted(grid: tuple[int, int], base: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column positions of a grid that is scaled to fit the base grid and centred there.

    CogVideoX's own rule for sizes that it was not trained at, to the digit (diffusers:
    get_resize_crop_region_for_grid, then get_3d_rotary_pos_embed).
    """
    scale = base[0] / grid[0] if grid[0] / grid[1] > base[0] / base[1] else base[1] / grid[1]
    axes = []
    for count, room in zip(grid, base, strict=True):
        extent = round(scale * count)
        start = round((room - extent) / 2)
        axes.append(torch.linspace(start, (start + extent) * (count - 1) / count, count, dtype=torch.float32))
    return axes[0], axes[1]


def rotary_axes(head_dim: int) -> tuple[int, int, int]:
    """How many of a head's channels turn with t, h and w: CogVideoX's split, 1/4, 3/8, 3/8."""
    return head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3


def rotary_embedding(positions: torch.Tensor, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 (N, E) each, of 3D rotary position embedding; channel pairs (2i, 2i+1) share an angle."""
    cos, sin = [], []
    for axis, dim in enumerate(rotary_axes(head_dim)):
        frequency = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim)
        angle = torch.outer(positions[:, axis], frequency).repeat_interleave(2, dim=1)  # (N, dim)
        cos.append(angle.cos())
        sin.append(angle.sin())
    return torch.cat(cos, dim=1), torch.cat(sin, dim=1)


def apply_rotary(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turns queries or keys (B, heads, N, E) by the angles of their positions."""
    cos, sin = rotary
    if torch.compiler.is_compiling():  # inductor has no complex numbers, and makes one pass of this
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, heads, N, E/2) each
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)  # (B, heads, N, E)
        return x * cos + turned * sin
    precise = torch.promote_types(x.dtype, torch.float32)
    turn = torch.complex(cos[..., ::2].to(precise).contiguous(), sin[..., ::2].to(precise).contiguous())  # (N, E/2)
    pairs = torch.view_as_complex(x.to(precise).unflatten(-1, (-1, 2)))  # (B, heads, N, E/2)
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def sincos_embedding(positions: torch.Tensor, dim: int, spatial_scale: float, temporal_scale: float) -> torch.Tensor:
    """Sine-cosine embedding float32 (N, D) that CogVideoX-2B adds to tokens: D/4 channels for t, 3D/8 for w and h."""
    spatial, temporal = 3 * dim // 4, dim // 4
    t, h, w = positions[:, 0] / temporal_scale, positions[:, 1] / spatial_scale, positions[:, 2] / spatial_scale
    return torch.cat([_sincos(t, temporal), _sincos(w, spatial // 2), _sincos(h, spatial // 2)], dim=1)


def _sincos(position: torch.Tensor, dim: int) -> torch.Tensor:
    frequency = 1.0 / 10000 ** (torch.arange(dim // 2, dtype=torch.float64, device=position.device) / (dim / 2))
    angle = torch.outer(position.double(), frequency)
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


class PatchEmbed(nn.Module):
    """Latent frames to tokens, text features to tokens. Named and shaped like CogVideoX's, for its weights."""

    def __init__(self, patch_size: int, in_channels: int, dim: int, text_dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.text_proj = nn.Linear(text_dim, dim)

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        return self.proj(frame).flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, N, D)


class PooledText(nn.Module):
    """The mean of the text features (B, L, text_dim) as a vector (B, time_dim)."""

    def __init__(self, text_dim: int, time_dim: int):
        super().__init__()
        self.linear_1 = nn.Linear(text_dim, text_dim)
        self.linear_2 = nn.Linear(text_dim, time_dim)

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """mask: bool (B, L), False for padding."""
        weight = torch.ones_like(features[..., :1]) if mask is None else mask[..., None].to(features.dtype)
        mean = (features * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)  # (B, text_dim)
        return self.linear_2(nn.functional.silu(self.linear_1(mean)))
