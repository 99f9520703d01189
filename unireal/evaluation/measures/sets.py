"""Measures of a whole set of outputs against the true pictures: FID and KID as clean-fid computes them.

They need hundreds of pictures to mean anything; n is reported with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unireal.arguments import usable_device
from unireal.evaluation.results import COPY, MODEL, ItemResult, RunFolder, SummaryRow
from unireal.notices import one_line

NAMES = ("fid", "kid")
_RESOLUTION = "299x299 by clean-fid"


def set_rows(
    benchmark: str,
    lines: Sequence[ItemResult],
    run: RunFolder,
    wanted: Sequence[str],
    network: tuple[str, Callable[[torch.Tensor], torch.Tensor]],
) -> list[SummaryRow]:
    """FID or KID of the outputs, and of the inputs as the copy baseline, against the truths of the same items.

    network: name and features, from `inception`. Raises ValueError if no item has a truth.
    """
    known = [line for line in lines if line.truth]
    if not known:
        raise ValueError(f"{benchmark} has no true pictures to compare with, so there is no {' and no '.join(wanted)}")
    made = [line for line in known if line.output]
    rows = []
    for system, members in ((MODEL, made), (COPY, [line for line in known if line.inputs])):
        shown = [run.path / str(line.output if system == MODEL else line.inputs[0]) for line in members]
        features = [_features(paths, network[1]) for paths in (shown, [run.path / str(line.truth) for line in members])]
        for name in wanted:
            value = distance(name, *features) if len(members) > 1 else math.nan
            row = SummaryRow(
                benchmark=benchmark,
                metric=name.upper(),
                value=None if math.isnan(value) else value,
                n=len(members),
                failures=len(known) - len(members),
                backbone=network[0],
                reference="truth",
                resolution=_RESOLUTION,
                system=system,
                better="lower",
            )
            rows.append(row)
    return rows


def distance(name: str, one: np.ndarray, other: np.ndarray) -> float:
    """ "fid" or "kid" of two sets of features (N, D)."""
    from cleanfid import fid

    if name == "kid":
        with _seeded():
            return fid.kernel_distance(one, other)
    moments = [(features.mean(axis=0), np.cov(features, rowvar=False)) for features in (one, other)]
    return float(fid.frechet_distance(*moments[0], *moments[1]))


def inception(device: str) -> tuple[str, Any]:
    """clean-fid's InceptionV3, which it downloads. Raises ValueError if it cannot be had."""
    try:
        from cleanfid.features import build_feature_extractor

        return "clean-fid InceptionV3", build_feature_extractor("clean", torch.device(device), use_dataparallel=False)
    except (ImportError, OSError, RuntimeError) as error:
        reason = one_line(error, 120)
        raise ValueError(f"FID and KID need clean-fid and its InceptionV3 ({reason}); pip install clean-fid") from error


def _features(paths: Sequence[Path], network: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    """float (N, D) of files, resized as clean-fid does."""
    from cleanfid import fid

    device = torch.device(usable_device("auto"))
    files = [str(path) for path in paths]
    return fid.get_files_features(files, network, 0, 32, device, mode="clean", verbose=False)


@contextmanager
def _seeded() -> Iterator[None]:
    """clean-fid draws KID's subsets from numpy's global generator."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
