"""In- and outpainting on BrushBench, and on any folder of pictures and masks in its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unireal.evaluation.benchmarks import sources
from unireal.evaluation.benchmarks.base import CLIP_L, Benchmark, Networks
from unireal.evaluation.measures import fidelity, similarity
from unireal.evaluation.measures.base import Measure
from unireal.evaluation.pictures import Case, Shared, resize_bicubic, resize_mask
from unireal.evaluation.results import Item, Load

SIZE = 512
FIRST = 1  # BrushBench numbers pixels from 1
MASKS = {"inside": "inpainting_mask", "outside": "outpainting_mask"}


def read_brushbench(root: Path, split: str) -> list[Item]:
    """mapping_file.json, {key: {image, caption, inpainting_mask, outpainting_mask}}; the split, "inside" or "outside",
    says which mask.

    The model sees the picture with the hole black, as BrushNet's does; so does the copy baseline.
    """
    path = sources.found(root, ("mapping_file.json",), "BrushBench")
    listed = sources.read_entries(path, ("image", "caption"), (MASKS[split],))
    items = []
    for key, entry in listed.items():
        truth = Shared(sources.picture_file(root / entry["image"]))
        mask = _mask(sources.pairs_of(entry[MASKS[split]], f"{path}, entry {key!r},"))
        item = Item(
            id=sources.safe_id(key),
            task="inpaint",
            instruction=entry["caption"],
            category=Path(entry["image"]).parent.name,
            inputs=(_holed(truth, mask),),
            truth=truth,
            arrays={"mask": mask},
            texts={"target": entry["caption"]},
            aliases=(str(Path(entry["image"]).with_suffix("")),),
        )
        items.append(item)
    return items


def _mask(pairs: Sequence[int]) -> Load:
    return lambda: sources.run_lengths(pairs, (SIZE, SIZE), FIRST)


def _holed(truth: Load, mask: Load) -> Load:
    def load() -> np.ndarray:
        pixels = resize_bicubic(truth(), (SIZE, SIZE))
        return fidelity.blackened(pixels, ~resize_mask(mask(), (SIZE, SIZE)))

    return load


def given_region(case: Case) -> np.ndarray:
    return ~case.given.mask((SIZE, SIZE))


def _lpips(networks: Networks) -> list[Measure]:
    masked = fidelity.Lpips(networks.lpips(), "truth", "LPIPS unmasked", SIZE, given_region)
    return [masked, fidelity.Lpips(networks.lpips(), "truth", "LPIPS", SIZE)]


BRUSHBENCH = Benchmark(
    name="brushbench",
    title="BrushBench",
    read=read_brushbench,
    measures={
        "unmasked": lambda networks: [fidelity.unmasked(SIZE)],
        "LPIPS": _lpips,
        "CLIP": lambda networks: [similarity.clip_score(networks.clip(), "CLIP", SIZE)],
    },
    backbones={"clip": CLIP_L, "lpips": "squeeze"},
    splits=("inside", "outside"),
    obtain="BrushBench as TencentARC/BrushNet links it: mapping_file.json and images",
)
