"""Where a benchmark's pictures lie: files, Parquet tables as the hub stores them, masks as run lengths or polygons.

Loaders are lazy: what they read is decoded when it is needed. They raise ValueError for what cannot be read.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unireal.evaluation.results import Load
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


def transparency(path: Path) -> Load:
    """bool (H, W): where a picture is transparent, which is how MagicBrush marks what is edited."""

    def load() -> np.ndarray:
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGBA"))[..., 3] == 0
        except OSError as error:
            raise ValueError(f"{path} cannot be read as a mask ({error})") from error

    return load


def find_picture(stem: Path) -> Path | None:
    """The picture of that path without suffix, if there is one."""
    return next((path for s in SUFFIXES if (path := stem.with_name(stem.name + s)).is_file()), None)


def read_json(path: Path) -> Any:
    """Raises ValueError for a missing or broken file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error})") from error


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


def polygon_mask(polygons: Iterable[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) inside polygons, each x, y, x, y, ... in pixels, their outline included."""
    canvas = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
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

    def rows(self, pictures: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and columns of every row but the picture columns. Raises ValueError if a file cannot be read."""
        number = 0
        for path in self.paths:
            file = _parquet(path)
            columns = [name for name in file.schema_arrow.names if name not in pictures]
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group, columns=columns).to_pylist():
                    yield number, row
                    number += 1

    def picture(self, number: int, column: str) -> Load:
        """uint8 (H, W, 3) of a row's picture."""
        return lambda: decode(self._stored(number, column), f"{column} of row {number}")

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
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        return parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({' '.join(str(error).split())})") from error


@lru_cache(maxsize=4)
def _group(path: Path, group: int, column: str) -> Any:
    return _parquet(path).read_row_group(group, columns=[column]).column(column)


def decode(stored: Any, name: str) -> np.ndarray:
    """uint8 (H, W, 3) of {"bytes": ..., "path": ...} or of bytes."""
    content = stored.get("bytes") if isinstance(stored, dict) else stored
    if not content:
        raise ValueError(f"{name} holds no picture")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return load_image(image, name)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as a picture ({error})") from error


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
