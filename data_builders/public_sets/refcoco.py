"""Referring segmentation: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO. Each expression becomes a sample of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco

from data_builders.frames import canvas, mask_frame
from data_builders.public_sets.items import Item, bad_item, inside, json_file, load_picture, parquet_items
from unireal.sample import Sample
from unireal.tasks import TASKS

_TOLERANCE = 2.0  # pixels between the box of a polygon and the annotated one
_TO_JSON = "python -c \"import json, pickle; json.dump(pickle.load(open('{0}.p', 'rb')), open('{0}.json', 'w'))\""


def refcoco(folder: Path) -> Iterator[Item]:
    """refs(SPLITTER).json with instances.json and the photos, or Parquet in the columns of lmms-lab/RefCOCO.

    Parquet: columns image, answer (the expressions), segmentation (one flat polygon x0, y0, x1, ...), bbox (x, y, w,
    h); rows whose polygon does not span the box are parts of objects, and bad. lmms-lab's own files are of the splits
    that evaluation measures, and are not read.
    JSON: of refs(unc).json, grefs(unc).json, ... the entries of split "train" (ann_id, image_id, sentences[].sent);
    instances.json in COCO's format beside it; photos under their file_name at any depth of the folder, or of train2014.
    Entries whose photo is of another split in any of the files are bad: RefCOCOg trains on photos that RefCOCO tests.
    COCO's coordinates, and what "left" means to who wrote the expressions, are those of the photos as they are stored,
    whatever their EXIF data say.
    The original refs(unc).p are pickles, which can run any program when they are read; they are not read here, and the
    error tells how to turn one that you trust into JSON.
    """
    found = sorted(path for path in folder.rglob("*refs(*).json"))
    if found:
        held_out: dict[str, str] = {}
        for path in found:
            held_out |= _held_out_photos(path)
        for path in found:
            yield from _json_items(folder, path, held_out)
        return
    if pickles := sorted(folder.rglob("refs(*).p")):
        name = str(pickles[0].with_suffix(""))
        raise ValueError(f"{pickles[0].name} is a pickle; if you trust it: {_TO_JSON.format(name)}")
    yield from parquet_items(folder, ("image", "answer", "segmentation", "bbox"), ("file_name", "iscrowd"), _row)


def _row(row: dict[str, Any]) -> Sequence[Sample]:
    image = load_picture(row["image"], "image", upright=False)
    polygon, box = row["segmentation"], row["bbox"]
    mask = polygon_mask([polygon], image.shape[:2])
    if box is None or len(box) != 4:
        raise ValueError(f"a box is x, y, width, height, got {box!r}")
    ends = np.array([min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])])
    if np.abs(ends - (box[0], box[1], box[0] + box[2], box[1] + box[3])).max() > _TOLERANCE:
        raise ValueError("the polygon does not span the box, so it is only a part of the object")
    return _samples(image, mask, row["answer"], {"image": row.get("file_name")})


def _read(path: Path) -> tuple[list[Any], dict[Any, Any], dict[Any, Any]]:
    """The entries of one file, and annotations and photos by their ids."""
    instances = path.with_name("instances.json")
    if not instances.is_file():
        raise ValueError(f"{path.parent} has no instances.json beside {path.name}; both come in the same archive")
    entries, told = json_file(path), json_file(instances)
    if not isinstance(entries, list):
        raise ValueError(f"{path} is a list of objects, got {type(entries).__name__}")
    try:
        annotations = {annotation["id"]: annotation for annotation in told["annotations"]}
        photos = {photo["id"]: photo for photo in told["images"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{instances} is not in COCO's format ({error!r})") from error
    return entries, annotations, photos


def _held_out_photos(path: Path) -> dict[str, str]:
    """The names of the photos that splits other than "train" have, and a split that has it."""
    entries, _, photos = _read(path)
    found: dict[str, str] = {}
    for entry in entries:
        try:
            if entry["split"] != "train":
                found[photos[entry["image_id"]]["file_name"]] = f"{entry['split']!r} of {path.parent.name}/{path.name}"
        except (KeyError, TypeError):
            continue  # nothing is measured with it
    return found


def _json_items(folder: Path, path: Path, held_out: dict[str, str]) -> Iterator[Item]:
    entries, annotations, photos = _read(path)
    files = {file.name: file for file in folder.rglob("*.jpg")}
    for number, entry in enumerate(entries):
        where = f"{path.relative_to(folder)}:{number}"
        if not isinstance(entry, dict):
            yield bad_item(where, f"an entry is an object, got {entry!r}")
        elif entry.get("split") == "train":
            yield Item(where, partial(_entry, entry, annotations, photos, files, held_out))


def _entry(
    entry: dict, annotations: dict, photos: dict, files: dict[str, Path], held_out: dict[str, str]
) -> Sequence[Sample]:
    try:
        photo = photos[entry["image_id"]]
        # gRefCOCO: several objects for one expression, or none ([-1])
        numbers = entry["ann_id"] if isinstance(entry["ann_id"], list) else [entry["ann_id"]]
        segments = [annotations[n]["segmentation"] for n in numbers if n != -1]
        name, size = photo["file_name"], (photo["height"], photo["width"])
        expressions = [sentence["sent"] for sentence in entry["sentences"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no {error} in the annotations") from error
    if name in held_out:
        raise ValueError(f"photo {name} is of split {held_out[name]} too, which evaluation measures")
    image = load_picture(files.get(name, inside(Path(), name)), "photo", upright=False)
    if image.shape[:2] != size:
        raise ValueError(f"{name} is {image.shape[1]}x{image.shape[0]} pixels, instances.json says {size[1]}x{size[0]}")
    mask = np.zeros(size, bool)
    for segment in segments:
        mask |= run_length_mask(segment, size) if isinstance(segment, dict) else polygon_mask(segment, size)
    return _samples(image, mask, expressions, {"image": name})


def _samples(image: np.ndarray, mask: np.ndarray, expressions: Any, facts: dict[str, Any]) -> Sequence[Sample]:
    words = [" ".join(e.split()) for e in expressions or () if isinstance(e, str) and e.strip()]
    if not words:
        raise ValueError(f"no expression in {expressions!r}")
    task = TASKS["segment"]
    return [
        Sample(
            task.name,
            task.template.format(prompt=expression.rstrip(".")),
            task.context,
            (canvas(image),),
            (mask_frame(mask),),
            source=dict(facts),
        )
        for expression in dict.fromkeys(words)
    ]


def polygon_mask(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) of COCO's polygons, each x0, y0, x1, y1, ... in pixels, as pycocotools fills them.

    Programs that draw count the outline as well, which makes an object of 12 pixels a half larger. Raises ValueError
    for what is no polygon.
    """
    try:
        outlines = [[float(value) for value in polygon] for polygon in polygons]
    except (TypeError, ValueError):
        outlines = []
    if not outlines or not all(len(o) >= 6 and len(o) % 2 == 0 and np.isfinite(o).all() for o in outlines):
        raise ValueError(f"a polygon has 3 or more points x, y, got {polygons!r}")
    return coco.decode(coco.merge(coco.frPyObjects(outlines, *size))).astype(bool)


def run_length_mask(segment: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) of COCO's {"counts", "size"}: lengths of 0s, 1s, 0s, ... down the columns.

    Raises ValueError for lengths that do not fill the picture, and for the compressed kind.
    """
    counts = segment.get("counts")
    if not (isinstance(counts, list) and all(isinstance(count, int) for count in counts)):
        raise ValueError("compressed run lengths; decode them with pycocotools first")
    if sum(counts) != size[0] * size[1] or min(counts, default=0) < 0:
        raise ValueError(f"run lengths of {sum(counts)} pixels for a picture of {size[0] * size[1]}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size[::-1]).T.copy()
