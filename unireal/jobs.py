"""Many jobs with the model loaded once: `infer.py --jobs jobs.jsonl --model M`.

Every line of the file is a JSON object with the options of infer.py as keys, for example
{"task": "edit", "prompt": "Make the red circle green.", "canvas": "room.png", "output": "out/1.png"}; lists are several
values, "control" is an object {kind: path}. Options on the command line, and its task, hold for all jobs that do not
set them. Paths start from where the command runs, not from the file.

What is done is noted in jobs.jsonl.done, one line a job, so that the same command goes on after it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unireal.notices import one_line

# A file says what to make; with which model, and which code is run, the command line says.
_FOR_ALL = ("help", "jobs", "model", "lora", "plugin", "device", "dtype", "offload", "json", "list_tasks",
            "metadata", "from_metadata")  # fmt: skip


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("many jobs").add_argument(
        "--jobs",
        metavar="FILE",
        help='run every line of a JSON lines file, such as {"task": "depth", "canvas": "a.png", "output": "b.png"}; '
        "the same command again does what is missing",
    )


def run_jobs(
    parser: argparse.ArgumentParser,
    arguments: list[str],
    run: Callable[[argparse.Namespace], dict[str, Any]],
    written: Callable[[argparse.Namespace], list[str]],
) -> Iterator[dict[str, Any]]:
    """Runs the jobs that are not done yet; yields for each what `run` reports, or {"error": ...}, with its "line".
    written: names the files that a job makes.

    Raises ValueError, before anything runs, for a file that cannot be read, a line that is no job, jobs that write to
    one file, and a folder where it cannot be noted what is done.
    """
    from tqdm import tqdm

    shared = parser.parse_args(arguments)
    if shared.from_metadata is not None:
        raise ValueError("--jobs and --from-metadata both say what to make; give one of them")
    path = Path(shared.jobs)
    lines = list(_lines(path))
    if not lines:
        print(f"{path} holds no jobs", file=sys.stderr)
        return
    rest = arguments if shared.task is None else arguments[1:]  # the task stands first
    jobs = [(n, job, _options(parser, shared.task, rest, job, f"{path}:{n}")) for n, job in lines]
    _check_outputs(path, [(n, written(options)) for n, _, options in jobs])
    note = path.with_name(f"{path.name}.done")
    done, skipped = _done(_opened(note)), 0
    decisive = [word for word in arguments if word != "--json"]  # that says how to report, not what to make
    for number, job, options in tqdm(jobs, unit="job", disable=None):  # None: only on a terminal
        key = hashlib.sha256(json.dumps([decisive, job], sort_keys=True).encode()).hexdigest()[:32]
        if key in done and all(Path(file).is_file() for file in done[key]):
            skipped += 1
            continue
        try:
            report = run(options)
        except (ValueError, OSError) as error:
            yield {"line": number, "error": one_line(error)}
            continue
        with note.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"job": key, "files": report["files"]}) + "\n")
        yield {"line": number} | report
    if skipped:
        print(f"{skipped} of {len(jobs)} jobs were done before ({note})", file=sys.stderr)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise ValueError(f"--jobs {str(path)!r} is not a file; give one of JSON lines, what is done is noted beside it")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--jobs {str(path)!r} cannot be read ({error}); give a file of JSON lines") from error
    for number, line in enumerate(text.split("\n"), start=1):  # other line breaks may be inside of JSON texts
        if not line.strip():
            continue
        try:
            job = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{number} is not JSON ({error})") from error
        if not isinstance(job, dict):
            raise ValueError(f"{path}:{number} is not a JSON object of options, for example {{'task': 'edit', ...}}")
        yield number, {name: value for name, value in job.items() if value is not None}  # null: as if it were not there


def _options(
    parser: argparse.ArgumentParser,
    task: str | None,
    arguments: list[str],
    job: dict[str, Any],
    where: str,
) -> argparse.Namespace:
    """The options of a job over the task and the other arguments of the command line. Raises ValueError for what the
    parser refuses."""
    if common := [key for key in job if key.replace("-", "_") in _FOR_ALL]:
        raise ValueError(f"{where} sets {', '.join(common)}, which all jobs share; give it on the command line")
    words = [word for key, value in job.items() if key != "task" for word in _words(parser, key, value, where)]
    task = job.get("task", task)
    if not isinstance(task, str | None) or str(task).startswith("-"):
        raise ValueError(f"{where}: the task is a name such as 'edit', got {json.dumps(task)}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = parser.parse_args([*([] if task is None else [task]), *arguments, *words])
            own = parser.parse_args(words)
    except SystemExit as error:
        raise ValueError(f"{where}: {said.getvalue().strip().removeprefix('infer.py: ')}") from error
    for name, value in vars(own).items():
        if isinstance(value, list) and value:  # lists of the command line would be continued
            setattr(options, name, value)
    return options


def _words(parser: argparse.ArgumentParser, key: str, value: Any, where: str) -> list[str]:
    """An option of a job as on a command line."""
    option = f"--{key.replace('_', '-')}"
    action = parser._option_string_actions.get(option)
    if isinstance(value, dict):
        value = [f"{kind}={path}" for kind, path in value.items()]
    if not isinstance(value, list) or action is None:
        return [f"{option}={value}"]
    if isinstance(action, argparse._AppendAction):
        return [f"{option}={item}" for item in value]
    if "," not in str(action.metavar):
        raise ValueError(f"{where}: {key} is one value, got a list; write it as on the command line")
    return [f"{option}={','.join(map(str, value))}"]


def _check_outputs(path: Path, outputs: list[tuple[int, list[str]]]) -> None:
    """Raises ValueError for jobs that would write over what an earlier one has made."""
    lines: dict[str, int] = {}
    for number, names in outputs:
        for name in names:
            first = lines.setdefault(os.path.abspath(name), number)
            if first != number:
                raise ValueError(
                    f"{path}:{number} writes to {name!r}, as line {first} does; give each a name of its own"
                )


def _opened(note: Path) -> str:
    """What is noted so far. A run that was stopped may have left half a line, which is ended here so that it does not
    become part of the next one."""
    try:
        with note.open("a+", encoding="utf-8", errors="replace") as file:
            file.seek(0)
            text = file.read()
            if text and not text.endswith("\n"):
                file.write("\n")
    except OSError as error:
        told = f"what is done cannot be noted in {str(note)!r} ({error.strerror})"
        raise ValueError(f"{told}; put the file of jobs into a folder of your own") from error
    return text


def _done(text: str) -> dict[str, list[str]]:
    """Files of every finished job by its key, but those of jobs whose files a later job has written anew."""
    done: dict[str, list[str]] = {}
    writers: dict[str, str] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # half written by a run that was stopped
            entry = json.loads(line)
            writers |= dict.fromkeys(entry["files"], entry["job"])
            done[entry["job"]] = entry["files"]
    return {key: files for key, files in done.items() if all(writers[file] == key for file in files)}
