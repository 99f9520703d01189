"""The workers of the engine, and what is known of those that died.

While a worker does something, a mark in the folder says what. A process that dies, of a fault in a decoder or killed
for its memory, leaves its mark behind, and in it the fault as far as the process could still tell it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

MARKS = ".*.begun"
_MARK, _LOADING = ".{}.begun", "loading-{}"
_FATAL = "Fatal Python error: "

Note = Callable[[str], None]
Work = Callable[[str, Note], str]
Load = Callable[[], Work]


@dataclass(frozen=True)
class Died:
    """What ended a process. at: what its work noted last; fault: "Segmentation fault", "" if it was killed."""

    at: str
    fault: str

    @property
    def cause(self) -> str:
        return self.fault or "it was killed, mostly for a lack of memory"


class Worker:
    """Does one piece of work after another.

    load: makes what does a task, given the task and a function that notes which part of it is under way.
    own_process: whether this process is the worker's own; follow: whether it ends with the process that began it, and
    when its mark is taken away, so that nothing goes on behind the back of those who make the task again.
    What ends the whole run is handed over as {"error": reason}: runners wrap exceptions in different ways.
    """

    def __init__(self, load: Load, folder: Path, own_process: bool, follow: bool):
        self.folder, self.own_process, self.problem = folder, own_process, ""
        self.mark: Path | None = None
        self.marking = Lock()
        if follow:
            Thread(target=self._follow, args=(os.getppid(),), daemon=True).start()
        try:
            with self._marked(_LOADING.format(os.getpid())):
                self.work = load()
        except ValueError as error:
            self.problem = str(error)
        except OSError as error:
            self.problem = self._unwritable(error)

    def do(self, name: str, task: str) -> str:
        if self.problem:
            return _error(self.problem)
        try:
            with self._marked(name) as note:
                return self.work(task, note)
        except OSError as error:
            return _error(self._unwritable(error))
        except ValueError as error:  # of models that are loaded when they are first needed; the rest would meet it too
            self.problem = str(error)
            return _error(self.problem)

    @contextmanager
    def _marked(self, name: str) -> Iterator[Note]:
        mark = self.folder / _MARK.format(name)
        with open(mark, "wb", buffering=0) as file:

            def note(at: str) -> None:
                file.seek(0)
                file.truncate()
                file.write(f"{at}\n".encode())

            note("")
            self.mark = mark
            if self.own_process:
                faulthandler.enable(file, all_threads=False)
            try:
                yield note
            finally:
                if self.own_process:
                    faulthandler.disable()
                with self.marking:
                    self.mark = None
                    mark.unlink(missing_ok=True)

    def _follow(self, parent: int) -> None:
        while os.getppid() == parent:
            with self.marking:
                if self.mark is not None and not self.mark.exists():
                    break
            time.sleep(0.05)
        os._exit(1)

    def _unwritable(self, error: OSError) -> str:
        return f"cannot write to {str(self.folder)!r} ({error}); give another --output"


def _error(reason: str) -> str:
    return json.dumps({"error": reason})


def died_at(folder: Path, name: str) -> Died | None:
    """What ended the process that did the task of that name; None if none has died of it."""
    return _death(folder / _MARK.format(name))


def died_loading(folder: Path) -> Died | None:
    """What ended a process that had not begun on a task; None if none has died so."""
    return next(map(_death, folder.glob(_MARK.format(_LOADING.format("*")))), None)


def forget(folder: Path) -> None:
    """Removes the marks of those that died; those that have not end."""
    for mark in folder.glob(MARKS):
        mark.unlink(missing_ok=True)


def _death(mark: Path) -> Died | None:
    try:
        at, *rest = mark.read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return None
    return Died(at, next((line.removeprefix(_FATAL) for line in rest if line.startswith(_FATAL)), ""))
