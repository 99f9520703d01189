"""Runs work on clips and videos with Daft: its own runner on this machine, or its Ray runner on a cluster.

A worker is a stateful UDF that holds what takes long to load, the annotators' models. It writes files and hands back a
few words, so nothing large travels. On a cluster, videos and output lie on a shared file system.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_builders.errors import one_line
from data_builders.workers import Died, Load, Worker, died_at, died_loading, forget

# Of Daft, here and on the cluster: no statistics of use, and no bars, since the callers' count clips and videos.
_QUIET = {"DAFT_ANALYTICS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}


@dataclass(frozen=True)
class Placing:
    """Where the work is done.

    workers: how many at a time, each a process with its own models, which it takes along if it dies; 0 for none but
    this one, where debuggers see the work and a fault ends everything. gpus: of each; ray_address: of a cluster, None
    for this machine. Raises ValueError for numbers that make no sense, and for GPUs or a cluster without workers.
    """

    workers: int = 1
    gpus: float = 0.0
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 0 or not 0 <= self.gpus < math.inf:
            raise ValueError(f"--workers and --gpus are at least 0, got {self.workers} and {self.gpus:g}")
        if self.workers == 0 and (self.gpus or self.ray_address is not None):
            raise ValueError("--workers 0 is this process alone; give at least 1 with --gpus or --ray-address")


def add_placing(parser: argparse.ArgumentParser, own: str) -> argparse._ArgumentGroup:
    """Declares what a Placing takes; own: what each process has of its own, in words. Returns the group of these."""
    group = parser.add_argument_group("engine (Daft)")
    text = f"processes, each with its own {own}; 0: this one alone, which a fault of a decoder ends (default: 1)"
    group.add_argument("--workers", metavar="N", type=int, default=1, help=text)
    text = "GPUs of each worker, may be below 1 (default: 0)"
    group.add_argument("--gpus", metavar="G", type=float, default=0.0, help=text)
    group.add_argument("--ray-address", metavar="ADDR", help="Ray cluster to run on, such as auto or ray://host:10001")
    return group


def spread(load: Load, tasks: Mapping[str, str], folder: Path, placing: Placing) -> Iterator[tuple[str, dict | Died]]:
    """(name, what came of it) of each task, in any order; a task that ends the process of its worker is tried twice.

    load: makes, in the process of a worker, what does a task and tells of it as a JSON object; both can be pickled.
    tasks: by names that are good for files; folder: where workers write.
    Raises ValueError if `load` does, or a process dies of it, or files cannot be written.
    """
    forget(folder)
    waiting = dict(tasks)
    suspects: dict[str, str] = {}
    while waiting:
        try:
            for name, told in _execute(load, waiting, folder, placing):
                del waiting[name]
                yield name, _checked(told)
        except RuntimeError:  # of Daft, if a process is gone; the marks tell which tasks were under way
            begun = [name for name in waiting if died_at(folder, name)]
            if not begun:
                _raise_if_loading(folder)
                raise
            suspects |= {name: waiting.pop(name) for name in begun}
            forget(folder)
    alone = Placing(1, placing.gpus, placing.ray_address)
    for name, task in suspects.items():
        try:
            for _, told in _execute(load, {name: task}, folder, alone):
                yield name, _checked(told)
        except RuntimeError:
            if not (death := died_at(folder, name)):
                _raise_if_loading(folder)
                raise
            forget(folder)
            yield name, death


def _raise_if_loading(folder: Path) -> None:
    if death := died_loading(folder):
        raise ValueError(
            f"a worker's process died while it loaded its annotators: {death.cause}; give fewer --workers, or smaller "
            "models"
        )


def _checked(told: str) -> dict:
    answer = json.loads(told)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer


def _execute(load: Load, tasks: Mapping[str, str], folder: Path, placing: Placing) -> Iterator[tuple[str, str]]:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import daft

    _choose_runner(placing)
    apart, local = placing.workers > 0, placing.ray_address is None
    options: dict[str, Any] = {"max_concurrency": placing.workers, "gpus": placing.gpus} if apart else {}
    worker = daft.cls(Worker, use_process=apart, **options)(load, folder, apart, apart and local)
    table = daft.from_pydict({"name": list(tasks), "task": list(tasks.values())})
    if not local:
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
            # macOS and Windows do not tell which cores this process may use
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            # A thread for each worker, even if there are fewer cores: workers may wait for GPUs.
            daft.set_runner_native(max(placing.workers, cores))
        else:
            _join_cluster(placing.ray_address)
            daft.set_runner_ray(noop_if_initialized=True)
    except daft.exceptions.DaftCoreException as error:
        if (found := daft.get_or_infer_runner_type()) != wanted:
            raise ValueError(f"this process runs Daft on {found} for good, not on {wanted}; start another") from error


def _join_cluster(address: str) -> None:
    """Raises ValueError if Ray is not installed, or no cluster answers there."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError("--ray-address needs Ray, which is not installed: pip install 'unireal[ray]'") from error
    if ray.is_initialized():
        return
    try:
        ray.init(address, runtime_env={"env_vars": _QUIET})
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"no Ray cluster answers at {address!r} ({one_line(error)})"
        raise ValueError(f"{reason}; start one with `ray start --head`, or give the address of one") from error
