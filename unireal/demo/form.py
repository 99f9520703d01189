"""The form of a task: cards for its frames, the prompt, and advanced options; its values become a Recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from inspect import Parameter, Signature
from typing import Any

import gradio as gr

from unireal.demo.cards import cards_of
from unireal.demo.engine import Engine
from unireal.demo.numeric import NumberInput, SliderInput, check_numbers
from unireal.demo.uploads import painting_value
from unireal.metadata import Recipe
from unireal.prompts import CONTEXT_KEYWORDS, parse_context
from unireal.tasks import TaskSpec

CLIP_FRAMES = 16  # of a video that are edited unless another number is given
# Acceleration with settings. A polynomial may be in a file, but visitors are not to have files of the server read.
_PLUGIN = re.compile(r"\w{1,40}(:(?!polynomial=[^(])\w{1,40}=([\w.+-]{0,40}|\([\d.,e +-]{0,200}\)))*")


class Form:
    """parameters: components by the names that the API gives them, in their order.

    button, prompt: what starts a call. plugins: the component that lists the accelerations.
    """

    def __init__(self, spec: TaskSpec, engine: Engine):
        self.spec, self.engine, self.limits = spec, engine, engine.limits
        self.cards = cards_of(spec, self.limits)
        self.prompt = gr.Textbox(
            value="",
            label="prompt",
            placeholder=spec.example or spec.default_prompt,
            info=None if spec.default_prompt is None else f"empty: {spec.default_prompt}",
            max_length=self.limits.prompt,
        )
        with gr.Row():
            self.button = gr.Button("Run", variant="primary", scale=3, min_width=120)
            self.cancel = gr.Button("Cancel", variant="stop", scale=1, min_width=80)
        with gr.Accordion("Advanced", open=False):
            settings = self._settings()
        self.plugins = settings["accelerate"]
        pictures = {name: part for card in self.cards for name, part in card.parameters.items()}
        self.parameters: dict[str, gr.components.Component] = {"prompt": self.prompt} | pictures | settings

    def signature(self) -> Signature:
        """Of a function that takes the parameters: what is not given is as the page has it."""
        kind = Parameter.POSITIONAL_OR_KEYWORD
        return Signature([Parameter(name, kind, default=part.value) for name, part in self.parameters.items()])

    def read(self, values: Sequence[Any]) -> tuple[Recipe, str | None]:
        """The recipe that values of the parameters make, and the path of a video to edit.

        Waits for the model. Raises ValueError for values that do not fit one another.
        """
        from unireal.request import Request

        given = dict(zip(self.parameters, values, strict=True))
        check_numbers(self.parameters, given)
        for name in ("prompt", "negative_prompt"):
            if (length := len(given[name] or "")) > self.limits.prompt:
                told = name.replace("_", " ")
                raise ValueError(f"the {told} has {length} characters; up to {self.limits.prompt} can be used")
        native = self.engine.pipeline().config.native_size
        width, height = _whole(given["width"]), _whole(given["height"])
        if (width is None) != (height is None):
            raise ValueError("give both width and height, or none of them")
        size = None if width is None or height is None else (height, width)
        frames: dict[str, Any] = {}
        for card in self.cards:
            frames |= card.read(given, size, tuple(native))
        video = frames.pop("video", None)
        count: int | None = int(given["num_results"])
        if self.spec.video and count == self.spec.num_results[0]:
            count = None  # the page's own value: as suits the length
        request = Request(
            task=self.spec.name,
            prompt=given["prompt"] or "",
            size=size,
            context=", ".join(_listed(given["context"])),
            num_results=count,
            num_frames=_whole(given.get("num_frames")),
            **frames,
        )
        how: dict[str, Any] = {name: given[name] or None for name in ("guidance", "image_guidance", "negative_prompt")}
        how |= {"seed": int(given["seed"] or 0), "steps": _whole(given["steps"])}
        how |= {"accelerate": _plugins(given["accelerate"]), "dtype": self.engine.dtype}
        return Recipe(request, self.engine.model, **how), video

    def example(self, name: str, value: Any) -> Any:
        """A value of an example (unireal.demo.examples) as the parameter's component takes it."""
        part = self.parameters[name]
        return painting_value(*value) if isinstance(part, gr.ImageEditor) and value is not None else value

    def _settings(self) -> dict[str, gr.components.Component]:
        spec, limits = self.spec, self.limits
        least, most = spec.num_results if spec.num_results[1] > 1 else (1, limits.results)
        settings: dict[str, gr.components.Component] = {
            "context": gr.Dropdown(
                list(CONTEXT_KEYWORDS), value=list(parse_context(spec.context)), multiselect=True,
                label="context prompt", info="put before the instruction",
            ),
            "num_results": SliderInput(
                least, min(most, limits.results), value=least, step=1,
                label="frames at a time" if spec.video else "number of results",
            ),
        }  # fmt: skip
        if spec.video:
            frames = CLIP_FRAMES if any(slot.clip for slot in spec.slots) else 0
            settings["num_frames"] = NumberInput(
                frames, label="frames of the video (0: usual)", precision=0, minimum=0, maximum=limits.frames
            )
        with gr.Row():
            settings["seed"] = NumberInput(0, label="seed", precision=0, minimum=0, maximum=2**53 - 1, min_width=90)
            settings["steps"] = _number("steps", limits.steps, precision=0)
            settings["guidance"] = _number("guidance", 30)
            settings["image_guidance"] = _number("image guidance", 30)
        settings["negative_prompt"] = gr.Textbox(
            "", label="negative prompt", info="what text guidance leads away from", max_length=limits.prompt
        )
        with gr.Row():
            settings["width"] = _number("width", limits.side, precision=0)
            settings["height"] = _number("height", limits.side, precision=0)
        own = "the canvas's size" if spec.size_rule == "canvas" else "its native size"
        gr.Markdown(f"0 stands for what the model was made for, and for {own}.", elem_classes=["help"])
        settings["accelerate"] = gr.Dropdown(
            [], value=[], multiselect=True, allow_custom_value=True, label="acceleration",
            info="also with settings, such as spotedit:tau=0.3",
        )  # fmt: skip
        return settings


def _number(label: str, most: float, **options: Any) -> NumberInput:
    """0 where nothing is chosen: gradio shows an empty number as 0 anyway."""
    return NumberInput(0, label=label, minimum=0, maximum=most, min_width=90, **options)


def _whole(value: float | None) -> int | None:
    return int(value) if value else None


def _listed(chosen: Sequence[str] | str | None) -> tuple[str, ...]:
    """What is chosen from a list; a program may give one name as it is."""
    return (chosen,) if isinstance(chosen, str) else tuple(chosen or ())


def _plugins(chosen: Sequence[str] | str | None) -> tuple[str, ...]:
    """Accelerations. Raises ValueError for settings that are neither words nor numbers, such as a path."""
    names = _listed(chosen)
    for name in names:
        if not _PLUGIN.fullmatch(name):
            told = f"acceleration {name[:60]!r} has settings other than words and numbers"
            raise ValueError(f"{told}; write for example spotedit:tau=0.3")
    return names
