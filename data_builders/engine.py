"""Runs work on clips and videos with Daft: its own runner on this machine, or its Ray runner on a cluster.

A worker is a stateful UDF that holds what takes long to load, the annotators' models. It writes files and hands back a
few words, so nothing large travels. On a cluster, videos and output lie on a shared file system.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BEGUN = ".{}.begun"


@dataclass(frozen=True)
class Placing:
    """Where the work is done.

    workers: how many at a time, each with its own models; gpus: of each; ray_address: of a cluster, None for this
    machine. Raises ValueError for fewer than one worker or less than no GPU.
    """

    workers: int = 1
    gpus: float = 0.0
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 1 or self.gpus < 0:
            raise ValueError(f"--workers is at least 1 and --gpus at least 0, got {self.workers} and {self.gpus:g}")


class Worker:
    """Does one piece of work after another; a mark in `folder` tells on which one it died, if it does.

    What ends the whole run is handed over as {"error": reason}: runners wrap exceptions in different ways.
    """

    def __init__(self, load: Callable[[], Callable[[str], str]], folder: Path):
        self.folder, self.problem = folder, ""
        try:
            self.work = load()
        except ValueError as error:
            self.problem = str(error)

    def do(self, name: str, task: str) -> str:
        try:
            return _error(self.problem) if self.problem else self._marked(name, task)
        except OSError as error:
            return _error(f"cannot write to {str(self.folder)!r} ({error}); give another --output")

    def _marked(self, name: str, task: str) -> str:
        mark = self.folder / _BEGUN.format(name)
        mark.touch()
        try:
            return self.work(task)
        finally:
            mark.unlink(missing_ok=True)


def _error(reason: str) -> str:
    return json.dumps({"error": reason})


def spread(
    load: Callable[[], Callable[[str], str]], tasks: Mapping[str, str], folder: Path, placing: Placing
) -> Iterator[tuple[str, dict | None]]:
    """(name, what came of it) of each task, in any order; None where the worker's process died, twice.

    load: makes, in the process of a worker, what does a task and tells of it as a JSON object; both can be pickled.
    tasks: by names that are good for files; folder: where workers write.
    Raises ValueError if `load` does, or files cannot be written.
    """
    for mark in folder.glob(_BEGUN.format("*")):
        mark.unlink()
    waiting = dict(tasks)
    suspects: dict[str, str] = {}
    while waiting:
        try:
            for name, told in _execute(load, waiting, folder, placing):
                del waiting[name]
                yield name, _checked(told)
        except RuntimeError:  # of Daft, if a process is gone; the marks tell which tasks were under way
            begun = [name for name in waiting if (folder / _BEGUN.format(name)).exists()]
            if not begun:
                raise
            suspects |= {name: waiting.pop(name) for name in begun}
    alone = Placing(1, placing.gpus, placing.ray_address)
    for name, task in suspects.items():
        try:
            for _, told in _execute(load, {name: task}, folder, alone, own_process=True):
                yield name, _checked(told)
        except RuntimeError:
            (folder / _BEGUN.format(name)).unlink(missing_ok=True)
            yield name, None


def _checked(told: str) -> dict:
    answer = json.loads(told)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer


def _execute(
    load: Callable[[], Callable[[str], str]],
    tasks: Mapping[str, str],
    folder: Path,
    placing: Placing,
    own_process: bool = False,
) -> Iterator[tuple[str, str]]:
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")  # the callers' bars count clips and videos
    import daft

    _choose_runner(placing)
    # Workers in processes of their own do not wait for each other's Python. A single one here needs none, and Daft
    # begins one as soon as max_concurrency is set.
    apart = own_process or placing.workers > 1 or placing.gpus > 0 or placing.ray_address is not None
    options: dict[str, Any] = {"max_concurrency": placing.workers, "gpus": placing.gpus} if apart else {}
    worker = daft.cls(Worker, use_process=apart, **options)(load, folder)
    table = daft.from_pydict({"name": list(tasks), "task": list(tasks.values())})
    if placing.ray_address is not None:
        table = table.into_partitions(min(len(tasks), 4 * placing.workers))
    table = table.into_batches(1)
    table = table.select("name", worker.do(table["name"], table["task"]).alias("told"))
    for row in table.iter_rows(results_buffer_size=1):
        yield row["name"], row["told"]


def _choose_runner(placing: Placing) -> None:
    """Daft sets its runner once per process. Raises ValueError if an earlier run of this one has set another."""
    import daft

    wanted = "native" if placing.ray_address is None else "ray"
    try:
        if placing.ray_address is None:
            # A thread for each worker, even if there are fewer cores: workers may wait for GPUs.
            daft.set_runner_native(max(placing.workers, len(os.sched_getaffinity(0))))
        else:
            daft.set_runner_ray(placing.ray_address, noop_if_initialized=True)
    except daft.exceptions.DaftCoreException as error:
        if (found := daft.get_or_infer_runner_type()) != wanted:
            raise ValueError(f"this process runs Daft on {found} for good, not on {wanted}; start another") from error
