"""Referring and reasoning segmentation: the RefCOCO family and ReasonSeg, scored by cIoU and gIoU as in LISA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unireal.evaluation.benchmarks import sources
from unireal.evaluation.benchmarks.base import Benchmark
from unireal.evaluation.measures.perception import segmentation_measure
from unireal.evaluation.pictures import Shared
from unireal.evaluation.results import Item, Load
from unireal.transforms import mask_image


def read_refcoco(root: Path, split: str) -> list[Item]:
    """Parquet of lmms-lab/RefCOCO, RefCOCOplus or RefCOCOg: image, answer (expressions), segmentation (polygons); one
    item per expression. COCO's outlines, and what "left" means to who wrote the expressions, are those of the pictures
    as they are stored, whatever their EXIF data say.

    The original refs(unc).p files are pickles, which are not read.
    """
    if next(root.rglob("refs(*).p"), None) and not next(root.rglob("*.parquet"), None):
        raise ValueError(f"{root} holds pickled references, which are not read; give lmms-lab/RefCOCO's Parquet files")
    table = sources.table(root, split)
    items = []
    for number, row in table.rows(("image",), (), ("answer", "segmentation")):
        picture = Shared(table.picture(number, "image", upright=False))
        answers = [row["answer"]] if isinstance(row["answer"], str) else row["answer"] or ()
        for k, expression in enumerate(answers):
            key = f"{number:05d}_{k}"  # question_id need not be unique: a split may hold an object twice
            items.append(_item(key, expression, picture, _polygons(row["segmentation"], picture), {}))
    return items


def _polygons(stored: Any, picture: Load) -> Load:
    """Polygons as one flat list of coordinates or as several; bool (H, W), filled by pycocotools as in REFER."""
    polygons = stored if stored and isinstance(stored[0], Sequence) else [stored]

    def load() -> np.ndarray:
        import pycocotools.mask as coco

        outlines = [polygon for polygon in polygons if len(polygon or ()) >= 6 and np.isfinite(polygon).all()]
        if not outlines:
            raise ValueError("the data set holds no outline of what is asked for")
        return coco.decode(coco.merge(coco.frPyObjects(outlines, *picture().shape[:2]))).astype(bool)

    return load


def read_reasonseg(root: Path, split: str) -> list[Item]:
    """<split>/NAME.jpg with NAME.json: text, is_sentence and shapes (LabelMe polygons; "ignore" ones are not counted).

    Where there are several texts, LISA's script asks the first.
    """
    folder = root / split if (root / split).is_dir() else root
    items = []
    for path in sorted(folder.glob("*.json")):
        found = _annotation(path)
        picture = sources.find_picture(path.with_suffix(""))
        if picture is None:
            raise ValueError(f"{path} has no picture beside it")
        load = Shared(sources.picture_file(picture))
        masks = [_shapes(found["shapes"], load, ignored) for ignored in (False, True)]
        category = "sentence" if found.get("is_sentence") else "phrase"
        items.append(
            _item(sources.safe_id(path.stem), found["text"][0], load, masks[0], {"ignore": masks[1]}, category)
        )
    return items


def _annotation(path: Path) -> dict[str, Any]:
    """Some of the files are not in UTF-8, as in LISA's script."""
    try:
        found = sources.read_json(path)
    except ValueError:
        found = sources.read_json(path, encoding="cp1252")
    sources.need(found, (), path, ("text", "shapes"))
    if not (isinstance(found["text"], list) and found["text"] and all(isinstance(text, str) for text in found["text"])):
        raise ValueError(f"{path} has no texts, in a list, that say what is asked for")
    if not isinstance(found["shapes"], list):
        raise ValueError(f"{path} has shapes that are no list")
    for shape in found["shapes"]:
        sources.need(shape, ("label",), f"{path}, a shape,", ("points",))
    return found


def _shapes(shapes: Sequence[dict[str, Any]], picture: Load, ignored: bool) -> Load:
    """bool (H, W): target or ignored pixels. Shapes are painted from large to small, each over what is below."""

    def load() -> np.ndarray:
        size = picture().shape[:2]
        kept = [shape for shape in shapes if shape["label"].lower() != "flag"]
        outlines = [np.ravel(shape["points"]).tolist() for shape in kept]
        masks = [
            (sources.polygon_mask([outline], size), "ignore" in shape["label"].lower())
            for outline, shape in zip(outlines, kept, strict=True)
        ]
        painted = np.zeros(size, np.uint8)
        for mask, ignore in sorted(masks, key=lambda pair: -pair[0].sum()):
            painted[mask] = 2 if ignore else 1
        return painted == (2 if ignored else 1)

    return load


def _item(key: str, expression: str, picture: Shared, mask: Load, arrays: dict[str, Load], category: str = "") -> Item:
    return Item(
        id=key,
        task="segment",
        instruction=expression,
        category=category,
        inputs=(picture,),
        truth=lambda: mask_image(mask()),
        arrays={"mask": mask, **arrays},
    )


REFCOCO, REFCOCO_PLUS, REFCOCOG = (
    Benchmark(
        name=name,
        title=title,
        read=read_refcoco,
        measures={"IoU": lambda networks: [segmentation_measure()]},
        splits=splits,
        hub=hub,
        files=("data/*.parquet",),
        obtain=f"{hub} on the hub, with its Parquet files",
        groups=False,
    )
    for name, title, hub, splits in (
        ("refcoco", "RefCOCO", "lmms-lab/RefCOCO", ("val", "testA", "testB", "test")),
        ("refcoco+", "RefCOCO+", "lmms-lab/RefCOCOplus", ("val", "testA", "testB")),
        ("refcocog", "RefCOCOg", "lmms-lab/RefCOCOg", ("val", "test")),
    )
)
REASONSEG = Benchmark(
    name="reasonseg",
    title="ReasonSeg",
    read=read_reasonseg,
    measures={"IoU": lambda networks: [segmentation_measure()]},
    splits=("val", "test", "train"),
    obtain="ReasonSeg as LISA's repository links it: val/*.jpg with *.json",
)
