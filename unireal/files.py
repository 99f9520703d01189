"""Files that appear under their names when they are complete, and not before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, ending: str | None = None) -> Iterator[Path]:
    """A temporary name beside `path` to write a file to: renamed to `path` at the end, removed after an error.

    ending: what the temporary name has after ".NAME". By default it holds the number of the process, so that two
    processes do not write into one file. A fixed one lets the next attempt write over what a killed one has left; one
    with the file's suffix is for writers that go by it.
    """
    ending = f".{os.getpid()}.unfinished" if ending is None else ending
    unfinished = path.with_name(f".{path.name}{ending}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def numbered(path: Path, count: int) -> list[Path]:
    """Names of so many files: `path` for one alone, else with _1, _2, ... before its suffix."""
    return [path.with_name(f"{path.stem}_{i + 1}{path.suffix}") for i in range(count)] if count > 1 else [path]


def check_writable(path: Path) -> None:
    """Before the work that ends in this file. Raises ValueError for a folder, or if it could not be written."""
    if path.is_dir():
        raise ValueError(f"output {str(path)!r} is a folder; give the path of a file")
    existing = next(folder for folder in path.absolute().parents if folder.exists())  # the rest is made when saving
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"output folder {str(path.parent)!r} is not writable; give another --output")
