"""Sets of several tasks: OmniGen2's X2I2, and Ditto-1M's videos."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from data_builders.clips.clip import read_frames
from data_builders.contexts import synthetic
from data_builders.frames import asset, canvas, result
from data_builders.public_sets.items import Item, bad_item, inside, json_file, load_picture, text
from unireal.sample import Sample
from unireal.tasks import TASKS

_PLACE = re.compile(r"(?:<img>)?<\|image_(\d+)\|>(?:</img>)?")  # how OmniGen's texts name their pictures
DITTO_FPS, DITTO_FRAMES = 8.0, 7  # with the edited frame, as many inputs as index tables hold
_REVERSED = "sim2real"  # the file of Ditto-1M whose results are the real videos


def x2i2(folder: Path) -> Iterator[Item]:
    """OmniGen2/X2I2, and other sets in the format of OmniGen2's trainer: .jsonl files at any depth of the folder.

    A line has task_type, instruction, input_images (paths, or null) and output_image. Paths count from the folder,
    from its images/, from images/NAME for jsons/.../NAME.jsonl, or from where the .jsonl is; the first that exists.
    task_type decides the roles: with "edit" in it the first picture is the canvas and others are assets; with "gen",
    "subject" or "reference" all are assets; "t2i" and "text_to_image" have none. Other types are bad items.
    """
    paths = sorted(folder.rglob("*.jsonl"))
    if not paths:
        raise ValueError(f"{str(folder)!r} holds no .jsonl files; give the folder that holds jsons/ and images/")
    for path in paths:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines):
                if line.strip():
                    yield Item(f"{path.relative_to(folder)}:{number}", partial(_x2i2_line, folder, path, line))


def _x2i2_line(folder: Path, path: Path, line: str) -> Sequence[Sample]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"a line is an object, got {type(row).__name__}")
    roots = (folder, folder / "images", folder / "images" / path.stem, path.parent)
    kind, names = text(row, "task_type").lower(), row.get("input_images") or []
    if not isinstance(names, list):
        raise ValueError(f"input_images is a list of paths, got {names!r}")
    images = [load_picture(_find(roots, name), f"input {i}") for i, name in enumerate(names, start=1)]
    task, roles = _roles(kind, len(images))
    inputs = tuple(role(image) for role, image in zip(roles, images, strict=True))
    results = (result(load_picture(_find(roots, row.get("output_image")), "output_image")),)
    instruction = _PLACE.sub(r"IMG\1", text(row, "instruction"))
    return [Sample(task, instruction, TASKS[task].context, inputs, results, source={"task_type": kind})]


def _roles(kind: str, count: int) -> tuple[str, list[Any]]:
    """The task, and for each picture what makes it a frame."""
    if kind in ("t2i", "text_to_image") and not count:
        return "t2i", []
    if "edit" in kind and count:
        return ("edit" if count == 1 else "insert"), [canvas] + [asset] * (count - 1)
    if any(word in kind for word in ("gen", "subject", "reference")) and count:
        return "customize", [asset] * count
    raise ValueError(f"unknown task_type {kind!r} with {count} input images")


def _find(roots: Sequence[Path], name: Any) -> Path:
    candidates = [inside(root, name) for root in roots]
    return next((path for path in candidates if path.is_file()), candidates[0])


def ditto(folder: Path) -> Iterator[Item]:
    """QingyanBai/Ditto-1M: training_metadata/*.json, lists of {source_path, instruction, edited_path}.

    Paths count from videos/, where source/, local/, global_style1/, ... of the unpacked archives lie, or from the
    folder itself. Of each pair of videos the first second becomes a sample of video_edit, 7 frames at 8 per second,
    with the first edited frame as scaffold; sim2real.json holds the reversed pairs in the same form, whose results are
    real.
    """
    paths = sorted((folder / "training_metadata").glob("*.json"))
    if not paths:
        raise ValueError(f"{str(folder)!r} holds no training_metadata/*.json; give the folder of Ditto-1M")
    for path in paths:
        where = str(path.relative_to(folder))
        try:
            rows = json_file(path)
        except ValueError as error:
            yield bad_item(where, str(error))
            continue
        if not isinstance(rows, list):
            yield bad_item(where, f"a list of objects is expected, got {type(rows).__name__}")
            continue
        context = TASKS["video_edit"].context if path.stem == _REVERSED else synthetic("video_edit")
        for number, row in enumerate(rows):
            yield Item(f"{where}:{number}", partial(_ditto_row, folder, context, row))


def _ditto_row(folder: Path, context: str, row: Any) -> Sequence[Sample]:
    if not isinstance(row, dict):
        raise ValueError(f"an entry is an object, got {row!r}")
    roots = (folder / "videos", folder)
    source, edited = (_find(roots, row.get(key)) for key in ("source_path", "edited_path"))
    before, after = (_first_frames(path) for path in (source, edited))
    inputs = (*map(canvas, before), asset(after[0]))
    facts = {"video": row["source_path"], "edited": row["edited_path"]}
    results = tuple(map(result, after))
    return [Sample("video_edit", text(row, "instruction"), context, inputs, results, source=facts)]


def _first_frames(path: Path) -> list[Any]:
    """Raises ValueError if the file is missing, damaged, or too short."""
    if not path.is_file():
        raise ValueError(f"video {str(path)!r} is missing")
    try:
        frames = [image for _, image in islice(read_frames(path, fps=DITTO_FPS), DITTO_FRAMES)]
    except ValueError as error:
        raise ValueError(f"video {str(path)!r} {error}") from error
    if len(frames) < DITTO_FRAMES:
        raise ValueError(f"video {str(path)!r} has fewer than {DITTO_FRAMES} frames at {DITTO_FPS:g} per second")
    return frames
