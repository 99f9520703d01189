"""Looking things up by a name that a user gave."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def look_up(known: Mapping[str, T], name: str, what: str, *others: str) -> T:
    """known[name]. Raises ValueError with the nearest name for an unknown one.

    what: what the names are of, "builder"; others: names that are good in that place but are none of `known`.
    """
    if name not in known:
        close = difflib.get_close_matches(name, (*known, *others), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose from: {', '.join(known)}"
        raise ValueError(f"unknown {what} {name!r}; {hint}")
    return known[name]
