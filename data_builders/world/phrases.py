"""Where the world's texts speak of one thing: its words, from its size to its place or motion."""

from __future__ import annotations

import re
from collections.abc import Iterable

from data_builders.world.scene import COLORS, PATTERNS, POSITIONS, SHAPES, SIZES

_EMPTY = frozenset(("a", "the", "at", "to", "from", "object"))  # words that say nothing about a thing


def _any(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(sorted(words, key=len, reverse=True))})"


_NAME, _PLACE = f"{_any(COLORS)} {_any(SHAPES)}", f"(?:at|to) the {_any(POSITIONS)}"
_PHRASE = re.compile(
    rf"(?:a|the) {_any(SIZES)} (?:{_any(PATTERNS)} )?{_NAME}(?: {_PLACE})?"
    rf"|the object from IMG\d+(?:, {_any(SIZES)},?)? {_PLACE}"
    rf"|the {_NAME} (?:moves|turns|grows|shrinks)[^.;]*",
    re.IGNORECASE,
)


def find_phrases(text: str) -> list[list[tuple[int, int, bool]]]:
    """The words of each phrase about one thing that is described or placed: their first character, the one behind
    their last, and whether they say something about it.

    Names alone ("the red circle") are not among them, since who reads them needs no order of words.
    """
    return [
        [
            (match.start() + word.start(), match.start() + word.end(), word[0].lower() not in _EMPTY)
            for word in re.finditer(r"\w+", match[0])
        ]
        for match in _PHRASE.finditer(text)
    ]
