"""Boxes of a layout and drags, put into a picture by pairs of clicks and kept as the JSON that infer.py reads."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from unireal.conditions import Drags, Layout, Point, Size

MAX_SIDE = 2048
BOARD = (512, 512)  # (H, W) of what is clicked on without a picture; a small picture is enlarged to about that


class Boxes:
    """A layout: needs no picture, but has the size of one that is given."""

    key, help = "boxes", "Click two opposite corners of each box."

    def start(self, picture: np.ndarray | None) -> dict[str, Any]:
        """What the JSON holds beside the marks."""
        height, width = BOARD if picture is None else picture.shape[:2]
        return {"size": [width, height]}

    def extent(self, content: dict[str, Any], picture: np.ndarray | None) -> Size:
        """(H, W) of the coordinates in the JSON."""
        size = content["size"]
        if len(size) != 2 or not all(type(side) is int and 1 <= side <= MAX_SIDE for side in size):
            raise ValueError(f"the size of a layout is [width, height] of 1 to {MAX_SIDE} pixels, got {size}")
        return size[1], size[0]

    def entry(self, first: Point, second: Point, color: str) -> dict[str, Any]:
        (left, right), (top, bottom) = (sorted(pair) for pair in zip(first, second, strict=True))
        return {"box": [left, top, right + 1, bottom + 1], "color": color}

    def frame(self, content: dict[str, Any], picture: np.ndarray | None, size: Size | None) -> np.ndarray:
        around = None if picture is None else picture.shape[:2]
        return Layout.read(content, around).draw(size or around)


class Points:
    """Drags on a picture."""

    key, help = "drags", "Click a point of the picture, then where it is to go."

    def start(self, picture: np.ndarray | None) -> dict[str, Any]:
        return {}

    def extent(self, content: dict[str, Any], picture: np.ndarray | None) -> Size:
        assert picture is not None  # it was clicked on
        return picture.shape[:2]

    def entry(self, first: Point, second: Point, color: str) -> dict[str, Any]:
        return {"start": list(first), "end": list(second)}

    def frame(self, content: dict[str, Any], picture: np.ndarray | None, size: Size | None) -> np.ndarray:
        if picture is None:
            raise ValueError("a drag points at things of a picture; give that as well")
        return Drags.read(content, picture.shape[:2]).draw(picture, size)


# Kind of a control frame -> how it is marked.
KINDS: dict[str, Boxes | Points] = {"layout": Boxes(), "drag": Points()}


def frame(kind: str, text: str, picture: np.ndarray | None, size: Size | None) -> np.ndarray | None:
    """The control frame uint8 (H, W, 3) that marks make, at this size or the picture's; without marks, the picture.

    Raises ValueError for marks that do not fit the picture.
    """
    content = _parse(text)
    return KINDS[kind].frame(content, picture, size) if kind in KINDS and content else picture


def board(kind: str, text: str, picture: np.ndarray | None, pending: Point | None = None) -> np.ndarray | None:
    """What is shown to click on, with the marks so far and the first point of the next one; None if there is nothing
    to click on. Raises ValueError for marks that do not fit the picture."""
    if kind not in KINDS or (picture is None and not KINDS[kind].start(None)):
        return None
    marks = KINDS[kind]
    content = marks.start(picture) | _parse(text)
    entries = [*content.get(marks.key, []), *([] if pending is None else [marks.entry(pending, pending, "pink")])]
    height, width = marks.extent(content, picture)
    size = height * _zoom((height, width)), width * _zoom((height, width))
    if entries:
        return marks.frame(content | {marks.key: entries}, picture, size)
    return np.zeros((*size, 3), np.uint8) if picture is None else _resized(picture, size)


def point(kind: str, text: str, picture: np.ndarray | None, place: list[float]) -> Point:
    """A place on the board, (x, y), in the coordinates of the JSON."""
    extent = KINDS[kind].extent(KINDS[kind].start(picture) | _parse(text), picture)
    x, y = (int(value) // _zoom(extent) for value in place)
    return min(max(x, 0), extent[1] - 1), min(max(y, 0), extent[0] - 1)


def added(kind: str, text: str, picture: np.ndarray | None, first: Point, second: Point, color: str) -> str:
    """The JSON with one mark more."""
    marks = KINDS[kind]
    content = marks.start(picture) | _parse(text)
    return json.dumps(content | {marks.key: [*content.get(marks.key, []), marks.entry(first, second, color)]})


def removed(kind: str, text: str) -> str:
    """The JSON without the last mark."""
    content = _parse(text)
    left = content.get(KINDS[kind].key, [])[:-1] if kind in KINDS else []
    return json.dumps(content | {KINDS[kind].key: left}) if left else ""


def _zoom(extent: Size) -> int:
    """Pixels of the board for one of the coordinates."""
    return max(1, max(BOARD) // max(extent))


def _parse(text: str) -> dict[str, Any]:
    """{} for an empty text. Raises ValueError for what is no JSON object."""
    try:
        content = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the marks are not JSON ({error}); clear them") from error
    if not isinstance(content, dict) or not all(isinstance(value, list) for value in content.values()):
        raise ValueError("the marks are not a JSON object of lists; clear them")
    return content


def _resized(picture: np.ndarray, size: Size) -> np.ndarray:
    from unireal.transforms import resize

    return resize(picture, size)
