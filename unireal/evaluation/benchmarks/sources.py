"""Where a benchmark's pictures lie: files, Parquet tables as the hub stores them, masks as run lengths or polygons.

Loaders are lazy: what they read is decoded when it is needed. They raise ValueError for what cannot be read.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageDraw

from unireal.evaluation.results import Load
from unireal.notices import one_line
from unireal.transforms import load_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def picture_file(path: Path, name: str = "picture") -> Load:
    """uint8 (H, W, 3) of a file."""
    return lambda: load_image(path, name)


def array_file(path: Path) -> Load:
    """An array of a .npy file; never unpickled."""

    def load() -> np.ndarray:
        try:
            return np.load(path, allow_pickle=False).squeeze()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as an array ({error})") from error

    return load


def deep_picture_file(path: Path) -> Load:
    """(H, W) of a grey PNG at its own depth, uint8 or 16 bits as int32."""

    def load() -> np.ndarray:
        try:
            with Image.open(path) as image:
                return np.asarray(image)
        except OSError as error:
            raise ValueError(f"{path} cannot be read as a picture ({error})") from error

    return load


def marked(read: Callable[[], bytes], source: Load, name: str) -> Load:
    """bool (H, W): what MagicBrush's mask marks for editing: where a copy of the source is transparent, or if it is so
    nowhere, where it is white and the source is not. read: the mask's file."""

    def load() -> np.ndarray:
        try:
            with Image.open(io.BytesIO(read())) as image:
                pixels = np.asarray(image.convert("RGBA"))
        except OSError as error:
            raise ValueError(f"{name} cannot be read as a mask ({error})") from error
        clear = pixels[..., 3] < 128
        return clear if clear.any() else _white(pixels[..., :3]) & ~_white(source())

    return load


def _white(pixels: np.ndarray) -> np.ndarray:
    return np.asarray((pixels >= 250).all(axis=2))


def find_picture(stem: Path) -> Path | None:
    """The picture of that path without suffix, if there is one; suffixes may be in capitals."""
    suffixes = (*SUFFIXES, *map(str.upper, SUFFIXES))
    return next((path for s in suffixes if (path := stem.with_name(stem.name + s)).is_file()), None)


def read_json(path: Path, encoding: str = "utf-8") -> Any:
    """Raises ValueError for a missing or broken file."""
    try:
        return json.loads(path.read_text(encoding=encoding))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error})") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Where it stands and what it holds, of every line that is not empty. Raises ValueError for another file."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield f"{path}, line {number},", json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}, is not JSON ({error.msg}); give one object a line") from error


def read_objects(path: Path, of: type = dict) -> dict[str, Any]:
    """A JSON object of objects, or of lists. Raises ValueError for any other file."""
    entries = read_json(path)
    if not isinstance(entries, dict) or not all(isinstance(entry, of) for entry in entries.values()):
        kind = "lists" if of is list else "objects"
        raise ValueError(f"{path} is not a JSON object of {kind} by their keys; give the file as it is distributed")
    return entries


def read_entries(path: Path, texts: Sequence[str], columns: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """A JSON object of objects that all have the texts and other columns. Raises ValueError for any other file."""
    entries = read_objects(path)
    for key, entry in entries.items():
        need(entry, texts, f"{path}, entry {key!r},", columns)
    return entries


def need(row: Any, texts: Sequence[str], where: object, columns: Sequence[str] = ()) -> None:
    """Raises ValueError for a row that lacks one of the texts or other columns, or has something else as a text."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is no object with {', '.join((*texts, *columns))}")
    missing = [name for name in (*texts, *columns) if name not in row]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; it has {', '.join(map(str, row)) or 'nothing'}")
    for name in texts:
        if not isinstance(row[name], str):
            raise ValueError(f"{where} has {name} {row[name]!r}; expected a text")


def sheet(path: Path) -> list[list[str]]:
    """The cells of an Excel file's first sheet, row by row. Raises ValueError for a file that is none, or without
    openpyxl."""
    try:
        import openpyxl

        rows = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0].iter_rows(values_only=True)
        return [["" if value is None else str(value).strip() for value in row] for row in rows]
    except ImportError as error:
        raise ValueError(f"{path} needs openpyxl: pip install 'unireal[eval]'") from error
    except (OSError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an Excel sheet ({error})") from error


def found(root: Path, names: Sequence[str], what: str) -> Path:
    """The first of the names that exists in the folder. Raises ValueError if none does."""
    for name in names:
        if (root / name).exists():
            return root / name
    raise ValueError(f"{root} holds no {' or '.join(names)}; give the folder of {what} as it is distributed")


def safe_id(*parts: object) -> str:
    """The parts as an item's id: whatever a file name cannot have becomes "-"."""
    return "_".join(re.sub(r"[^\w.-]+", "-", str(part)) for part in parts)


def run_lengths(pairs: Sequence[int], size: tuple[int, int], first: int = 0) -> np.ndarray:
    """bool (H, W) of start, length, start, length ... in row order; `first` is the number of the first pixel.

    Runs that go past the end are cut off, as PIE-Bench's script does.
    """
    if len(pairs) % 2:
        raise ValueError(f"run lengths come in pairs, got {len(pairs)} numbers")
    mask = np.zeros(size[0] * size[1], bool)
    for start, length in zip(pairs[::2], pairs[1::2], strict=True):
        mask[max(start - first, 0) : max(start - first + length, 0)] = True
    return mask.reshape(size)


def pairs_of(stored: Any, where: str) -> list[int]:
    """Run lengths as numbers or as a text of them. Raises ValueError for anything else."""
    try:
        pairs = [int(number) for number in (stored.split() if isinstance(stored, str) else stored)]
    except (TypeError, ValueError):
        raise ValueError(f"{where} has a mask that is no list of whole numbers: {str(stored)[:40]!r}") from None
    if len(pairs) % 2:
        raise ValueError(f"{where} has a mask of {len(pairs)} numbers; starts and lengths come in pairs")
    return pairs


def polygon_mask(polygons: Iterable[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) inside polygons, each x, y, x, y, ... in pixels, their outline included, as LISA's OpenCV does."""
    canvas = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        if len(polygon) % 2:
            raise ValueError(f"an outline has {len(polygon)} numbers; x and y come in pairs")
        points = [(float(x), float(y)) for x, y in zip(polygon[::2], polygon[1::2], strict=True)]
        if len(points) > 1:
            draw.polygon(points, fill=1, outline=1)
    return np.asarray(canvas)


@dataclass(eq=False)
class Table:
    """Parquet files as one table, in the order of their names. Pictures stay on disk until they are asked for."""

    paths: tuple[Path, ...]
    _lock: Lock = field(default_factory=Lock)

    @property
    def columns(self) -> tuple[str, ...]:
        """Raises ValueError if the first file cannot be read."""
        return tuple(_parquet(self.paths[0]).schema_arrow.names)

    def rows(
        self, pictures: Sequence[str], texts: Sequence[str], columns: Sequence[str] = (), further: Sequence[str] = ()
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and columns of every row, but no pictures. further: columns of pictures that may be missing.

        Raises ValueError if a file cannot be read, lacks one of the pictures or columns, or has a row without a text.
        """
        number = 0
        for path in self.paths:
            file = _parquet(path)
            known = dict.fromkeys(file.schema_arrow.names)
            need(known, (), path, (*pictures, *texts, *columns))
            read = [name for name in known if name not in (*pictures, *further)]
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group, columns=read).to_pylist():
                    need(row, texts, f"{path}, row {number},")
                    yield number, row
                    number += 1

    def picture(self, number: int, column: str, upright: bool = True) -> Load:
        """uint8 (H, W, 3) of a row's picture; upright as in decode."""
        return lambda: decode(self._stored(number, column), f"{column} of row {number}", upright)

    def file(self, number: int, column: str) -> Callable[[], bytes]:
        """The bytes of a row's picture, as it was encoded."""
        return lambda: _content(self._stored(number, column), f"{column} of row {number}")

    def _stored(self, number: int, column: str) -> Any:
        left = number
        for path in self.paths:
            file = _parquet(path)
            if left >= file.metadata.num_rows:
                left -= file.metadata.num_rows
                continue
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if left < rows:
                    with self._lock:  # pictures are asked for in order: one group serves many of them
                        return _group(path, group, column)[left].as_py()
                left -= rows
        raise ValueError(f"row {number} is not in {self.paths}")


@lru_cache(maxsize=64)
def _parquet(path: Path) -> Any:
    from pyarrow import ArrowInvalid, parquet

    try:
        return parquet.ParquetFile(path)
    except (OSError, ArrowInvalid) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({one_line(error)})") from error


@lru_cache(maxsize=4)
def _group(path: Path, group: int, column: str) -> Any:
    return _parquet(path).read_row_group(group, columns=[column]).column(column)


def decode(stored: Any, name: str, upright: bool = True) -> np.ndarray:
    """uint8 (H, W, 3) of {"bytes": ..., "path": ...} or of bytes; upright: turned as its EXIF data say."""
    try:
        with Image.open(io.BytesIO(_content(stored, name))) as image:
            image.load()
            if not upright:
                image.getexif()[ExifTags.Base.Orientation] = 1
            return load_image(image, name)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as a picture ({error})") from error


def _content(stored: Any, name: str) -> bytes:
    content = stored.get("bytes") if isinstance(stored, dict) else stored
    if not content:
        raise ValueError(f"{name} holds no picture")
    return content


def table(root: Path, split: str) -> Table:
    """The Parquet files of a split, as the hub names them: data/test-00000-of-00002.parquet, test/0000.parquet, ...

    Raises ValueError if there are none.
    """
    paths = sorted(root.rglob("*.parquet"))
    chosen = [p for p in paths if re.match(rf"{re.escape(split)}(-|\.|$)", p.name) or p.parent.name == split]
    if not chosen:
        seen = sorted({re.split(r"-\d", p.name)[0].removesuffix(".parquet") for p in paths})
        known = f"it has {', '.join(seen)}" if seen else "it has no Parquet files"
        raise ValueError(f"{root} holds no Parquet files of split {split!r} ({known})")
    return Table(tuple(chosen))
