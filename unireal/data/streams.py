"""Data sets that are read one record after another through Hugging Face `datasets`: hub ids, WebDataset-style archives,
and Parquet files with columns of their own.

A record's fields are named by what they are:

    instruction, context, task            text; `task` and `context` may be options instead
    canvas, asset, control_depth, result  pictures; more of a kind are canvas_2, asset_2, result_2, result_mask_2, ...
    mask                                  the region that changes

In an archive these are the files KEY.canvas.png, KEY.result.jpg, KEY.json with the texts, or KEY.txt with the
instruction. Columns of other names are mapped by the option `columns`, as {"canvas": "source_image"}. Records with the
columns of unireal.data.records are taken as they are.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from unireal.data.png import first_line
from unireal.data.records import COLUMNS, KINDS, from_row
from unireal.sample import Frame, Role, Sample
from unireal.tasks import get_task
from unireal.transforms import as_frame, load_image, threshold

_TEXTS = ("task", "instruction", "context")
_PICTURE = re.compile(rf"({'|'.join(Role)})(?:_({'|'.join(KINDS)}))?(?:_(\d+))?")


class _NoRecordsError(ValueError):
    """There is nothing to go on with."""


class StreamedSamples:
    """The records of a `datasets.IterableDataset` by their place in it, counted on through pass after pass.

    Asking for an earlier place starts from the beginning, and one far ahead reads all before it.
    """

    sequential = True

    def __init__(self, dataset: Any, name: str, constants: Mapping[str, str], columns: Mapping[str, str]):
        self.dataset, self.name = dataset, name
        self.constants, self.columns = constants, columns
        self._start()

    def _start(self) -> None:
        self.place, self._rows = -1, self._passes()
        self._row: dict[str, Any] = {}  # at this place
        self._failure: Exception | None = None  # why there is none

    def _passes(self) -> Iterator[dict[str, Any]]:
        for turn in range(1 << 62):
            self.dataset.set_epoch(turn)
            empty = True
            for row in self.dataset:
                empty = False
                yield row
            if empty:
                raise _NoRecordsError(f"data set {self.name!r} has no records; check its path, split and tasks")

    def _step(self) -> None:
        """Goes to the next record. Where one cannot be read, its place stays empty and the data set begins anew."""
        self.place += 1
        self._row, self._failure = {}, None
        try:
            self._row = next(self._rows)
        except _NoRecordsError:
            raise
        except Exception as error:  # readers meet damaged files with errors of almost any type
            self._rows, self._failure = self._passes(), error

    def __getitem__(self, number: int) -> Sample:
        """Raises ValueError for a record that is no sample, or that cannot be read."""
        if number < self.place:
            self._start()
        while self.place < number:
            self._step()
        if self._failure is not None:
            reason = first_line(self._failure)
            raise ValueError(f"{self.location(number)} cannot be read ({reason}); fetch it again") from self._failure
        return read_sample(self._row, self.constants, self.columns)

    def location(self, number: int) -> str:
        """File and key of the record that was read last, or its place."""
        if number == self.place and "__url__" in self._row:
            return f"{Path(self._row['__url__'].split('::')[-1]).name}:{self._row['__key__']}"
        return f"{self.name}:{number}"


def open_stream(
    path: str,
    tasks: tuple[str, ...] = (),
    split: str = "train",
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    task: str | None = None,
    context: str | None = None,
    instruction: str | None = None,
    shuffle: int = 1000,
    seed: int = 0,
) -> StreamedSamples:
    """
    path:    a hub id, an archive, or a folder of archives or Parquet files.
    tasks:   only records of these; split, name: of a hub data set.
    columns: from our field names to the data set's; task, context, instruction: of all its records.
    shuffle: records of the buffer that the next one is drawn from; 0 keeps the order.

    Raises ValueError if it cannot be opened.
    """
    import datasets

    for mapped in columns or {}:
        _check_field(mapped)
    options: dict[str, Any] = {"path": path, "name": name}
    if archives := sorted(map(str, [Path(path)] if path.endswith(".tar") else Path(path).glob("*.tar"))):
        options = {"path": "webdataset", "data_files": {split: archives}}
    try:
        dataset = datasets.load_dataset(**options, split=split, streaming=True).decode(False)
    except Exception as error:  # of `datasets`, of the network and of file systems: almost any type
        raise ValueError(
            f"data set {path!r} is no folder of records here and cannot be opened from the hub ({first_line(error)})"
        ) from error
    if tasks:
        dataset = dataset.filter(lambda row: _task(row, task, (columns or {}).get("task", "task")) in tasks)
    if shuffle:
        dataset = dataset.shuffle(seed=seed, buffer_size=shuffle)
    given = {"task": task, "context": context, "instruction": instruction}
    return StreamedSamples(dataset, path, {k: v for k, v in given.items() if v is not None}, columns or {})


def _task(row: Mapping[str, Any], task: str | None, column: str) -> str | None:
    return task or row.get(column) or _texts(row.get("json")).get("task")


def _check_field(name: str) -> None:
    if name not in (*_TEXTS, "mask") and not _PICTURE.fullmatch(name):
        raise ValueError(
            f"columns names the field {name!r}; fields are {', '.join(_TEXTS)}, mask, and pictures such as canvas, "
            "asset_2, control_depth, result"
        )


def read_sample(row: Mapping[str, Any], constants: Mapping[str, str], columns: Mapping[str, str]) -> Sample:
    """The sample of a streamed record. Raises ValueError if it lacks a field or a picture does not decode."""
    if set(COLUMNS) <= row.keys() and not columns:
        return from_row(row)
    if missing := [theirs for theirs in columns.values() if theirs not in row]:
        raise ValueError(f"no column {', '.join(missing)}; the record has {', '.join(row)}")
    fields = {ours: row[theirs] for ours, theirs in columns.items()} or _named(row)
    fields |= constants
    if missing := [name for name in ("task", "instruction") if not isinstance(fields.get(name), str)]:
        raise ValueError(f"no {', '.join(missing)}; store it in the record, or give it as an option of the data set")
    spec = get_task(fields["task"])
    frames = []
    for name, stored in fields.items():
        if stored is not None and (match := _PICTURE.fullmatch(name)):
            role, kind, number = Role(match[1]), match[2], int(match[3] or 1)
            default = spec.result_kind if role is Role.RESULT and number == 1 else "image"
            frames.append((role.index, number, kind or "", _frame(stored, name, role, kind or default)))
    ordered = [frame for *_, frame in sorted(frames, key=lambda f: f[:3])]
    mask = None if fields.get("mask") is None else threshold(_picture(fields["mask"], "mask"))
    return Sample(
        fields["task"],
        fields["instruction"],
        spec.context if fields.get("context") is None else fields["context"],
        tuple(f for f in ordered if f.role is not Role.RESULT),
        tuple(f for f in ordered if f.role is Role.RESULT),
        mask,
    )


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an archive's record, whose names end in a suffix."""
    fields = {name.split(".")[0]: value for name, value in row.items() if not name.startswith("__")}
    if "txt" in fields:
        fields["instruction"] = fields.pop("txt")
    return fields | _texts(fields.pop("json", None))


def _texts(stored: Any) -> dict[str, str]:
    return json.loads(stored) if isinstance(stored, str | bytes) else dict(stored or {})


def _picture(stored: Any, name: str) -> Any:
    if not isinstance(stored, Mapping) or not (stored.get("bytes") or stored.get("path")):
        raise ValueError(f"{name} holds no picture")
    try:
        with Image.open(io.BytesIO(stored["bytes"]) if stored.get("bytes") else stored["path"]) as image:
            return load_image(image, name)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as a picture ({first_line(error)})") from error


def _frame(stored: Any, name: str, role: Role, kind: str) -> Frame:
    return as_frame(_picture(stored, name), role, kind)
