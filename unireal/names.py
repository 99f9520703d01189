"""How a name that a user typed is looked up."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """table[name]; raises ValueError with the nearest name for an unknown one."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from: {', '.join(table)}"
    raise ValueError(f"unknown {what} {name!r}; {hint}")
