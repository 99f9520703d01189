"""One sequence [text | input frames | result frames], and what the blocks must know about it.

A forward pass has one layout: all samples of a batch have frames of the same sizes, so visual tokens need no padding.
Different layouts go through different passes (see unireal.data.buckets).

Axes: B batch, N tokens, D model width, S segments, T width of the time embedding, E width of an attention head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens that are modulated alike.

    kind: "text", "input" or "result"; length: number of tokens; time: their row of `PackedSequence.temb`.
    """

    kind: str
    length: int
    time: int


@dataclass(frozen=True)
class PackedSequence:
    """tokens: (B, N, D) embedded tokens.
    segments: their division, in order; the lengths add up to N.
    temb:     (B, S, T) time embeddings that segments refer to.
    rotary:   cos, sin float32 (N, E) each, or None where positions were added to the tokens.
    keys:     bool (B, N), False for padded text; None if nothing is padded.
    isolated: text and input frames do not attend to result frames.
    """

    tokens: torch.Tensor
    segments: tuple[Segment, ...]
    temb: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor] | None
    keys: torch.Tensor | None
    isolated: bool

    @property
    def num_condition(self) -> int:
        """Number of text and input tokens; they come first."""
        return sum(s.length for s in self.segments if s.kind != "result")

    @property
    def num_result(self) -> int:
        return self.tokens.shape[1] - self.num_condition

    def select(self, keep: torch.Tensor) -> PackedSequence:
        """The sequence of the tokens at the ascending indices `keep`, int64 (M,); acceleration computes only those."""
        segments, start = [], 0
        for segment in self.segments:
            inside = ((keep >= start) & (keep < start + segment.length)).sum().item()
            segments.append(replace(segment, length=int(inside)))
            start += segment.length
        return replace(
            self,
            tokens=self.tokens[:, keep],
            segments=tuple(segments),
            rotary=None if self.rotary is None else (self.rotary[0][keep], self.rotary[1][keep]),
            keys=None if self.keys is None else self.keys[:, keep],
        )


def pad_to_multiple(frame: torch.Tensor, multiple: int) -> torch.Tensor:
    """Grows a frame (B, C, H, W) at the right and the bottom to a multiple, repeating its border.

    The padding is cropped off again after decoding, so nothing shifts or is resized.
    """
    height, width = frame.shape[-2:]
    return torch.nn.functional.pad(frame, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def unpatchify(tokens: torch.Tensor, grid: tuple[int, int], channels: int, patch: int) -> torch.Tensor:
    """Tokens (B, h*w, C*p*p) back to a latent frame (B, C, h*p, w*p). The channel comes first in a token."""
    batch, (rows, columns) = tokens.shape[0], grid
    tokens = tokens.view(batch, rows, columns, channels, patch, patch)
    return tokens.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * patch, columns * patch)
