"""One sequence [text | input frames | result frames], and what the blocks must know about it.

A forward pass has one layout: all samples of a batch have frames of the same sizes, so visual tokens need no padding.
Different layouts go through different passes (see unireal.data.buckets).

Axes: B batch, N tokens, D model width, S segments, T width of the time embedding, E width of an attention head.
"""

from __future__ import annotations

from collections.abc import Sequence
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
class Constant:
    """What of a sequence is the same in every denoising step, so that a sampling call makes it once.

    condition: (B, M, D) embedded text and input tokens.
    lengths:   numbers of tokens: text, all inputs, and each result frame.
    labels:    embedded role and index of each result frame, (1, 1, D).
    places:    positions (n, D) that are added to the tokens of each result frame, None if none are.
    text:      pooled text (B, 1, T) that is added to the time embeddings, None if none is.
    rotary, keys, isolated: as in PackedSequence.
    """

    condition: torch.Tensor
    lengths: tuple[int, ...]
    labels: Sequence[torch.Tensor]
    places: Sequence[torch.Tensor] | None
    text: torch.Tensor | None
    rotary: tuple[torch.Tensor, torch.Tensor] | None
    keys: torch.Tensor | None
    isolated: bool

    def segments(self, own_times: bool) -> tuple[Segment, ...]:
        """The division of the sequence; own_times: every result frame has a time of its own."""
        text, inputs, *results = self.lengths
        segments = [Segment("text", text, 0 if self.isolated else 1)]
        if inputs:
            segments.append(Segment("input", inputs, 0))
        if own_times:
            segments += [Segment("result", length, 1 + i) for i, length in enumerate(results)]
        else:
            segments.append(Segment("result", sum(results), 1))
        return tuple(segments)


@dataclass(frozen=True)
class PackedSequence:
    """tokens: (B, N, D) embedded tokens.
    segments: their division, in order; the lengths add up to N.
    temb:     (B, S, T) time embeddings that segments refer to.
    rotary:   cos, sin float32 (N, E) each, or None where positions were added to the tokens.
    keys:     bool (B, N), False for padded text; None if nothing is padded. Or float (B, N): what is added to a token's
              scores as a key, -inf for padded text.
    isolated: text and input frames do not attend to result frames.
    constant: for `pack` to take over in the next step.
    """

    tokens: torch.Tensor
    segments: tuple[Segment, ...]
    temb: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor] | None
    keys: torch.Tensor | None
    isolated: bool
    constant: Constant | None = None

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


def check_frames(
    num_inputs: int, num_results: int, roles: torch.Tensor | None, max_inputs: int, max_results: int
) -> None:
    """Raises ValueError for more frames than a model's index table holds, and for roles that do not fit the inputs."""
    for what, have, limit in (("input", num_inputs, max_inputs), ("result", num_results, max_results)):
        if have > limit:
            raise ValueError(f"{have} {what} frames given, but this model's index table holds {limit}; give fewer")
    if num_inputs and (roles is None or roles.shape[1] != num_inputs):
        got = None if roles is None else tuple(roles.shape)
        raise ValueError(f"roles must be (B, {num_inputs}) for {num_inputs} input frames, got {got}")


def token_grid(frame: torch.Tensor, patch: int) -> tuple[int, int]:
    """(rows, columns) of tokens of a latent frame (B, C, H, W). Raises ValueError if tokens would leave a rest."""
    height, width = frame.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(
            f"a latent frame of {height}x{width} cannot be cut into tokens of {patch}x{patch}; pad it with "
            "unireal.model.packing.pad_to_multiple"
        )
    return height // patch, width // patch


def with_text(rotary: tuple[torch.Tensor, torch.Tensor], text_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles cos, sin (N - L, E) of frames as those of the whole sequence (N, E); text is not turned."""
    cos, sin = rotary
    cos = torch.cat([cos.new_ones(text_length, cos.shape[1]), cos])
    return cos, torch.cat([sin.new_zeros(text_length, sin.shape[1]), sin])


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
