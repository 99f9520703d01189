"""A card for each role of a task's frames: the components that take them, and what becomes of their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import gradio as gr

from unireal.demo.controls import ControlFrame
from unireal.demo.events import QUIET
from unireal.demo.limits import Limits
from unireal.demo.numeric import SliderInput
from unireal.demo.uploads import painting_input, picture_input, read_painting, read_picture
from unireal.sample import Role
from unireal.tasks import Slot, TaskSpec

MEANING = {
    Role.CANVAS: "is edited or filled in; its layout stays",
    Role.ASSET: "a reference object; its size, pose and light may change",
    Role.CONTROL: "constrains layout or shape",
}
Size = tuple[int, int]  # height, width in pixels


class Card(Protocol):
    """parameters: components by the names that the API gives them."""

    parameters: dict[str, gr.components.Component]

    def read(self, values: Mapping[str, Any], size: Size | None, native: Size) -> dict[str, Any]:
        """Arguments of unireal.request.Request from values of the parameters. size: asked for, of the results; native:
        the model's. Raises ValueError for values that do not fit one another."""


def cards_of(spec: TaskSpec, limits: Limits) -> list[Card]:
    """The cards of a task, made in the Blocks that are open."""
    cards: list[Card] = []
    number: int | None = 1  # of the next frame as the prompt names it, where that does not depend on what is given
    mask, canvas = spec.slot("mask"), spec.slot("canvas")
    for slot in spec.slots:
        if slot is canvas and mask is not None:
            cards.append(PaintedCanvas(slot, mask, limits))
        elif slot.clip:
            cards.append(Clip(slot))
        elif slot.role is Role.CONTROL and slot is not mask:
            cards.append(Controls(slot, number, limits))
        elif slot is not mask or canvas is None:
            cards.append(Pictures(slot, number, limits))
        number = number + slot.minimum if number is not None and slot.minimum == slot.maximum else None
    if spec.prepare == "expand":
        cards.append(Borders(limits))
    return cards


class Pictures:
    """One picture after another, all of a role."""

    def __init__(self, slot: Slot, number: int | None, limits: Limits):
        self.slot, self.limits = slot, limits
        names = numbered(slot.option, min(slot.maximum, limits.cards))
        with gr.Group(elem_classes=["card", slot.role.value]):
            gr.HTML(heading(slot), padding=False)
            shown = max(slot.minimum, 1)
            with gr.Row():
                self.parameters = {
                    name: picture_input(label(slot, number, i), height=220, visible=i < shown)
                    for i, name in enumerate(names)
                }
            offer_more(list(self.parameters.values()), shown)

    def read(self, values: Mapping[str, Any], size: Size | None, native: Size) -> dict[str, Any]:
        kind, named = self.slot.kinds[0], [name for name in self.parameters if values[name] is not None]
        given = [read_picture(values[name], name, self.limits, kind) for name in named]
        if self.slot.option == "mask":
            return {"mask": given[0]} if given else {}
        return {self.slot.option: given}


class PaintedCanvas:
    """The canvas, and over it the mask."""

    def __init__(self, slot: Slot, mask: Slot, limits: Limits):
        with gr.Group(elem_classes=["card", slot.role.value]):
            gr.HTML(
                heading(slot, "paint where it is to change" + (" (or do not)" if mask.optional else "")), padding=False
            )
            self.parameters = {slot.option: painting_input(label(slot, 1, 0), height=420)}
        self.option, self.mask, self.limits = slot.option, mask, limits

    def read(self, values: Mapping[str, Any], size: Size | None, native: Size) -> dict[str, Any]:
        picture, mask = read_painting(values[self.option], self.option, self.limits)
        if picture is not None and mask is None and not self.mask.optional:
            raise ValueError("nothing is painted; paint over what is to change")
        return {self.option: [] if picture is None else [picture], "mask": mask}


class Clip:
    """A video."""

    def __init__(self, slot: Slot):
        self.option = slot.option
        with gr.Group(elem_classes=["card", slot.role.value]):
            gr.HTML(heading(slot), padding=False)
            self.parameters = {slot.option: gr.Video(label=slot.option, sources=["upload"], height=260)}

    def read(self, values: Mapping[str, Any], size: Size | None, native: Size) -> dict[str, Any]:
        return {self.option: values[self.option]}


class Controls:
    """Control frames, each with its kind."""

    def __init__(self, slot: Slot, number: int | None, limits: Limits):
        names = numbered(slot.option, min(slot.maximum, limits.cards))
        with gr.Group(elem_classes=["card", slot.role.value]):
            gr.HTML(heading(slot), padding=False)
            shown = max(slot.minimum, 1)
            self.frames = [
                ControlFrame(name, slot.kinds, label(slot, number, i), limits, visible=i < shown)
                for i, name in enumerate(names)
            ]
            offer_more([frame.box for frame in self.frames], shown)
        self.parameters = {name: part for frame in self.frames for name, part in frame.parameters.items()}
        self.option = slot.option

    def read(self, values: Mapping[str, Any], size: Size | None, native: Size) -> dict[str, Any]:
        frames = (frame.read(values, size, native) for frame in self.frames)
        return {self.option: [frame for frame in frames if frame is not None]}


class Borders:
    """How far a canvas grows on each side, in pixels."""

    SIDES = ("left", "top", "right", "bottom")

    def __init__(self, limits: Limits):
        with gr.Group(elem_classes=["card"]), gr.Row():
            self.parameters = {
                side: SliderInput(0, limits.side // 2, value=0, step=1, label=f"{side}, pixels", min_width=120)
                for side in self.SIDES
            }

    def read(self, values: Mapping[str, Any], size: Size | None, native: Size) -> dict[str, Any]:
        return {"expand": tuple(int(values[side]) for side in self.SIDES)}


def numbered(option: str, count: int) -> list[str]:
    """asset, asset_2, asset_3, ..."""
    return [option if i == 0 else f"{option}_{i + 1}" for i in range(count)]


def heading(slot: Slot, more: str = "") -> str:
    optional = ", optional" if slot.optional else ""
    text = "; ".join(part for part in (MEANING[slot.role], more) if part)
    return f'<div class="role"><b>{slot.option}</b>{optional}<span>{text}</span></div>'


def label(slot: Slot, number: int | None, index: int) -> str:
    """Of the index-th picture of a slot, with the name that the prompt has for it if that is known."""
    name = slot.option + (f" {index + 1}" if slot.maximum > 1 else "")
    return name if number is None else f"{name}: IMG{number + index} in the prompt"


def offer_more(parts: list[Any], shown: int) -> None:
    """A button that shows the next of them."""
    if len(parts) <= shown:
        return
    count = gr.State(shown)
    more = gr.Button("add another", size="sm", elem_classes=["more"])

    def reveal(number: int) -> list[Any]:
        number += 1
        visible = [number < len(parts), *(i < number for i in range(len(parts)))]
        return [number, *(gr.update(visible=shows) for shows in visible)]

    more.click(reveal, count, [count, more, *parts], **QUIET)
