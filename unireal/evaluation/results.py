"""What a benchmark asks, what came out, and how it lies on disk: the contract between readers, scoring and reports.

A run folder holds

    inputs/<item id>_<k>.png    the inputs, truth and mask, copied so that the folder can be looked at anywhere
    images/<item id>_<k>.png    what the model made: k = 0 for a picture, 0, 1, 2 ... for the frames of a video
    items.jsonl                 one `ItemResult` per line, in the benchmark's order
    summary.json                a list of `SummaryRow`
    settings.json               what was run: benchmark, model, seed, steps, ...

Numbers that are undefined or could not be had are null; a null never counts as a score.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireal.files import replacing

MODEL, COPY = "model", "copy"  # systems of a summary row
UNFILTERED = "none"

Load = Callable[[], np.ndarray]  # a picture or array when it is needed


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    id:          unique in the benchmark, of letters, digits, ".", "_" and "-": the stem of its files.
    task:        a name in unireal.tasks.TASKS.
    instruction: what to do, as the data set words it.
    category:    the data set's own word for the kind of edit ("subject-add", "1_change_object_80", ...) or "".
    edit_type:   one of the 12 of unireal.taxonomy, None where none fits.
    controls:    what the inputs that are control frames show, in their order, for tasks that take several kinds.
    inputs:      pictures uint8 (H, W, 3) that go into the model, canvases first. truth: what should come out, if known.
    video:       frames of the source video, of which each is to be edited; then `inputs` is empty.
    references:  pictures to compare with that the model does not see (DreamBench's other views of a subject).
    arrays:      what else scoring needs, by name: "mask" bool (H, W) of the edit, "depth" float (H, W), "valid", ...
    texts:       captions by name: "source", "target", ...
    faults:      known faults of this item, by which filtered rows leave it out: "equal captions", ...
    after:       id of the item whose output is this one's first input (edits in several turns).
    scored:      False for an item that is only generated because another comes after it.
    aliases:     names, without suffix, that its output has in a folder of the data set's own evaluation script.
    """

    id: str
    task: str
    instruction: str
    category: str = ""
    edit_type: str | None = None
    inputs: tuple[Load, ...] = ()
    truth: Load | None = None
    video: tuple[Load, ...] = ()
    references: tuple[Load, ...] = ()
    arrays: Mapping[str, Load] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    after: str | None = None
    scored: bool = True
    aliases: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.id):
            raise ValueError(f"item id {self.id!r} cannot be a file name; use letters, digits, '.', '_' and '-'")

    @property
    def frames(self) -> int:
        """How many pictures are to come out."""
        return max(1, len(self.video))

    @property
    def sources(self) -> tuple[Load, ...]:
        """What a model that does nothing would return: the frames of the video, else the first input."""
        return self.video or self.inputs[:1]


@dataclass
class ItemResult:
    """One line of items.jsonl. Paths are relative to the run folder, with "/".

    output:    the picture that came out, the first frame of a video; None if none did. frames: how many there are.
    conditions: what the input is for the survey (unireal.taxonomy.INPUT_CONDITIONS).
    controls:  what its control frames show (unireal.tasks.CONTROL_KINDS).
    scores:    metric -> number, None where it is undefined or failed.
    baselines: the same for baselines: {"copy": {metric: number}}.
    failure:   why there is no output or no score (one line), else None.
    further:   more pictures to look at, by what they show: frames of the "truth" after the first, outputs of baselines.
    before:    the picture that was edited, if that is what came out of an earlier turn; None if it is the first input.
    """

    id: str
    task: str
    instruction: str
    category: str = ""
    edit_type: str | None = None
    inputs: list[str] = field(default_factory=list)
    truth: str | None = None
    output: str | None = None
    frames: int = 1
    conditions: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    scores: dict[str, float | None] = field(default_factory=dict)
    baselines: dict[str, dict[str, float | None]] = field(default_factory=dict)
    failure: str | None = None
    controls: list[str] = field(default_factory=list)
    further: dict[str, list[str]] = field(default_factory=dict)
    before: str | None = None


@dataclass
class SummaryRow:
    """One number, with everything that it depends on.

    benchmark, metric, unit; better: "higher" or "lower".
    value:      None if nothing could be scored, or infinite, which is null in JSON too.
    n: items in the value; failures: items that should have been in it but have no score.
    system:     "model", or the baseline that the number belongs to: "copy".
    group:      "all", or the data set's own category that the value is restricted to; "macro" for a mean of groups.
    backbone:   the network behind the metric, hub id or folder; "none" for arithmetic.
    reference:  what the output is compared with: "source", "truth" or "none".
    resolution: at which the metric saw the pictures: "512x512", "own".
    filter:     "none", or which items were left out: "without equal captions".
    """

    benchmark: str
    metric: str
    value: float | None
    n: int
    failures: int
    backbone: str = "none"
    reference: str = "none"
    resolution: str = "own"
    filter: str = UNFILTERED
    system: str = MODEL
    group: str = "all"
    unit: str = ""
    better: str = "higher"
    standard_error: float | None = None


@dataclass(frozen=True)
class RunFolder:
    """The files of one run. Every file is written under a temporary name first, then renamed."""

    path: Path

    def image(self, item_id: str, k: int = 0) -> Path:
        return self.path / "images" / f"{item_id}_{k}.png"

    def input(self, item_id: str, k: int | str = 0) -> Path:
        return self.path / "inputs" / f"{item_id}_{k}.png"

    def items(self) -> list[ItemResult]:
        """Raises ValueError if there are none or a line is not one of them."""
        return [_record(ItemResult, line, where) for line, where in self._lines()]

    def summary(self) -> list[SummaryRow]:
        """Raises ValueError if the folder has none."""
        path = self.path / "summary.json"
        if not path.exists():
            raise ValueError(f"{self.path} holds no summary.json; score it first")
        return [_record(SummaryRow, row, str(path)) for row in _parsed(path.read_text(encoding="utf-8"), str(path))]

    def settings(self) -> dict[str, Any]:
        """What was run; empty if it is not known."""
        path = self.path / "settings.json"
        return _parsed(path.read_text(encoding="utf-8"), str(path)) if path.exists() else {}

    def write_items(self, items: Iterable[ItemResult]) -> Path:
        lines = [json.dumps(_plain(asdict(item)), ensure_ascii=False, allow_nan=False) for item in items]
        return write_text(self.path / "items.jsonl", "".join(f"{line}\n" for line in lines))

    def write_summary(self, rows: Iterable[SummaryRow]) -> Path:
        return write_json(self.path / "summary.json", [asdict(row) for row in rows])

    def write_settings(self, settings: Mapping[str, Any]) -> Path:
        return write_json(self.path / "settings.json", dict(settings))

    def _lines(self) -> list[tuple[Any, str]]:
        path = self.path / "items.jsonl"
        if not path.exists():
            raise ValueError(f"{self.path} holds no items.jsonl; score it first")
        # not splitlines: instructions may hold other characters that it takes for the end of a line
        numbered = enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        return [(_parsed(line, f"{path}:{n}"), f"{path}:{n}") for n, line in numbered if line.strip()]


def check_texts(*texts: str) -> None:
    """Raises ValueError for half a character (a lone surrogate), which no model, network or judge can be given."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{text!r} has half a character, of which the other half is missing") from error


def write_text(path: Path, text: str) -> Path:
    """Whole or not at all; makes the folder. Returns the path. Halves of characters are escaped, as JSON does."""
    return write_file(path, lambda temporary: temporary.write_text(text, "utf-8", errors="backslashreplace"))


def write_json(path: Path, value: Any) -> Path:
    """Infinite and undefined numbers become null."""
    return write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_file(path: Path, save: Callable[[Path], Any]) -> Path:
    """save(temporary path), then renamed to `path`; makes the folder. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save(temporary)
    return path


def save_picture(path: Path, pixels: np.ndarray) -> Path:
    """uint8 (H, W, 3) as a PNG."""
    return write_file(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error.msg}); score the run again") from error


def _record(kind: type[Any], values: Any, where: str) -> Any:
    known = {f.name for f in fields(kind)}
    try:
        return kind(**{key: value for key, value in values.items() if key in known})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{where} is no {kind.__name__} ({error}); score the run again") from error
