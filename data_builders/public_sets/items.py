"""What all readers share: items that are loaded one at a time, so that a bad one is told and left out.

A reader finds the items of a folder without decoding them. `Reader.samples` then makes the samples, checks each
(unireal.data.records.check_sample), and says of a bad item which file or row it is.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from data_builders.errors import one_line
from unireal.data.records import check_sample
from unireal.sample import Sample

# 1 counted the outlines of polygons as objects, and called all results of Ditto-1M synthetic; 2 turned COCO's photos as
# their EXIF data say, and not the masks
_VERSION = 3
_BATCH_ROWS = 16  # of Parquet that are in memory at a time, with their pictures
_WHITE, _OPAQUE = 250, 128
# Of files and folders, as the hub names them: data/dev-00000-of-00004.parquet, default/test/0000.parquet, and
# default/partial-test/0000.parquet where it has converted a part of a large set
_HELD_OUT = re.compile(r"(?:partial-)?(dev|val|valid|validation|test[AB]?)(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """One item of a set. where: file, or file:row; load: its samples, mostly one; raises ValueError for a bad one."""

    where: str
    load: Callable[[], Sequence[Sample]]


@dataclass(frozen=True)
class Reader:
    """One public set.

    name: on command lines; summary: of one line; items: finds the items of a folder, or raises ValueError that says
    what the folder should look like.
    """

    name: str
    summary: str
    items: Callable[[Path], Iterator[Item]]

    def samples(self, folder: str | Path, on_bad: Callable[[str, str], object] | None = None) -> Iterator[Sample]:
        """The samples of the set in `folder`; source["set"] and source["item"] say where each is from.

        on_bad: called with "file:row" and the reason for each bad item, which is left out; without it that is a
        ValueError.
        Raises ValueError if the folder does not exist or does not hold this set.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"{str(folder)!r} is not a folder; give the one that holds the files of {self.name}")
        for item in self.items(folder):
            try:
                samples = [self._finished(sample, item.where) for sample in item.load()]
            except Exception as error:  # annotations hold anything, in any place
                known = isinstance(error, ValueError | OSError)
                reason = str(error) if known else f"cannot be made sense of ({type(error).__name__}: {error})"
                if on_bad is None:
                    raise ValueError(f"{item.where}: {reason}") from error
                on_bad(item.where, reason)
                continue
            yield from samples

    def _finished(self, sample: Sample, where: str) -> Sample:
        check_sample(sample)
        sample.source.update({"builder": "import", "version": _VERSION, "set": self.name, "item": where})
        return sample


def open_picture(source: Path | dict[str, Any] | None, name: str, upright: bool = True) -> Image.Image:
    """A picture file, or one in a column of datasets.Image ({bytes, path}), decoded, in its own mode.

    upright: turned as its EXIF data say; else as it is stored, which is what the coordinates of some sets count.
    Raises ValueError that names it if it is missing or damaged.
    """
    data: Path | io.BytesIO
    if isinstance(source, Path):
        if not source.is_file():
            raise ValueError(f"{name} {str(source)!r} is missing")
        data = source
    elif isinstance(source, dict) and source.get("bytes"):
        data = io.BytesIO(source["bytes"])
    else:
        raise ValueError(f"{name} holds no picture")
    try:
        with Image.open(data) as image:
            return ImageOps.exif_transpose(image) if upright else image.copy()
    except Exception as error:  # decoders meet damaged files with errors of almost any type
        raise ValueError(f"{name} cannot be read as a picture ({error})") from error


def load_picture(source: Path | dict[str, Any] | None, name: str, upright: bool = True) -> np.ndarray:
    """As open_picture, as uint8 (H, W, 3) RGB; what is transparent becomes white, and 16 bits become 8."""
    return _rgb(open_picture(source, name, upright), name)


def load_region(source: Path | dict[str, Any], name: str, canvas: np.ndarray | None = None) -> np.ndarray:
    """The marked region of a mask picture, bool (H, W).

    Marked is what is transparent where the picture has transparency, else what is white. Where the mask is drawn in
    white onto a copy of `canvas`, uint8 (H, W, 3), white that the canvas has as well is not marked.
    Raises ValueError also if it has another size than the canvas.
    """
    picture = open_picture(source, name)
    if canvas is not None and picture.size != canvas.shape[1::-1]:
        raise ValueError(f"{name} is {picture.size} pixels, the picture {canvas.shape[1::-1]}; they should be equal")
    if "A" in picture.getbands():
        alpha = np.asarray(picture.getchannel("A"))
        if alpha.min() < _OPAQUE:
            return alpha < _OPAQUE
    image = _rgb(picture, name)
    white = (image >= _WHITE).all(axis=2)
    two_tone = (white | (image <= 255 - _WHITE).all(axis=2)).mean() > 0.95
    if canvas is None or two_tone:
        return np.asarray(white)
    return np.asarray(white & ~(canvas >= _WHITE).all(axis=2))


def _rgb(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode in ("I", "F"):  # Pillow would cut off what is above 255
        raise ValueError(f"{name} has 32 bits, of which none says what is white; convert it to 8 or 16")
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) / 257 + 0.5).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB")).copy()


def text(row: dict[str, Any], column: str) -> str:
    """The column's words. Raises ValueError if there are none."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{column} holds no text, but {value!r}")
    return " ".join(value.split())


def json_file(path: Path) -> Any:
    """Raises ValueError that names the file if it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # some programs put a mark before the text
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error})") from error


def inside(folder: Path, name: Any) -> Path:
    """folder / name, for a name that a file of the set gives. Raises ValueError if it leads out of the folder."""
    path = Path(str(name))
    if not isinstance(name, str) or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not the path of a file within the set")
    return folder / path


def parquet_items(
    folder: Path,
    columns: Sequence[str],
    optional: Sequence[str],
    make: Callable[[dict[str, Any]], Sequence[Sample]],
) -> Iterator[Item]:
    """An item for each row of the .parquet files at any depth, and a bad one for each file that is not read.

    These are damaged, or of a split that evaluation measures (`held_out`).
    columns: that a file must have, else it is passed over; optional: read where they are there.
    Raises ValueError if no file has the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths, fitting = sorted(folder.rglob("*.parquet")), 0
    for path in paths:
        where = str(path.relative_to(folder))
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                if not set(columns) <= set(names):
                    continue
                fitting += 1
                if split := held_out(path.relative_to(folder)):
                    reason = f"is of the split {split!r}, which evaluation measures; rename it to read it all the same"
                    yield Item(where, _failing(reason))
                    continue
                chosen, row = [*columns, *(c for c in optional if c in names)], 0
                for batch in file.iter_batches(_BATCH_ROWS, columns=chosen, use_threads=False):
                    for values in batch.to_pylist():
                        yield Item(f"{where}:{row}", partial(make, values))
                        row += 1
        except (pa.ArrowException, OSError) as error:
            fitting += 1
            yield Item(where, _failing(f"cannot be read as Parquet ({one_line(error)})"))
    if not fitting:
        found = f"{len(paths)} .parquet files without these" if paths else "no .parquet files"
        raise ValueError(f"{str(folder)!r} holds {found}; wanted are columns {', '.join(columns)}")


def held_out(path: Path) -> str:
    """The split that a file within a set is of by its name or that of a folder, "dev"; "" unless it is held out."""
    return next((found[1] for part in path.parts if (found := _HELD_OUT.match(part))), "")


def bad_item(where: str, reason: str) -> Item:
    """An item that is known to be bad before it is loaded."""
    return Item(where, _failing(reason))


def _failing(reason: str) -> Callable[[], Sequence[Sample]]:
    def load() -> Sequence[Sample]:
        raise ValueError(reason)

    return load
