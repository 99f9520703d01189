"""Examples that run on the shipped model, with the pictures of the examples folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unireal.tasks import TaskSpec

FOLDER = Path(__file__).parents[2] / "examples"  # comes with the repository, not with an installed package


@dataclass(frozen=True)
class Example:
    """values: parameters of the task's form (unireal.demo.form), pictures by the names of files in FOLDER."""

    task: str
    prompt: str
    values: dict[str, Any] = field(default_factory=dict)


EXAMPLES = (
    Example("edit", "Make the red circle green.", {"canvas": "room.png"}),
    Example("edit", "Remove the yellow cross.", {"canvas": "room.png"}),
    Example("inpaint", "", {"canvas": ("room_wide.png", "hole_mask.png")}),
    Example("outpaint", "", {"canvas": "room_wide.png", "right": 32}),
    Example("insert", "Add the object from IMG2 to IMG1 at the bottom left, large.",
            {"canvas": ("room.png", None), "asset": "asset.png"}),
    Example("customize", "The object from IMG1 at the left in a sand room.", {"asset": "asset.png"}),
    Example("control", "a navy room with a large orange circle at the top and a large blue cross at the bottom left",
            {"control_kind": "depth", "control": "depth.png"}),
    Example("control", "a sand room with a large red circle at the right",
            {"control_kind": "drag", "control": "room.png",
             "control_marks": '{"drags": [{"start": [20, 18], "end": [46, 18]}]}'}),
    Example("control", "a gray room with a large blue square at the left",
            {"control_kind": "layout",
             "control_marks": '{"size": [64, 64], "boxes": [{"box": [6, 20, 30, 44], "color": "blue"}]}'}),
    Example("depth", "", {"canvas": "room.png"}),
    Example("segment", "the red circle", {"canvas": "room.png"}),
    Example("restore", "Deblur IMG1.", {"canvas": "blurred.png"}),
    Example("tryon", "the red circle", {"canvas": "room.png", "asset": "swatch.png"}),
    Example("video_edit", "Remove the green cross.", {"video": "video.mp4"}),
    Example("compose", "Make the red circle green; Predict the mask of the edited region in RES2.",
            {"canvas": "room.png", "num_results": 2}),
)  # fmt: skip


def examples_of(spec: TaskSpec) -> list[dict[str, Any]]:
    """Parameter values with paths; a task that needs no picture has its own example prompt besides."""
    found = [example for example in EXAMPLES if example.task == spec.name and _present(example)]
    rows = [{"prompt": example.prompt} | {k: _path(v) for k, v in example.values.items()} for example in found]
    if spec.example and all(slot.optional for slot in spec.slots):
        rows += [{"prompt": spec.example}] * all(row["prompt"] != spec.example for row in rows)
    return rows


def _files(value: Any) -> list[str]:
    return [part for part in (value if isinstance(value, tuple) else (value,)) if str(part).endswith((".png", ".mp4"))]


def _present(example: Example) -> bool:
    return all((FOLDER / name).is_file() for value in example.values.values() for name in _files(value))


def _path(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(None if part is None else str(FOLDER / part) for part in value)
    return str(FOLDER / value) if _files(value) else value
