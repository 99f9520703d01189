"""Docstrings for the API reference: lines such as "size: (H, W) of results" become list items.

The docstrings of this project tell about fields and arguments in lines of "name: text", "name, other: text" or
"(name): text", whose further lines are indented. As plain Markdown they would run into one paragraph.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

_NAME = r"[A-Za-z_][\w.]*(?:\([^)]*\))?"
_FIELD = re.compile(rf"({_NAME}(?:, {_NAME})*): +(\S.*)")


def as_list(text: str) -> str:
    """The docstring as Markdown. Lines inside ``` are left alone."""
    lines: list[str] = []
    in_list = in_code = False
    for line in inspect.cleandoc(text).splitlines():
        in_code ^= line.startswith("```")
        field = None if in_code else _FIELD.fullmatch(line)
        if field:
            lines += [""] * (not in_list) + [f"- `{field[1]}`: {field[2]}"]
        elif in_list and line.startswith(" "):
            lines.append(f"  {line.strip()}")
        else:
            lines += [""] * (in_list and bool(line)) + [line]
        in_list = bool(field) or (in_list and line.startswith(" "))
    return "\n".join(lines)


class Fields(griffe.Extension):
    """Applies as_list to every docstring of the package that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_list(obj.docstring.value)
