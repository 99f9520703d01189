"""PIE-Bench: edits with a mask and captions, scored as in cure-lab/PnPInversion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unireal.evaluation.benchmarks import sources
from unireal.evaluation.benchmarks.base import CLIP_L, DINO_B8, Benchmark, Networks, edit_type
from unireal.evaluation.measures import fidelity, similarity, structure
from unireal.evaluation.measures.base import Measure
from unireal.evaluation.pictures import Case
from unireal.evaluation.results import Item, Load
from unireal.taxonomy import CATEGORIES

SIZE = 512
FULL = "mask covers everything"
_TEXTS, _COLUMNS = ("image_path", "original_prompt", "editing_prompt"), ("editing_type_id", "mask")


def pie_mask(pairs: Sequence[int]) -> np.ndarray:
    """bool (512, 512) from run lengths; the outermost pixels belong to it, as in the reference script."""
    mask = sources.run_lengths(pairs, (SIZE, SIZE))
    mask[[0, -1], :] = mask[:, [0, -1]] = True
    return mask


def unmarked(prompt: str) -> str:
    """The prompt without the brackets around what changes."""
    return prompt.replace("[", "").replace("]", "")


def read_pie(root: Path, split: str) -> list[Item]:
    """The official folder (mapping_file.json, annotation_images/) or PIE-Bench++'s (Parquet, a folder per type)."""
    mapping = next((path for folder in (root, root / "data") if (path := folder / "mapping_file.json").exists()), None)
    return _parquet(root) if mapping is None else _official(mapping)


def _official(mapping: Path) -> list[Item]:
    items = []
    for key, entry in sources.read_entries(mapping, _TEXTS, _COLUMNS).items():
        path, where = mapping.parent / "annotation_images" / entry["image_path"], f"{mapping}, entry {key!r},"
        item = _item(
            key,
            _type(entry["editing_type_id"], where),
            entry.get("editing_instruction") or entry["editing_prompt"],
            sources.picture_file(path),
            sources.pairs_of(entry["mask"], where),
            (entry["original_prompt"], entry["editing_prompt"]),
            (str(Path(entry["image_path"]).with_suffix("")), str(Path(entry["image_path"]).stem)),
        )
        items.append(item)
    return items


def _type(number: Any, where: str) -> str:
    """ "1_change_object_80" of "1"."""
    types = list(CATEGORIES["pie_bench"])
    if str(number) not in map(str, range(len(types))):
        raise ValueError(f"{where} has editing_type_id {number!r}; expected 0 to {len(types) - 1}")
    return types[int(number)]


def _parquet(root: Path) -> list[Item]:
    folders = sorted(path.parent for path in root.glob("*/V1*.parquet"))
    if not folders:
        raise ValueError(f"{root} holds no mapping_file.json and no */V1*.parquet; give PIE-Bench or PIE-Bench++")
    items = []
    for folder in dict.fromkeys(folders):
        table = sources.Table(tuple(sorted(folder.glob("V1*.parquet"))))
        for number, row in table.rows(("image",), ("source_prompt", "target_prompt"), ("id", "mask")):
            pairs = sources.pairs_of(row["mask"], f"{folder}, row {number},")
            prompts = (row["source_prompt"], row["target_prompt"])
            instruction = row.get("editing_instruction") or row["target_prompt"]
            picture, key = table.picture(number, "image"), str(row["id"])
            items.append(_item(key, folder.name, instruction, picture, pairs, prompts, (key,)))
    return items


def _item(
    key: Any,
    category: str,
    instruction: str,
    picture: Load,
    pairs: Sequence[int],
    prompts: tuple[str, str],
    aliases: tuple[str, ...],
) -> Item:
    return Item(
        id=sources.safe_id(key),
        task="edit",
        instruction=unmarked(instruction),
        category=category,
        edit_type=edit_type("pie_bench", category),
        inputs=(picture,),
        arrays={"mask": lambda: pie_mask(pairs)},
        texts={"source": unmarked(prompts[0]), "target": unmarked(prompts[1])},
        faults=(FULL,) if pie_mask(pairs).all() else (),
        aliases=aliases,
    )


def unedited_region(case: Case) -> np.ndarray:
    return ~case.given.mask((SIZE, SIZE))


def _lpips(networks: Networks) -> list[Measure]:
    return [fidelity.Lpips(networks.lpips(), "source", "LPIPS unedited", SIZE, unedited_region)]


PIE_BENCH = Benchmark(
    name="pie_bench",
    title="PIE-Bench",
    read=read_pie,
    measures={
        "structure": lambda networks: [
            structure.structure(networks.dino(), SIZE),
            structure.structure(networks.dino(), SIZE, white=1.0),
        ],
        "unedited": lambda networks: [fidelity.unedited(SIZE)],
        "LPIPS": _lpips,
        "CLIP whole": lambda networks: [similarity.clip_score(networks.clip(), "CLIP whole", SIZE)],
        "CLIP edited": lambda networks: [similarity.clip_score(networks.clip(), "CLIP edited", SIZE, edited=True)],
    },
    backbones={"clip": CLIP_L, "dino": DINO_B8, "lpips": "squeeze"},
    splits=("V1",),
    hub="UB-CVML-Group/PIE_Bench_pp",
    files=("*/*.parquet",),
    obtain="the official data folder with mapping_file.json, or UB-CVML-Group/PIE_Bench_pp on the hub",
    faults=(FULL,),
)
