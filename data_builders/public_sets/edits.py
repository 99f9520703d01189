"""Instruction-based image editing: InstructPix2Pix, UltraEdit, MagicBrush. Each item is a picture and its edit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_builders.contexts import synthetic
from data_builders.frames import canvas, result
from data_builders.public_sets.items import (
    Item,
    bad_item,
    inside,
    json_file,
    load_picture,
    load_region,
    parquet_items,
    text,
)
from unireal.sample import Sample
from unireal.tasks import TASKS

# MagicBrush's results are photographs but for a region, and count as such.
SYNTHETIC, REALISTIC = synthetic("edit"), TASKS["edit"].context


def _edit(
    instruction: str, before: np.ndarray, after: np.ndarray, context: str, mask: np.ndarray | None = None, **facts: Any
) -> Sample:
    known = {name: value for name, value in facts.items() if value is not None}
    return Sample("edit", instruction, context, (canvas(before),), (result(after),), mask, known)


def instructpix2pix(folder: Path) -> Iterator[Item]:
    """timbrooks/instructpix2pix-clip-filtered as Parquet, or the authors' own folders.

    Parquet: columns original_image, edited_image, edit_prompt, and original_prompt, edited_prompt.
    Folders: seeds.json, a list of [name, [seed, ...]], and NAME/prompt.json ({"edit", "input", "output"}),
    NAME/SEED_0.jpg before and NAME/SEED_1.jpg after the edit; every seed becomes a sample.
    """
    if (folder / "seeds.json").is_file():
        yield from _seeds(folder)
        return
    columns, captions = ("original_image", "edited_image", "edit_prompt"), ("original_prompt", "edited_prompt")
    yield from parquet_items(folder, columns, captions, _instructpix2pix_row)


def _instructpix2pix_row(row: dict[str, Any]) -> Sequence[Sample]:
    before = load_picture(row["original_image"], "original_image")
    after = load_picture(row["edited_image"], "edited_image")
    captions = {"caption": row.get("original_prompt"), "caption_after": row.get("edited_prompt")}
    return [_edit(text(row, "edit_prompt"), before, after, SYNTHETIC, **captions)]


def _seeds(folder: Path) -> Iterator[Item]:
    entries = json_file(folder / "seeds.json")
    if not isinstance(entries, list):
        raise ValueError(f"{folder / 'seeds.json'} is a list of [name, [seed, ...]], got {type(entries).__name__}")
    for number, entry in enumerate(entries):
        try:
            name, seeds = entry
            seeds = [str(seed) for seed in seeds]
        except (TypeError, ValueError):
            yield bad_item(f"seeds.json:{number}", f"not [name, [seed, ...]] but {entry!r}")
            continue
        for seed in seeds:
            yield Item(f"{name}/{seed}", partial(_seed, folder, name, seed))


def _seed(folder: Path, name: str, seed: str) -> Sequence[Sample]:
    prompt = json_file(inside(folder, f"{name}/prompt.json"))
    if not isinstance(prompt, dict):
        raise ValueError(f"prompt.json is an object, got {type(prompt).__name__}")
    before, after = (load_picture(inside(folder, f"{name}/{seed}_{i}.jpg"), "picture") for i in (0, 1))
    captions: dict[str, Any] = {"caption": prompt.get("input"), "caption_after": prompt.get("output")}
    return [_edit(text(prompt, "edit"), before, after, SYNTHETIC, **captions)]


def ultraedit(folder: Path) -> Iterator[Item]:
    """BleachNick/UltraEdit, UltraEdit_500k, UltraEdit_Region_Based_100k: Parquet.

    Columns source_image, edited_image, edit_prompt, and where they are there mask_image (white where a region-based
    edit happens; wholly white in free-form edits), source_caption, target_caption.
    """
    optional = ("mask_image", "source_caption", "target_caption")
    yield from parquet_items(folder, ("source_image", "edited_image", "edit_prompt"), optional, _ultraedit_row)


def _ultraedit_row(row: dict[str, Any]) -> Sequence[Sample]:
    before = load_picture(row["source_image"], "source_image")
    after = load_picture(row["edited_image"], "edited_image")
    mask = load_region(row["mask_image"], "mask_image", before) if row.get("mask_image") else None
    mask = None if mask is None or mask.all() or not mask.any() else mask
    captions = {"caption": row.get("source_caption"), "caption_after": row.get("target_caption")}
    return [_edit(text(row, "edit_prompt"), before, after, SYNTHETIC, mask, **captions)]


def magicbrush(folder: Path) -> Iterator[Item]:
    """osunlp/MagicBrush: Parquet with columns img_id, turn_index, source_img, mask_img, target_img, instruction.

    mask_img is the source with the region where the edit may happen in white (or transparent). Turn 1 starts from a
    photograph of COCO, later turns from the result of the turn before. The files of split "dev" are not read.
    """
    columns = ("img_id", "turn_index", "source_img", "target_img", "instruction")
    yield from parquet_items(folder, columns, ("mask_img",), _magicbrush_row)


def _magicbrush_row(row: dict[str, Any]) -> Sequence[Sample]:
    before = load_picture(row["source_img"], "source_img")
    after = load_picture(row["target_img"], "target_img")
    mask = load_region(row["mask_img"], "mask_img", before) if row.get("mask_img") else None
    mask = None if mask is None or not mask.any() else mask
    facts = {"image": row["img_id"], "turn": row["turn_index"]}
    return [_edit(text(row, "instruction"), before, after, REALISTIC, mask, **facts)]
