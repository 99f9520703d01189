"""The taxonomy of the survey of diffusion-based editing (arXiv 2402.17525) as data: 12 edit types, 10 input conditions,
and how the benchmarks' own categories map to the types.

Tasks and benchmark items are tagged with these names, and reports break down by them.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from unireal.names import lookup
from unireal.sample import Frame, Role

# Edit type -> its group.
EDIT_TYPES = MappingProxyType(
    {
        "object addition": "semantic",
        "object removal": "semantic",
        "object replacement": "semantic",
        "background change": "semantic",
        "emotional expression change": "semantic",
        "color change": "stylistic",
        "texture change": "stylistic",
        "overall style change": "stylistic",
        "object movement": "structural",
        "object size and shape change": "structural",
        "object action and pose change": "structural",
        "viewpoint change": "structural",
    }
)

INPUT_CONDITIONS = (
    "text",
    "mask",
    "reference image",
    "class",
    "layout",
    "pose",
    "sketch",
    "segmentation map",
    "audio",
    "dragging points",
)
# Whatever takes a text takes these too: speech is transcribed to it, a class is named in it (unireal.conditions).
TEXTUAL = ("text", "class", "audio")

# What a control frame shows -> input condition; None where the survey lists none.
CONDITION_OF_KIND: dict[str, str | None] = {
    "depth": None,
    "edge": None,
    "mask": "mask",
    "layout": "layout",
    "pose": "pose",
    "sketch": "sketch",
    "segmentation": "segmentation map",
    "drag": "dragging points",
}

# Benchmark -> its own category -> edit type; None where a category mixes several or is none of the twelve.
CATEGORIES: dict[str, dict[str, str | None]] = {
    "emu_edit": {
        "add": "object addition",
        "remove": "object removal",
        "background": "background change",
        "color": "color change",
        "style": "overall style change",
        "global": "overall style change",  # weather, season, time of day
        "local": None,  # any change of a part: pose, material, size, expression
        "text": None,
    },
    "pie_bench": {
        "0_random_140": None,
        "1_change_object_80": "object replacement",
        "2_add_object_80": "object addition",
        "3_delete_object_80": "object removal",
        "4_change_attribute_content_40": None,  # what is inside of or written on a thing, faces, shapes
        "5_change_attribute_pose_40": "object action and pose change",
        "6_change_attribute_color_40": "color change",
        "7_change_attribute_material_40": "texture change",
        "8_change_background_80": "background change",
        "9_change_style_80": "overall style change",
    },
    "imgedit": {
        "add": "object addition",
        "remove": "object removal",
        "replace": "object replacement",
        "background": "background change",
        "style": "overall style change",
        "action": "object action and pose change",
        "adjust": None,  # colour, material, size or shape
        "extract": None,
        "compose": None,  # several edits at once
    },
    "gedit": {
        "background_change": "background change",
        "color_alter": "color change",
        "material_alter": "texture change",
        "motion_change": "object action and pose change",
        "ps_human": None,  # retouched portraits
        "style_change": "overall style change",
        "subject-add": "object addition",
        "subject-remove": "object removal",
        "subject-replace": "object replacement",
        "text_change": None,
        "tone_transfer": "overall style change",  # light, season, weather
    },
    "editeval": {
        "action_change": "object action and pose change",
        "background_change": "background change",
        "object_addition": "object addition",
        "object_removel": "object removal",  # as the data set spells it
        "object_replacement": "object replacement",
        "style_change": "overall style change",
        "texture_change": "texture change",
    },
    "tgve": {
        "style": "overall style change",
        "object": "object replacement",
        "background": "background change",
        "multiple": None,
    },
    "world": {
        "recolor": "color change",
        "recolor_alike": "color change",
        "remove": "object removal",
        "add": "object addition",
        "move": "object movement",
        "replace": "object replacement",
        "background": "background change",
        "resize": "object size and shape change",
        "turn": "object action and pose change",
        "expression": "emotional expression change",
        "viewpoint": "viewpoint change",
        "style": "overall style change",
        "frame2frame": "object movement",
        "insert": "object addition",
        "tryon": "texture change",
    },
}

# What a recipe of the world that makes edits of several types says of each sample -> edit type.
WORLD_EDITS = MappingProxyType(
    {
        "recolor": "color change",
        "remove": "object removal",
        "add": "object addition",
        "substitute": "object replacement",
        "retexture": "texture change",
        "repaint_room": "background change",
    }
)


def check_edit_types(names: Iterable[str]) -> None:
    """Raises ValueError, with the nearest one, for a name that is not among the twelve."""
    for name in names:
        lookup(EDIT_TYPES, name, "edit type")


def conditions_of(frames: Iterable[Frame]) -> tuple[str, ...]:
    """What the input frames of one sample are for the survey, in its order; "text" always is among it."""
    return _in_order({"text"}, ((frame.role, (frame.kind,)) for frame in frames))


def controls_of(frames: Iterable[Frame]) -> tuple[str, ...]:
    """What the control frames among the input frames of one sample show, each kind once, in the table's order."""
    shown = {frame.kind for frame in frames if frame.role is Role.CONTROL}
    return tuple(kind for kind in CONDITION_OF_KIND if kind in shown)


def accepted_conditions(slots: Iterable[tuple[Role, Iterable[str]]]) -> tuple[str, ...]:
    """What a task with slots of these (role, kinds) can be given, in the survey's order."""
    return _in_order(set(TEXTUAL), slots)


def _in_order(conditions: set[str], pictures: Iterable[tuple[Role, Iterable[str]]]) -> tuple[str, ...]:
    """These conditions and those that pictures of (role, kinds) are, in the survey's order."""
    for role, kinds in pictures:
        if role is Role.ASSET:
            conditions.add("reference image")
        elif role is Role.CONTROL:
            conditions.update(condition for kind in kinds if (condition := CONDITION_OF_KIND.get(kind)))
    return tuple(condition for condition in INPUT_CONDITIONS if condition in conditions)
