"""Samples as records of Parquet files that Hugging Face `datasets` reads as well, and what a valid record is.

A record is one row with the columns of `Sample`: task, instruction, context, inputs (list of {image, role, kind}),
results (list of {image, kind}), mask (an image, white where the result changes, or null) and source (a JSON object).
Images are PNG, 8 bits RGB or 16 bits grey, in the manner of `datasets.Image`: {bytes, path}.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unireal.data.png import decode_png, encode_png, first_line
from unireal.files import replacing
from unireal.prompts import check_referring, parse_context
from unireal.sample import Frame, Role, Sample
from unireal.tasks import CONTROL_KINDS, MASK, Slot, TaskSpec, get_task

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = ("image", *CONTROL_KINDS)
SHARD_NAME = "part-{:05d}.parquet"
COLUMNS = ("task", "instruction", "context", "inputs", "results", "mask", "source")
# Samples are read in random order, each with its whole row group, so groups are small.
_GROUP_ROWS, _GROUP_BYTES = 16, 4_000_000
_CACHED_GROUPS = 8


def write_shards(samples: Iterable[Sample], folder: str | Path, rows_per_shard: int = 1000) -> list[Path]:
    """Writes samples into part-00000.parquet, part-00001.parquet, ... of the folder and returns these paths.

    Shards that the folder holds already are kept, and the numbering goes on after them. A shard gets its name when it
    is complete, so that nobody reads half of one; if the samples raise, the complete shards stay.
    Raises ValueError for rows_per_shard below 1 or a source that is not JSON, OSError if the folder cannot be written.
    """
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}; the default is 1000")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    taken = (re.fullmatch(r"part-(\d+)", path.stem) for path in folder.glob("*.parquet"))
    number = 1 + max((int(match[1]) for match in taken if match), default=-1)
    samples = iter(samples)
    paths: list[Path] = []
    for first in samples:
        paths.append(folder / SHARD_NAME.format(number + len(paths)))
        write_shard(itertools.chain([first], itertools.islice(samples, rows_per_shard - 1)), paths[-1])
    return paths


def write_shard(samples: Iterable[Sample], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes samples, or none at all, into one Parquet file, which gets its name when it is complete.

    metadata: goes into the file's footer; it is read after the last sample is drawn.
    Raises ValueError for a source that is not JSON, OSError if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    # One name for all attempts: a worker that takes over from a killed one leaves nothing behind.
    with replacing(path, ".unfinished") as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        for group in _groups(to_row(sample) for sample in samples):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
        writer.add_key_value_metadata(metadata or {})


def shard_metadata(path: Path) -> dict[str, str]:
    """What `write_shard` put into the footer. Raises ValueError if the file cannot be read as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        told = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({first_line(error)}); write it anew") from error
    return {key.decode(): value.decode() for key, value in told.items() if key != b"ARROW:schema"}


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows of one row group each: few enough, and not too many bytes."""
    group, size = [], 0
    for row in rows:
        group.append(row)
        size += sum(len(f["image"]["bytes"]) for f in (*row["inputs"], *row["results"]))
        if len(group) == _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _schema() -> pa.Schema:
    """The columns, with the features of Hugging Face `datasets` in the metadata, so that it decodes the images."""
    import datasets

    text, image = datasets.Value("string"), datasets.Image()
    inputs = datasets.List({"image": image, "role": text, "kind": text})
    types = (text, text, text, inputs, datasets.List({"image": image, "kind": text}), image, text)
    return datasets.Features(dict(zip(COLUMNS, types, strict=True))).arrow_schema


class ParquetSamples(Sequence[Sample]):
    """The samples of a folder of Parquet files, in the order of file names, read when they are asked for.

    Raises ValueError if the folder does not exist, holds no Parquet file, or holds one that cannot be read.
    """

    def __init__(self, folder: str | Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"{str(folder)!r} is not a folder; give one that holds Parquet records")
        self.paths = sorted(self.folder.glob("*.parquet"))
        if not self.paths:
            raise ValueError(f"folder {str(folder)!r} holds no .parquet files; write some with python -m data_builders")
        self._metadata, counts, groups = [], [], []
        for file, path in enumerate(self.paths):
            try:
                metadata, names = pq.read_metadata(path), pq.read_schema(path).names
            except (OSError, pa.ArrowException) as error:
                raise ValueError(f"{path} cannot be read as Parquet ({first_line(error)}); write it anew") from error
            if missing := [name for name in COLUMNS if name not in names]:
                raise ValueError(f"{path} has no column {', '.join(missing)}; records have {', '.join(COLUMNS)}")
            self._metadata.append(metadata)
            counts += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            groups += [(file, group) for group in range(metadata.num_row_groups)]
        if not sum(counts):
            told = f"the .parquet files of {str(folder)!r} hold no records"
            raise ValueError(f"{told}; build them from other input (a builder's failures.jsonl tells why)")
        self._groups = groups  # (file, row group in it) of every row group
        self._ends = np.cumsum(counts, dtype=np.int64)  # records up to the end of every row group
        self._cache: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]  # no slices
        """Raises ValueError that names file:row for a record that is no sample, IndexError beyond the last one."""
        try:
            return from_row(self.row(number))
        except ValueError as error:
            raise ValueError(f"{self.location(number)}: {error}") from error

    def row(self, number: int) -> dict[str, Any]:
        """The record as it is stored, images as {bytes, path}. Raises ValueError if the file is damaged there."""
        group, within = self._find(number)
        if group not in self._cache:
            self._cache[group] = self._read(group)
            if len(self._cache) > _CACHED_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group].slice(within, 1).to_pylist()[0]

    def location(self, number: int) -> str:
        """file:row of a record, for messages; the first row of a file is 0."""
        group, within = self._find(number)
        file, in_file = self._groups[group]
        before = sum(self._metadata[file].row_group(g).num_rows for g in range(in_file))
        return f"{self.paths[file].name}:{before + within}"

    def _find(self, number: int) -> tuple[int, int]:
        """(row group, row in it) of a record."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"record {number} of {len(self)} in {self.folder}")
        number %= len(self)
        group = int(np.searchsorted(self._ends, number, side="right"))
        return group, number - (int(self._ends[group - 1]) if group else 0)

    def _read(self, group: int) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file, in_file = self._groups[group]
        path = self.paths[file]
        try:
            # Threads of a pool do not survive a fork, and data is read in forked processes.
            with pq.ParquetFile(path, metadata=self._metadata[file]) as opened:
                return opened.read_row_group(in_file, columns=list(COLUMNS), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"file {path.name} is damaged ({first_line(error)}); write it anew") from error


def to_row(sample: Sample) -> dict[str, Any]:
    """The record of a sample. Raises ValueError if its source cannot be written as JSON."""
    try:
        source = json.dumps(sample.source, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the source of a sample is plain JSON, got {sample.source!r} ({error})") from error
    inputs = [{"image": encode_png(f.image), "role": f.role.value, "kind": f.kind} for f in sample.inputs]
    results = [{"image": encode_png(f.image), "kind": f.kind} for f in sample.results]
    mask = None if sample.mask is None else encode_png(sample.mask.astype(np.uint8) * np.uint8(255))
    texts = {"task": sample.task, "instruction": sample.instruction, "context": sample.context}
    return {**texts, "inputs": inputs, "results": results, "mask": mask, "source": source}


def from_row(row: Mapping[str, Any]) -> Sample:
    """The sample of a record. Raises ValueError for missing columns, unknown roles and images that do not decode."""
    if missing := [name for name in COLUMNS if name not in row or (row[name] is None and name != "mask")]:
        raise ValueError(f"no {', '.join(missing)}; a record has {', '.join(COLUMNS)}, and only mask may be null")
    inputs = tuple(_frame(f, f"input {i}") for i, f in enumerate(row["inputs"], start=1))
    results = tuple(_frame({**f, "role": "result"}, f"result {i}") for i, f in enumerate(row["results"], start=1))
    mask = None if row["mask"] is None else decode_png(row["mask"], "the mask")
    if mask is not None and mask.ndim != 3:
        raise ValueError("the mask has 16 bits, but masks are black and white; store a picture with 8")
    try:
        source = json.loads(row["source"])
    except ValueError as error:
        raise ValueError(f"source is a JSON object, got {row['source'][:40]!r} ({error}); write it anew") from error
    changed = None if mask is None else mask[..., 0] > 127
    return Sample(row["task"], row["instruction"], row["context"], inputs, results, changed, source)


def _frame(stored: Mapping[str, Any], name: str) -> Frame:
    if missing := [field for field in ("image", "role", "kind") if field not in stored]:
        raise ValueError(f"{name} has no {', '.join(missing)}; a frame has image, role and kind")
    if stored["role"] not in list(Role):
        raise ValueError(f"{name} has role {stored['role']!r}; choose from: {', '.join(Role)}")
    return Frame(decode_png(stored["image"], name), Role(stored["role"]), stored["kind"])


def check_sample(sample: Sample) -> None:
    """Raises ValueError unless the sample is one to train on.

    Its task, roles, kinds and context keywords are known; inputs fit the task's slots and results their number; every
    IMGk and RESk of the instruction exists; results, mask and hole have the canvas's size where the task asks for it.
    """
    spec = get_task(sample.task)
    parse_context(sample.context)
    for frame in (*sample.inputs, *sample.results):
        if frame.kind not in KINDS:
            raise ValueError(f"unknown kind {frame.kind!r} of a {frame.role} frame; choose from: {', '.join(KINDS)}")
    _check_inputs(sample, spec)
    few, many = spec.num_results
    if not few <= len(sample.results) <= many:
        wanted = f"{few}" if few == many else f"{few}..{many}"
        raise ValueError(f"task {spec.name!r} has {wanted} results, got {len(sample.results)}; add or drop some")
    if spec.result_kind not in ("image", sample.results[0].kind):
        raise ValueError(f"the result of {spec.name!r} is a {spec.result_kind}, got kind {sample.results[0].kind!r}")
    check_referring(sample.instruction, len(sample.inputs), len(sample.results))
    if (found := type(sample.source).__name__) != "dict":
        raise ValueError(f"source is a JSON object, got {found}; put it into one")
    _check_sizes(sample, spec)


def _check_inputs(sample: Sample, spec: TaskSpec) -> None:
    """Every input belongs to one of the task's slots, and every slot has as many as it takes."""
    # Where the pipeline makes the hole itself, as it does around a canvas, a record holds it as a mask.
    slots = spec.slots + ((MASK,) if spec.prepare == "expand" else ())
    counts: dict[Slot, int] = dict.fromkeys(slots, 0)
    for number, frame in enumerate(sample.inputs, start=1):
        slot = next((s for s in slots if s.role == frame.role and frame.kind in s.kinds), None)
        if slot is None:
            takes = ", ".join(f"{s.role} ({', '.join(s.kinds)})" for s in slots) or "none"
            given = f"input {number} has role {frame.role} and kind {frame.kind!r}"
            raise ValueError(f"{given}, which task {spec.name!r} does not take; it takes: {takes}")
        counts[slot] += 1
    for slot, count in counts.items():
        if not slot.minimum <= count <= slot.maximum:
            wanted = f"{slot.minimum}" if slot.minimum == slot.maximum else f"{slot.minimum}..{slot.maximum}"
            raise ValueError(f"task {spec.name!r} takes {wanted} {slot.option} frames, got {count}; add or drop some")


def _check_sizes(sample: Sample, spec: TaskSpec) -> None:
    canvas = next((f for role in (Role.CANVAS, Role.CONTROL) for f in sample.inputs if f.role == role), None)
    if spec.size_rule == "canvas" and canvas is not None:
        fixed = [f for f in sample.inputs if f.kind == "mask" and f.role == Role.CONTROL] if spec.paste_back else []
        for frame in (*fixed, *sample.results):
            if frame.size != canvas.size:
                given = f"a {frame.kind} of {_size(frame.size)} pixels on a {canvas.role} of {_size(canvas.size)}"
                raise ValueError(f"task {spec.name!r} has results and holes of the {canvas.role}'s size, got {given}")
    first = sample.results[0].size
    if sample.mask is not None and sample.mask.shape != first:
        raise ValueError(
            f"the mask has the first result's size {_size(first)}, got {_size(sample.mask.shape)}; crop it"
        )


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
