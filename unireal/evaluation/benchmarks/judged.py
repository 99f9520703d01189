"""Benchmarks whose published score is a judge's (python -m unireal.evaluation judge): GEdit and EditEval.

What is measured here, likeness to the source and to a caption where there is one, goes beside the judge's score; it is
no part of these benchmarks' protocols.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unireal.evaluation.benchmarks import sources
from unireal.evaluation.benchmarks.base import CLIP_B, CLIP_L, DINO_S16, Benchmark, edit_type
from unireal.evaluation.measures import fidelity, similarity
from unireal.evaluation.results import Item

OUTSIDE = "not in the intersection set"
SHEET = "editing_prompts_collection.xlsx"


def read_gedit(root: Path, split: str) -> list[Item]:
    """Parquet of stepfun-ai/GEdit-Bench; the split is the language, "en" or "cn"."""
    table = sources.table(root, "train")
    items = []
    texts = ("task_type", "key", "instruction", "instruction_language")
    for number, row in table.rows(("input_image",), texts, further=("input_image_raw",)):
        if row["instruction_language"] != split:
            continue
        category = row["task_type"]
        item = Item(
            id=sources.safe_id(row["key"]),
            task="edit",
            instruction=row["instruction"],
            category=category,
            edit_type=edit_type("gedit", category),
            inputs=(table.picture(number, "input_image"),),
            faults=() if row.get("Intersection_exist", True) else (OUTSIDE,),
            aliases=(*(f"{where}{category}/{split}/{row['key']}" for where in ("fullset/", "")), row["key"]),
        )
        items.append(item)
    return items


def read_editeval(root: Path, split: str) -> list[Item]:
    """EditEval_v1/Dataset: a folder of numbered pictures per kind of edit, and a sheet with prompts in their order."""
    root = next((folder for folder in (root, root / "Dataset") if (folder / SHEET).exists()), root)
    items: list[Item] = []
    category, number = "", 0
    for row in _sheet_rows(sources.found(root, (SHEET,), "EditEval_v1/Dataset")):
        if row["class"]:
            category, number = _folder_name(row["class"]), 0
        if not category:
            raise ValueError(f"{root / SHEET} has prompts before the first class; the class stands in the first column")
        number += 1
        path = sources.find_picture(root / category / str(number)) or root / category / f"{number}.jpg"
        item = Item(
            id=sources.safe_id(category, number),
            task="edit",
            instruction=row["instruction"] or row["target"],
            category=category,
            edit_type=edit_type("editeval", category),
            inputs=(sources.picture_file(path),),
            texts={"source": row["source"], "target": row["target"]},
            aliases=(f"{category}/{number}",),
        )
        items.append(item)
    return items


def _sheet_rows(path: Path) -> list[dict[str, str]]:
    """class (only in the first row of a block), source, target and instruction of each row.

    The first class may be the heading of its column, in place of "Edit Class".
    """
    lines = sources.sheet(path)
    head = [name.lower() for name in lines[0]] if lines else []
    wanted = {"source": "source prompt", "target": "target prompt", "instruction": "instruction"}
    try:
        found = {key: next(i for i, n in enumerate(head) if n.startswith(start)) for key, start in wanted.items()}
    except StopIteration:
        raise ValueError(f"{path} has the columns {head}; expected {', '.join(wanted.values())}") from None
    rows = [{key: _cell(line, i) for key, i in ({"class": 0} | found).items()} for line in lines[1:]]
    rows = [row for row in rows if row["source"] or row["target"]]
    if rows and "class" not in head[0]:
        rows[0]["class"] = rows[0]["class"] or head[0]
    return rows


def _cell(line: list[str], index: int) -> str:
    return line[index] if index < len(line) else ""


def _folder_name(title: str) -> str:
    """Of a class: "Object Removal" is in object_removel, as the data set spells it."""
    return title.lower().replace(" ", "_").replace("object_removal", "object_removel")


BESIDE: dict[str, Any] = {
    "CLIPim": lambda networks: [similarity.clip_image(networks.clip(), "source", "CLIPim")],
    "DINO": lambda networks: [similarity.dino(networks.dino(), "source")],
    "L1": lambda networks: [fidelity.distances("source")],
}
BACKBONES = {"clip": CLIP_B, "dino": DINO_S16}

GEDIT = Benchmark(
    name="gedit",
    title="GEdit-Bench",
    read=read_gedit,
    measures=BESIDE,
    backbones=BACKBONES,
    splits=("en", "cn"),
    hub="stepfun-ai/GEdit-Bench",
    files=("*.parquet", "**/*.parquet"),
    obtain="stepfun-ai/GEdit-Bench on the hub, with its Parquet files",
    faults=(OUTSIDE,),
)
EDITEVAL = Benchmark(
    name="editeval",
    title="EditEval v1",
    read=read_editeval,
    measures={
        **BESIDE,
        "CLIPdir": lambda networks: [similarity.directional(networks.clip("direction"))],
        "CLIPout": lambda networks: [similarity.clip_text(networks.clip(), "target", "CLIPout")],
    },
    backbones=BACKBONES | {"direction": CLIP_L},
    obtain="EditEval_v1/Dataset of SiatMMLab/Awesome-Diffusion-Model-Based-Image-Editing-Methods",
)
