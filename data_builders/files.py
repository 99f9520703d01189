"""Folders that one run writes to at a time, and files that appear under their names when they are complete."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

UNFINISHED = ".*.unfinished"  # the temporary names, as a pattern within a folder
_LOCK = ".lock"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, renamed to it at the end, or removed after an error."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """As UTF-8, whatever the locale. Raises OSError if the file cannot be written."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def add_shards_folder(parser: argparse.ArgumentParser) -> None:
    """Declares --output, a folder that gets Parquet files."""
    parser.add_argument(
        "--output", metavar="DIR", type=_shards_folder, required=True, help="folder of the Parquet shards"
    )


def _shards_folder(text: str) -> Path:
    """Raises argparse.ArgumentTypeError for a name that is no text."""
    if text.encode(errors="ignore").decode() != text:  # pyarrow takes no such names
        raise argparse.ArgumentTypeError(f"the name of the folder is no UTF-8: {text!r}; give another")
    return Path(text)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other runs from writing to it until the end, or until this process dies.

    Raises ValueError if it is a file, or another run is writing to it.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {str(folder)!r} is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"another run is writing to {str(folder)!r}; wait for its end, or give another --output"
        ) from None


def is_empty(folder: Path) -> bool:
    """Whether it holds nothing but what keeps other runs out."""
    return all(path.name == _LOCK for path in folder.iterdir())


@contextmanager
def claimed(folder: Path, overwrite: bool, *patterns: str) -> Iterator[None]:
    """An empty folder for this run alone; with `overwrite` files of these patterns, of an earlier run, are removed.

    Raises ValueError if it is not empty without `overwrite`, and as `only_run` does.
    """
    with only_run(folder):
        if not overwrite and not is_empty(folder):
            raise ValueError(
                f"--output {str(folder)!r} is not empty; give another folder, or --overwrite to replace its data"
            )
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()
        yield
