"""Depth of NYUv2's and DIODE's test pictures, in the layouts that Marigold's script reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unireal.evaluation.benchmarks import sources
from unireal.evaluation.benchmarks.base import Benchmark
from unireal.evaluation.measures.perception import Range, depth_measure
from unireal.evaluation.results import Item, Load

NYU_RANGE, DIODE_RANGE = Range(1e-3, 10.0), Range(0.6, 350.0)  # metres
NYU_SCALE = 1000.0  # of the stored millimetres
EIGEN_CROP = (slice(45, 471), slice(41, 601))  # of 480 x 640
LISTS = ("filename_list_test.txt", "data_split/nyu/labeled/filename_list_test.txt")


def read_nyu(root: Path, split: str) -> list[Item]:
    """<split>/<scene>/rgb_NNNN.png and depth_NNNN.png (16 bits, millimetres); a list of files, if it is there, names
    the 654 of the test set."""
    listed = next((root / name for name in LISTS if (root / name).exists()), None)
    if listed is not None:
        pairs = [line.split()[:2] for line in listed.read_text().splitlines() if line.strip()]
    else:
        found = sorted(path.relative_to(root) for path in root.glob(f"{split}/*/rgb_*.png"))
        pairs = [[str(path), str(path.with_name(path.name.replace("rgb_", "depth_")))] for path in found]
    return [_nyu_item(root, *pair) for pair in pairs]


def _nyu_item(root: Path, picture: str, depth: str) -> Item:
    load = sources.deep_picture_file(root / depth)

    def metres() -> np.ndarray:
        return load().astype(np.float64) / NYU_SCALE

    def valid() -> np.ndarray:
        values = metres()
        inside = np.zeros(values.shape, bool)
        inside[EIGEN_CROP] = True
        return inside & (values > NYU_RANGE.nearest) & (values < NYU_RANGE.farthest)

    name = re.sub(r"rgb_", "", str(Path(picture).with_suffix("")))
    path = Path(picture)
    prediction = str(path.with_name(path.stem.replace("rgb_", "pred_")))
    return _item(name, root / picture, metres, valid, (prediction,))


def read_diode(root: Path, split: str) -> list[Item]:
    """<split>/<indoors|outdoor>/<scene>/<scan>/*.png with *_depth.npy and *_depth_mask.npy."""
    folder = root / split if (root / split).is_dir() else root
    items = []
    for path in sorted(folder.rglob("*_depth.npy")):
        stem = path.name.removesuffix("_depth.npy")
        depth, mask = sources.array_file(path), sources.array_file(path.with_name(f"{stem}_depth_mask.npy"))
        name = str(path.with_name(stem).relative_to(folder))
        predicted = str(path.with_name(f"pred_{stem}").relative_to(root))
        items.append(_item(name, path.with_name(f"{stem}.png"), depth, _as_mask(mask), (predicted,)))
    return items


def _as_mask(load: Load) -> Load:
    return lambda: load().astype(bool)


def _item(name: str, picture: Path, depth: Load, valid: Load, aliases: tuple[str, ...]) -> Item:
    return Item(
        id=sources.safe_id(name),
        task="depth",
        instruction="Predict the depth map of IMG1.",
        category=next((kind for kind in ("indoors", "outdoor") if kind in name), ""),
        inputs=(sources.picture_file(picture),),
        truth=shown(depth, valid),
        arrays={"depth": depth, "valid": valid},
        aliases=(*aliases, name),
    )


def shown(depth: Callable[[], Any], valid: Callable[[], Any]) -> Load:
    """The depth as a grey picture to look at, nearest black, unknown black too."""

    def load() -> np.ndarray:
        values, known = depth(), valid()
        if not known.any():
            return np.zeros((*values.shape, 3), np.uint8)
        low, high = values[known].min(), values[known].max()
        grey = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * known
        return np.repeat((grey * 255).round().astype(np.uint8)[..., None], 3, axis=2)

    return load


NYU_DEPTH = Benchmark(
    name="nyu_depth",
    title="NYUv2 depth",
    read=read_nyu,
    measures={"depth": lambda networks: [depth_measure(NYU_RANGE)]},
    obtain="NYUv2's labelled test set as Marigold's repository links it: test/<scene>/rgb_*.png and depth_*.png",
    groups=False,
)
DIODE = Benchmark(
    name="diode",
    title="DIODE depth",
    read=read_diode,
    measures={"depth": lambda networks: [depth_measure(DIODE_RANGE)]},
    splits=("val",),
    obtain="DIODE's validation set: val/indoors/... and val/outdoor/... with *_depth.npy and *_depth_mask.npy",
)
