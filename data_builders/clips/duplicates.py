"""Near-duplicates among many unit vectors, in memory that grows with their number and not with its square."""

from __future__ import annotations

import numpy as np

_BLOCK = 2048  # vectors compared at a time: a block of cosines is 16 MiB


def find_duplicates(features: np.ndarray, above: float) -> dict[int, int]:
    """{number of a vector: number of the most similar kept one before it}, for those too similar to one.

    features: float32 (N, D), rows of length 1; above: the cosine (Ditto: 0.85). A vector is compared with the kept
    ones before it, so the first of a group of duplicates stays, and nothing depends on chance.
    Every comparison is made, block by block as matrix products: at most N^2 D / 2 multiplications, with N D numbers
    and three blocks of cosines in memory. For the 200,000 videos of Ditto's pool and 768 numbers these are 1.5e13, some
    minutes of one core, less than a thousandth of what encoding the videos takes; so no approximate index, which may
    miss some and is slower for so few (docs/data.md has the numbers). Raises ValueError if `above` is no cosine.
    """
    if not -1 <= above <= 1:
        raise ValueError(f"the similarity of near-duplicates is a cosine, at most 1, got {above}")
    kept: list[int] = []
    found: dict[int, int] = {}
    for first in range(0, len(features), _BLOCK):
        block = features[first : first + _BLOCK]
        best, nearest = np.full(len(block), -np.inf, np.float32), np.zeros(len(block), np.int64)
        for start in range(0, len(kept), _BLOCK):
            numbers = np.array(kept[start : start + _BLOCK])
            cosines = block @ features[numbers].T
            columns = cosines.argmax(axis=1)
            values = cosines[np.arange(len(block)), columns]
            nearest = np.where(values > best, numbers[columns], nearest)
            best = np.maximum(best, values)
        within = block @ block.T
        for row in range(len(block)):  # in the block, in order: a kept vector stands against all after it
            if best[row] > above:
                found[first + row] = int(nearest[row])
                continue
            kept.append(first + row)
            closer = within[row] > best
            nearest[closer], best[closer] = first + row, within[row][closer]
    return found
