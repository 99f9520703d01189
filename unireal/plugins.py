"""A user's own Python file: a new task, a data set, or both in one place.

    python train.py my_run.yaml --plugin my_task.py
    python infer.py my_task --plugin my_task.py ...

The file is run once, as any module; what it registers (unireal.tasks.register) is known from then on.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_LOADED: dict[Path, ModuleType] = {}


def load_plugin(path: str | Path) -> ModuleType:
    """The module of a Python file. A file is run once, however often and by whatever path it is asked for.

    Raises ValueError if there is no such file, or if running it fails.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise ValueError(f"plugin {str(path)!r} is not a file; give the path of a .py file")
    if file not in _LOADED:
        name = f"unireal_plugin_{len(_LOADED)}_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None  # a .py file has a loader
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a user's code raises
            del sys.modules[name]
            raise ValueError(f"plugin {str(path)!r} fails: {type(error).__name__}: {error}") from error
        _LOADED[file] = module
    return _LOADED[file]


def add_plugin_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds --plugin FILE, which loads the file as soon as the command line is read."""
    parser.add_argument(
        "--plugin", action="append", default=[], type=_argument, metavar="FILE", help="Python file with tasks or data"
    )


def _argument(path: str) -> str:
    try:
        load_plugin(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def load_object(path: str) -> Any:
    """What "module:name" or "file.py:name" stands for. Raises ImportError, AttributeError or ValueError."""
    module, _, name = path.rpartition(":")
    return getattr(load_plugin(module) if module.endswith(".py") else importlib.import_module(module), name)
