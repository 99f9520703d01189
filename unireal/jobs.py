"""Many jobs with the model loaded once: `infer.py --jobs jobs.jsonl --model M`.

Every line of the file is a JSON object with the options of infer.py as keys, for example
{"task": "edit", "prompt": "Make the red circle green.", "canvas": "room.png", "output": "out/1.png"}; lists are several
values, "control" is an object {kind: path}. Options on the command line hold for all jobs that do not set them.

What is done is noted in jobs.jsonl.done, one line a job, so that the same command goes on after it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_FOR_ALL = ("jobs", "model", "lora", "device", "dtype", "json", "list_tasks", "metadata", "from_metadata")


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("many jobs").add_argument(
        "--jobs",
        metavar="FILE",
        help='run every line of a JSON lines file, such as {"task": "depth", "canvas": "a.png", "output": "b.png"}; '
        "the same command again does what is missing",
    )


def run_jobs(
    parser: argparse.ArgumentParser, arguments: list[str], run: Callable[[argparse.Namespace], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Runs the jobs that are not done yet; yields for each what `run` reports, or {"error": ...}, with its "line".

    Raises ValueError, before anything runs, for a file that cannot be read or a line that is no job.
    """
    from tqdm import tqdm

    path = Path(parser.parse_args(arguments).jobs)
    jobs = [(number, job, _options(parser, arguments, job, f"{path}:{number}")) for number, job in _lines(path)]
    note = path.with_name(f"{path.name}.done")
    done, skipped = _done(note), 0
    _end_last_line(note)
    decisive = [word for word in arguments if word != "--json"]  # that says how to report, not what to make
    for number, job, options in tqdm(jobs, unit="job", disable=None):  # None: only on a terminal
        key = hashlib.sha256(json.dumps([decisive, job], sort_keys=True).encode()).hexdigest()[:32]
        if key in done and all(Path(file).is_file() for file in done[key]):
            skipped += 1
            continue
        try:
            report = run(options)
        except (ValueError, OSError) as error:
            yield {"line": number, "error": " ".join(str(error).split())}
            continue
        with note.open("a") as file:
            file.write(json.dumps({"job": key, "files": report["files"]}) + "\n")
        yield {"line": number} | report
    if skipped:
        print(f"{skipped} of {len(jobs)} jobs were done before ({note})", file=sys.stderr)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--jobs {str(path)!r} cannot be read ({error}); give a file of JSON lines") from error
    for number, line in enumerate(text.split("\n"), start=1):  # other line breaks may be inside of JSON texts
        if not line.strip():
            continue
        try:
            job = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number} is not JSON ({error})") from error
        if not isinstance(job, dict):
            raise ValueError(f"{path}:{number} is not a JSON object of options, for example {{'task': 'edit', ...}}")
        yield number, job


def _options(
    parser: argparse.ArgumentParser, arguments: list[str], job: dict[str, Any], where: str
) -> argparse.Namespace:
    """The options of a job over those of the command line. Raises ValueError for what the parser refuses."""
    if common := [key for key in job if key.replace("-", "_") in _FOR_ALL]:
        raise ValueError(f"{where} sets {', '.join(common)}, which all jobs share; give it on the command line")
    words = [str(job["task"])] if "task" in job else []
    for key, value in job.items():
        if key != "task" and value is not None:  # null: as if it were not there
            words += _words(f"--{key.replace('_', '-')}", value)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, own = parser.parse_args([*arguments, *words]), parser.parse_args(words)
    except SystemExit as error:
        raise ValueError(f"{where}: {said.getvalue().strip().removeprefix('infer.py: ')}") from error
    for name, value in vars(own).items():
        if isinstance(value, list) and value:  # lists of the command line would be continued
            setattr(options, name, value)
    return options


def _words(option: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        value = [f"{kind}={path}" for kind, path in value.items()]
    return [f"{option}={item}" for item in (value if isinstance(value, list) else [value])]


def _end_last_line(note: Path) -> None:
    """A run that was stopped may have left half a line, which must not become part of the next one."""
    if note.is_file() and not note.read_text().endswith("\n"):
        with note.open("a") as file:
            file.write("\n")


def _done(note: Path) -> dict[str, list[str]]:
    """Files of every finished job by its key. The last line may be half written by a run that was stopped."""
    done = {}
    for line in note.read_text().splitlines() if note.is_file() else ():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            done[entry["job"]] = entry["files"]
    return done
