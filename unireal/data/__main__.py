"""Looks after training data: python -m unireal.data validate DIR; python -m unireal.data precompute SOURCE ..."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

from unireal.arguments import Parser, failed
from unireal.plugins import add_plugin_argument

try:
    from unireal.data.precompute import add_arguments, precompute
    from unireal.data.records import ParquetSamples, check_sample
except ImportError as error:  # a package of the extra data
    sys.exit(failed(error))

_SHOWN = 10  # bad records that are told one by one


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 all records are valid, 2 some are not or cannot be read."""
    parser = Parser(prog="python -m unireal.data", description="Looks after training data.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("validate", help="check every record of a folder of Parquet files")
    command.add_argument("folder", metavar="DIR", type=Path)
    command.set_defaults(run=lambda options: validate(options.folder))
    command = commands.add_parser("precompute", help="encode pictures and texts once, for training without encoders")
    add_arguments(command)
    command.set_defaults(run=precompute)
    for command in commands.choices.values():
        add_plugin_argument(command)
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, OSError) as error:
        return failed(error)


def validate(folder: Path) -> int:
    """Checks every record and prints a summary of the good ones by task, and file:row: reason of the first bad ones.

    A row counts from 0 in its file. Returns the exit status. Raises ValueError if the folder holds no readable records.
    """
    from tqdm import tqdm

    samples = ParquetSamples(folder)
    counts: Counter[str] = Counter()
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    bad = 0
    for number in tqdm(range(len(samples)), unit="record", disable=None):
        try:
            sample = samples[number]
            check_sample(sample)
        except ValueError as error:
            bad += 1
            if bad <= _SHOWN:
                location = samples.location(number)
                print(f"{location}: {str(error).removeprefix(f'{location}: ')}", file=sys.stderr)
            continue
        counts[sample.task] += 1
        sizes[sample.task]["x".join(map(str, reversed(sample.results[0].size)))] += 1
    for task, count in counts.most_common():
        listed = ", ".join(f"{size} ({number})" for size, number in sizes[task].most_common(5))
        more = "" if len(sizes[task]) <= 5 else f" and {len(sizes[task]) - 5} more sizes"
        print(f"{task:10} {count:8} records   results {listed}{more}")
    print(f"{len(samples) - bad} valid records in {len(samples.paths)} files")
    return failed(f"{bad} of {len(samples)} records are not valid; drop or rebuild them") if bad else 0


if __name__ == "__main__":
    sys.exit(main())
