"""python -m data_builders import: public sets into records."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from data_builders.files import add_shards_folder, claimed, write_text
from data_builders.names import look_up
from data_builders.public_sets.items import Reader
from data_builders.public_sets.registry import READERS
from unireal.data.records import write_shards
from unireal.sample import Sample

_LISTED = 5  # bad items that are printed; failures.jsonl has all
FAILURES = "failures.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    formats = ", ".join(READERS)
    parser.add_argument("--format", metavar="NAME", required=True, help=f"which set: {formats}")
    parser.add_argument("--source", metavar="DIR", type=Path, required=True, help="folder of the set as downloaded")
    add_shards_folder(parser)
    parser.add_argument("--limit", metavar="N", type=int, help="at most N records")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad item instead of leaving it out")
    parser.add_argument("--overwrite", action="store_true", help="replace the data in the output folder")


def run(options: argparse.Namespace) -> None:
    """Writes the records, and failures.jsonl, which says what was left out and why.

    Raises ValueError for an unknown format, a source that is not of it, and if no record comes of it.
    """
    from tqdm import tqdm

    reader = get_reader(options.format)
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit is at least 1, got {options.limit}; leave it out for all")
    if options.source.resolve() in (options.output.resolve(), *options.output.resolve().parents):
        raise ValueError("--output lies within --source; give a folder outside of it")
    bad: list[tuple[str, str]] = []
    found = reader.samples(options.source, None if options.strict else lambda *failure: bad.append(failure))
    first = next(found, None)
    if first is None:
        reason = f"; the first of {len(bad)} bad items: {': '.join(bad[0])}" if bad else ""
        raise ValueError(f"{str(options.source)!r} gives no record in the format {reader.name}{reason}")
    written = 0

    def counted() -> Iterator[Sample]:
        nonlocal written
        for sample in tqdm(islice(chain([first], found), options.limit), unit="record", disable=None):
            yield sample
            written += 1

    with claimed(options.output, options.overwrite, "part-*.parquet", FAILURES):
        shards = write_shards(counted(), options.output)
        lines = (json.dumps({"item": item, "reason": reason}) + "\n" for item, reason in bad)
        write_text(options.output / FAILURES, "".join(lines))
    print(f"{options.output}: {written} records of {reader.name} in {len(shards)} shards, {len(bad)} items left out")
    for item, reason in bad[:_LISTED]:
        print(f"  failed  {item}: {reason}")
    if len(bad) > _LISTED:
        print(f"  and {len(bad) - _LISTED} more failures, all in {options.output / FAILURES}")


def get_reader(name: str) -> Reader:
    """The reader of that name. Raises ValueError with the nearest name for an unknown one."""
    return look_up(READERS, name, "--format")
