"""A run written down as a YAML file: `python train.py my_run.yaml`.

    experiment: tiny          # what it is a variant of; all else is as there
    plugins: [my_task.py]     # Python files to load first
    steps: 2000
    data:
      text_dropout: 0.1
      sources:
        - {path: data/world, weight: 3, tasks: [edit, insert]}
        - {path: "data_builders.world.stream:WorldStream", options: {recipes: [t2i]}}

Sections and fields are those of unireal.experiments.TrainConfig. A section changes the fields that it names; a list
replaces the whole list. Paths are taken from the working directory, as on the command line.
"""

from __future__ import annotations

import contextlib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from unireal.experiments import TrainConfig, get_experiment
from unireal.names import lookup
from unireal.notices import one_line
from unireal.plugins import load_plugin


def load_run(path: Path) -> TrainConfig:
    """Raises ValueError, naming the field, for what is not YAML, unknown or of the wrong type."""
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML ({one_line(error)})") from error
    if not isinstance(written, Mapping):
        raise ValueError(f"{path} holds no fields; write some, such as 'experiment: tiny'")
    written = dict(written)
    if not isinstance(plugins := written.pop("plugins", []), list):
        raise ValueError(f"{path}: plugins is a list of Python files, got {plugins!r}")
    for plugin in plugins:
        load_plugin(str(plugin))
    experiment = written.pop("experiment", None)
    if not isinstance(experiment, str):
        raise ValueError(f"{path} does not say what it is a variant of; add 'experiment: tiny' or another one's name")
    try:
        return _merged(get_experiment(experiment), written, "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _merged(value: Any, changes: Any, name: str) -> Any:
    """The dataclass instance `value` with the fields that `changes` names."""
    if not isinstance(changes, Mapping):
        raise ValueError(f"{name} is a section of fields, got {changes!r}")
    known = {field.name: field for field in fields(value)}
    hints = typing.get_type_hints(type(value))
    put = {}
    for key, change in changes.items():
        place = f"{name}.{key}" if name else str(key)
        field = lookup(known, str(key).replace("-", "_"), f"field of {name}" if name else "field")
        old = getattr(value, field.name)
        section = is_dataclass(old)
        put[field.name] = _merged(old, change, place) if section else _parsed(hints[field.name], change, place)
    return replace(value, **put)


def _parsed(kind: Any, value: Any, name: str) -> Any:
    """A value of YAML as the type that a field has. Raises ValueError if it is none."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _parsed(next(a for a in arguments if a is not type(None)), value, name)
    if is_dataclass(kind):
        return _made(kind, value, name)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{name} is a list, got {value!r}; write it in brackets")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ValueError(f"{name} has {len(arguments)} values, got {value!r}")
        types_ = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_parsed(t, v, f"{name}[{i}]") for i, (t, v) in enumerate(zip(types_, value, strict=True)))
    if origin is dict or kind is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} is a section of fields, got {value!r}")
        return dict(value)
    if kind is float and isinstance(value, str):  # YAML takes 5e-4, without a point, for a text
        with contextlib.suppress(ValueError):
            value = float(value)
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        remedy = "; put it in quotes" if kind is str else ""  # YAML takes no and off for false
        raise ValueError(f"{name} is of type {kind.__name__}, got {value!r}{remedy}")
    return kind(value)


def _made(kind: Any, value: Any, name: str) -> Any:
    """A new dataclass instance of a section; fields that it does not name have their defaults."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is a section of fields, got {value!r}")
    hints, known = typing.get_type_hints(kind), {field.name: field for field in fields(kind)}
    put = {}
    for key, given in value.items():
        field = lookup(known, str(key).replace("-", "_"), f"field of {name}")
        put[field.name] = _parsed(hints[field.name], given, f"{name}.{field.name}")
    required = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [n for n in required if n not in put]:
        raise ValueError(f"{name} needs {', '.join(missing)}, got {', '.join(put) or 'nothing'}")
    return kind(**put)
