"""Plug-ins that make sampling cheaper: `pipeline(..., accelerate=["spotedit", TeaCache(threshold=0.2)])`.

| name            | what it saves                                               | exact                       |
|-----------------|-------------------------------------------------------------|-----------------------------|
| condition_cache | text and input frames are computed once, or every few steps | with isolated attention     |
| spotedit        | only what the edit changes is computed                      | the rest becomes the canvas |
| teacache        | steps whose input hardly changed reuse the last residual    | no                          |
| taylorseer      | between every few steps, the residual is extrapolated       | no                          |

They may be combined, but for teacache with taylorseer. spotedit and condition_cache also work on public weights
(unireal.acceleration.public); fewer steps are a matter of training (unireal.training.distillation).
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import fields

from unireal.acceleration.base import Acceleration, StepScheduler
from unireal.acceleration.condition_cache import ConditionCache
from unireal.acceleration.spotedit import SpotEdit
from unireal.acceleration.taylorseer import TaylorSeer
from unireal.acceleration.teacache import TeaCache
from unireal.diffusion.sampling import Call
from unireal.names import lookup

__all__ = ["ACCELERATIONS", "Acceleration", "ConditionCache", "SpotEdit", "TaylorSeer", "TeaCache", "accelerations"]

ACCELERATIONS: dict[str, type[Acceleration]] = {
    plugin.name: plugin for plugin in (ConditionCache, SpotEdit, TeaCache, TaylorSeer)
}


class Accelerations(tuple[Acceleration, ...]):
    """Plug-ins that work together; what `unireal.diffusion.sampling.denoise` takes."""

    def start(self, call: Call) -> StepScheduler:
        """Fresh state for a call. Raises ValueError for plug-ins that exclude each other."""
        return StepScheduler(call, self)


def accelerations(chosen: str | Acceleration | Sequence[str | Acceleration]) -> Accelerations:
    """Plug-ins from names or from plug-ins themselves.

    A name may carry settings: "spotedit:tau=0.3:judge=cosine". Raises ValueError with the nearest name for an unknown
    plug-in or setting, and for a value that the plug-in does not take.
    """
    return Accelerations(map(_plugin, chosen if isinstance(chosen, list | tuple) else [chosen]))


def _plugin(item: str | Acceleration) -> Acceleration:
    if isinstance(item, str):
        return _parse(item)
    if not isinstance(item, Acceleration):
        raise ValueError(f"accelerate has plug-ins or names of them ({', '.join(ACCELERATIONS)}), got {item!r}")
    return item


def _parse(text: str) -> Acceleration:
    name, *settings = text.split(":")
    if "," in name:
        raise ValueError(f"acceleration {text!r} is several names in one; give a list of them")
    plugin = lookup(ACCELERATIONS, name, "acceleration")
    known = {field.name: field for field in fields(plugin) if field.init}  # type: ignore[arg-type]
    values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"acceleration setting {setting!r} is not NAME=VALUE; write for example {name}:NAME=VALUE")
        lookup(known, key, f"setting of {name}")
        values[key] = _value(value)
    return plugin(**values)


def _value(text: str) -> object:
    """A Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: thousands of signs
        return text
