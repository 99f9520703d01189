"""Input conditions of the survey (arXiv 2402.17525) that are neither text nor a picture: speech and a class become the
prompt, layout boxes and drag points become a control frame.

Frames are drawn as the training data's are, to the pixel (data_builders.world.controls).

Layout:  {"size": [W, H], "boxes": [{"box": [left, top, right, bottom], "color": "red"}, ...]}
Drag:    {"drags": [{"start": [x, y], "end": [x, y]}, ...]}

Coordinates are pixels, x to the right and y downwards; right and bottom are the first pixels outside the box. "size"
may be left out where there is a canvas, whose size it is then. A color is a name of PALETTE or "#rrggbb"; boxes without
one take the palette's in turn.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from unireal.names import lookup
from unireal.speech import MAX_SPEECH, SPEECH_MODEL, transcribe
from unireal.tasks import TASKS, get_task

MAX_MARKS = 64  # boxes or drags of one frame
MAX_LABEL = 100  # characters
# What the world's things are called and drawn in.
PALETTE = {
    "red": (222, 38, 38),
    "orange": (250, 138, 20),
    "yellow": (248, 226, 60),
    "green": (44, 168, 58),
    "cyan": (62, 212, 222),
    "blue": (42, 78, 226),
    "purple": (138, 54, 196),
    "pink": (248, 122, 184),
}

Point = tuple[float, float]  # x, y in pixels
Size = tuple[int, int]  # height, width in pixels
Source = str | Path | dict[str, Any]  # a JSON file, or what is in one


def add_condition_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("classes, speech, boxes and points").add_argument
    add("--class-label", metavar="NAME", help="class of the object, put into the prompt")
    add("--audio", metavar="PATH", help=f"spoken prompt, up to {MAX_SPEECH:.0f} s; what was heard is printed to stderr")
    add("--speech-model", metavar="M", default=SPEECH_MODEL,
        help="speech recognition: folder or hub id (default: %(default)s)")  # fmt: skip
    boxes = '{"size": [W, H], "boxes": [{"box": [L, T, R, B], "color": "red"}]}'
    points = '{"drags": [{"start": [X, Y], "end": [X, Y]}]}'
    add("--layout", metavar="FILE", help=f"JSON file of boxes in pixels: {boxes}")
    add("--drag", metavar="FILE", help=f"JSON file of points on --canvas, in pixels: {points}")


def with_conditions(options: argparse.Namespace, pictures: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The prompt, and the arguments of a Request with what --layout and --drag draw among the controls.

    options:  those of add_condition_options, prompt, task and size.
    pictures: arguments of unireal.request.Request; a task that takes no canvas takes the one that a drag is drawn on.

    Raises ValueError for files that cannot be read, marks outside the frame, and tasks that take no control frames.
    """
    from unireal.request import check_size

    pictures = dict(pictures)
    canvas, control = list(pictures["canvas"]), list(pictures["control"])
    spec = get_task(options.task)
    takers = [name for name, task in TASKS.items() if task.slot("control")]
    for option in ("layout", "drag"):
        if getattr(options, option) is not None and spec.name not in takers:
            raise ValueError(f"task {spec.name!r} takes no --{option}; tasks that do: {', '.join(takers)}")
    size = options.size and check_size(options.size)
    if options.layout is not None:
        around = canvas[0].shape[:2] if canvas else None
        control.append(("layout", Layout.read(options.layout, around).draw(size or around)))
    if options.drag is not None:
        if not canvas:
            raise ValueError("--drag points at things of a picture; give it as --canvas")
        control.append(("drag", Drags.read(options.drag, canvas[0].shape[:2]).draw(canvas[0], size)))
        if spec.slot("canvas") is None:
            del canvas[0]
    parts = [options.prompt.strip()]
    if options.audio is not None:
        parts.append(transcribe(options.audio, options.speech_model))
        print(f"heard: {parts[-1]}", file=sys.stderr)
    if options.class_label is not None:
        parts.append(spec.class_prompt.format(label=_label(options.class_label)))
    return "; ".join(part for part in parts if part), pictures | {"canvas": canvas, "control": control}


def _label(text: str) -> str:
    label = " ".join(text.split())
    if not label or len(label) > MAX_LABEL:
        raise ValueError(f"--class-label is a name of 1 to {MAX_LABEL} characters, got {len(label)}")
    return label


@dataclass(frozen=True)
class Layout:
    """size: of the frame that the boxes are in. boxes: (left, top, right, bottom) and color 0..255."""

    size: Size
    boxes: tuple[tuple[tuple[float, ...], tuple[int, ...]], ...]

    @classmethod
    def read(cls, source: Source, size: Size | None = None) -> Layout:
        """size: used where the source gives none. Raises ValueError for anything that is not a layout."""
        where = _named("layout", source)
        content = _read_json(source, where, {"boxes"}, {"size"})
        if "size" in content:
            width, height = _numbers(content["size"], 2, f"{where}: size")
            if not all(side == int(side) and 1 <= side <= 2048 for side in (width, height)):
                raise ValueError(f"{where}: size is [width, height] of 1 to 2048 whole pixels, got {content['size']}")
            size = int(height), int(width)
        if size is None:
            raise ValueError(f'{where} has no "size": [W, H] and there is no --canvas to take it from; add one')
        boxes, colors = [], cycle(PALETTE)
        for number, entry in enumerate(_marks(content["boxes"], f"{where}: boxes"), start=1):
            _check_keys(entry, {"box"}, {"color"}, f"{where}: box {number}")
            box = _numbers(entry["box"], 4, f"{where}: box {number}")
            left, top, right, bottom = box
            if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
                raise ValueError(
                    f"{where}: box {number} {entry['box']} is not [left, top, right, bottom] inside {size[1]}x{size[0]}"
                )
            boxes.append((box, _color(entry.get("color", next(colors)), f"{where}: color of box {number}")))
        return cls(size, tuple(boxes))

    def draw(self, size: Size | None = None) -> np.ndarray:
        """uint8 (H, W, 3) at `size` (None: the layout's own): the frame of each box, a pixel wide, on black."""
        height, width = size or self.size
        image = np.zeros((height, width, 3), np.uint8)
        for (left, top, right, bottom), color in self.boxes:
            x0, x1 = _span(left, right, width, width / self.size[1])
            y0, y1 = _span(top, bottom, height, height / self.size[0])
            image[y0 : y1 + 1, [x0, x1]] = color
            image[[y0, y1], x0 : x1 + 1] = color
        return image


def _span(low: float, high: float, length: int, scale: float) -> tuple[int, int]:
    """First and last pixel, of `length` ones, that [low, high) covers once it is scaled; at least one pixel."""
    first = min(int(low * scale + 0.5), length - 1)
    return first, max(first, int(high * scale + 0.5) - 1)


@dataclass(frozen=True)
class Drags:
    """From where to where, in pixels of a picture of this size."""

    size: Size
    points: tuple[tuple[Point, Point], ...]

    @classmethod
    def read(cls, source: Source, size: Size) -> Drags:
        """Raises ValueError for anything that is not a drag inside a picture of this size."""
        where = _named("drag", source)
        points = []
        entries = _marks(_read_json(source, where, {"drags"}, set())["drags"], f"{where}: drags")
        for number, entry in enumerate(entries, start=1):
            _check_keys(entry, {"start", "end"}, set(), f"{where}: drag {number}")
            start, end = (_numbers(entry[key], 2, f"{where}: {key} of drag {number}") for key in ("start", "end"))
            for x, y in (start, end):
                if not (0 <= x <= size[1] and 0 <= y <= size[0]):
                    raise ValueError(f"{where}: drag {number} leaves the {size[1]}x{size[0]} canvas at [{x:g}, {y:g}]")
            points.append(((start[0], start[1]), (end[0], end[1])))
        return cls(size, tuple(points))

    def draw(self, image: np.ndarray, size: Size | None = None) -> np.ndarray:
        """The picture uint8 (H, W, 3) at `size` (None: its own) and half its brightness, under a white dot at each
        start and a grey one at each end, joined."""
        from unireal.transforms import resize

        dimmed = resize(image, size or self.size) // 2
        scale = dimmed.shape[1] / self.size[1], dimmed.shape[0] / self.size[0]
        dot = max(1.5, min(dimmed.shape[:2]) / 26)
        for pair in self.points:
            start, end = ((x * scale[0], y * scale[1]) for x, y in pair)
            _line(dimmed, start, end, 170, max(0.7, dot / 3))
            _line(dimmed, end, end, 170, dot)
            _line(dimmed, start, start, 255, dot)
        return dimmed


def _line(image: np.ndarray, start: Point, end: Point, grey: int, half_width: float) -> None:
    """Draws a line with round ends into uint8 (H, W, 3), without blending."""
    y = np.arange(image.shape[0], dtype=np.float32)[:, None] + 0.5
    x = np.arange(image.shape[1], dtype=np.float32)[None] + 0.5
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-6), 0.0, 1.0)
    near = (x - start[0] - along * dx) ** 2 + (y - start[1] - along * dy) ** 2 <= half_width**2
    image[near] = grey


def _named(what: str, source: Source) -> str:
    return f"the {what}" if isinstance(source, dict) else f"{what} {str(source)!r}"


def _read_json(source: Source, where: str, required: set[str], optional: set[str]) -> dict[str, Any]:
    """The JSON object in a file, or the object itself. Raises ValueError if it is not one with these keys."""
    content: Any = source
    if not isinstance(source, dict):
        if not Path(source).is_file():
            raise ValueError(f"{where} is not a file; give a JSON file with {', '.join(sorted(required))}")
        try:
            content = json.loads(Path(source).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON ({str(error).splitlines()[0]}); correct it") from error
    _check_keys(content, required, optional, where)
    return content


def _check_keys(entry: Any, required: set[str], optional: set[str], where: str) -> None:
    if not isinstance(entry, dict) or required - entry.keys() or entry.keys() - required - optional:
        keys = ", ".join(sorted(required)) + (f" (and {', '.join(sorted(optional))})" if optional else "")
        got = ", ".join(map(str, entry)) or "none" if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"{where} is an object with {keys}, got {got}")


def _marks(entries: Any, where: str) -> list[Any]:
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_MARKS:
        got = f"{len(entries)}" if isinstance(entries, list) else type(entries).__name__
        raise ValueError(f"{where} is a list of 1 to {MAX_MARKS}, got {got}")
    return entries


def _numbers(values: Any, count: int, where: str) -> tuple[float, ...]:
    good = isinstance(values, list) and len(values) == count
    if not good or not all(type(v) in (int, float) and abs(v) < 1e6 for v in values):
        raise ValueError(f"{where} is a list of {count} numbers, got {json.dumps(values)[:60]}")
    return tuple(values)


def _color(value: Any, where: str) -> tuple[int, ...]:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return tuple(bytes.fromhex(value[1:]))
    return lookup(PALETTE, str(value), f"{where}: #rrggbb or color")
