"""Edits of the world as events of a video: what a caption would say if the canvas became the result before our eyes.

A model that knows videos is told so what an instruction asks for ("evolution-style captions": Video4Edit, arXiv
2511.18131).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from data_builders.world.stream import WorldPool
from unireal.sample import Sample


class EvolvingPool(WorldPool):
    """The samples of WorldPool; those of edits say in source["evolution"] what happens."""

    def __getitem__(self, number: int) -> Sample:
        sample = super().__getitem__(number)
        told = evolution(sample.source["target"])
        return replace(sample, source=sample.source | {"evolution": told}) if told else sample


def evolution(target: Mapping[str, Any]) -> str:
    """For example "The red circle turns blue.", from a sample's source["target"]; "" if it does not tell what becomes
    of a thing or of the room."""
    if "after" not in target:
        return ""
    after = target["after"]
    if "shape" not in target:
        return f"The room turns {after['room']}."
    name = f"{target['color']} {target['shape']}"
    if after is None:
        return f"The {name} disappears."
    if after == {key: value for key, value in target.items() if key != "after"}:
        return f"A {target['size']} {name} appears at the {target['position']}."
    events = {
        "color": f"turns {after['color']}",
        "pattern": f"turns {after['pattern']}",
        "shape": f"turns into a {after['shape']}",
        "position": f"moves to the {after['position']}",
        "size": "grows" if after["radius"] > target["radius"] else "shrinks",
    }
    happened = [event for key, event in events.items() if after[key] != target[key]]
    return f"The {name} {' and '.join(happened)}." if happened else ""
