"""Ditto's warm-up of attention (arXiv 2510.15742): at first a model looks at the reference frame more than at the text.

Ditto gives the weights of reference and instruction, 9:1 over the first 5,000 steps down to 1:1, and not where they
apply. Here exp(score) of every key is multiplied, in all blocks and for all queries, so that the attention to the
reference frames (inputs with the role "asset") over that to the text is `ratio` times what it would be: by sqrt(ratio)
for the ones, and by its inverse for the other. All else, and a sample without a reference, is left alone. At 1 nothing
is multiplied.

Axes: B batch, K input frames, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from unireal.model.packing import PackedSequence, token_grid
from unireal.sample import Role


def weighted(
    sequence: PackedSequence, condition: Sequence[torch.Tensor], roles: torch.Tensor, patch: int, ratio: float
) -> PackedSequence:
    """The sequence with another weight of reference frames against the text.

    condition: K latent input frames (B, C, h, w); roles: (B, K); patch: latent pixels along a token's side.
    """
    reference = roles == Role.ASSET.index  # (B, K)
    if not reference.any():
        return sequence
    text = sequence.segments[0].length
    lengths = [math.prod(token_grid(frame, patch)) for frame in condition]
    sign = torch.zeros(sequence.tokens.shape[:2], device=roles.device)  # (B, N)
    sign[:, :text] = -reference.any(dim=1, keepdim=True).float()
    for k, part in enumerate(sign[:, text : text + sum(lengths)].split(lengths, dim=1)):
        part[:] = reference[:, k, None].float()
    added = sign * (math.log(ratio) / 2)
    return replace(sequence, keys=added if sequence.keys is None else added.masked_fill(~sequence.keys, -math.inf))
