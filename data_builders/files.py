"""Files that appear under their names when they are complete, and not before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".*.unfinished"  # the temporary names, as a pattern within a folder


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
