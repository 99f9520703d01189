"""One control frame on the page: its kind, a picture of it, or marks that are clicked into a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from unireal.conditions import PALETTE
from unireal.demo import marks
from unireal.demo.events import QUIET
from unireal.demo.limits import Limits
from unireal.demo.uploads import picture_input, read_picture

Size = tuple[int, int]  # height, width in pixels


class ControlFrame:
    """box: what to show or hide. parameters: NAME the picture, NAME_kind, and NAME_marks, JSON as infer.py --layout and
    --drag take it."""

    def __init__(self, name: str, kinds: Sequence[str], label: str, limits: Limits, visible: bool):
        self.name, self.limits = name, limits
        markable = any(kind in marks.KINDS for kind in kinds)
        with gr.Column(visible=visible) as self.box:
            kind = gr.Dropdown(list(kinds), value=kinds[0], label="kind", interactive=True)
            picture = picture_input(label, height=220)
            self.parameters = {name: picture, f"{name}_kind": kind}
            if markable:
                self.parameters[f"{name}_marks"] = _Marking(kind, picture, limits).text

    def read(self, values: Mapping[str, Any], size: Size | None, native: Size) -> tuple[str, np.ndarray] | None:
        """Kind and frame uint8 (H, W, 3); None where nothing is given. Raises ValueError for marks that do not fit."""
        kind = values[f"{self.name}_kind"]
        picture = read_picture(values[self.name], self.name, self.limits, kind)
        wanted = size or (native if picture is None else None)
        frame = marks.frame(kind, values.get(f"{self.name}_marks") or "", picture, wanted)
        return None if frame is None else (kind, frame)


class _Marking:
    """A picture to click on, and the JSON of what was clicked; shown for the kinds that have marks."""

    def __init__(self, kind: gr.Dropdown, picture: gr.Image, limits: Limits):
        self.limits = limits
        with gr.Column(visible=False) as self.panel:
            self.help = gr.Markdown(elem_classes=["help"])
            self.board = gr.Image(label="click here", interactive=False, format="png", buttons=[], height=420,
                                  elem_classes=["shown", "board"])  # fmt: skip
            self.color = gr.Dropdown(list(PALETTE), value=next(iter(PALETTE)), label="color of the next box")
            with gr.Row():
                undo, clear = gr.Button("undo", size="sm"), gr.Button("clear", size="sm")
            self.text = gr.Textbox(label="as JSON", value="", lines=1, max_length=10_000)
        self.pending = gr.State(None)
        given, shown = [kind, self.text, picture], [self.board, self.pending, self.help]
        self.board.select(self._clicked, [*given, self.color, self.pending], [self.text, *shown], **QUIET)
        undo.click(self._undone, [kind, self.text], self.text, **QUIET)
        clear.click(lambda: "", None, self.text, **QUIET)
        gr.on([self.text.change, picture.change, kind.change, undo.click], self._drawn, given, shown, **QUIET)
        kind.change(self._chosen, kind, [self.panel, self.color], **QUIET)
        kind.input(lambda: "", None, self.text, **QUIET)  # boxes are no drags

    # What a visitor does wrong stands in place of the help: the page shows no errors of events beside the queue.

    def _clicked(self, kind: str, text: str, path: str | None, color: str, pending: marks.Point | None,
                 event: gr.SelectData) -> tuple[Any, ...]:  # fmt: skip
        """The first click of a pair waits for the second."""
        try:
            picture = read_picture(path, "picture", self.limits)
            place = marks.point(kind, text, picture, event.index)
            if pending is None:
                return text, marks.board(kind, text, picture, place), place, marks.KINDS[kind].help
            text = marks.added(kind, text, picture, (pending[0], pending[1]), place, color)
            return text, marks.board(kind, text, picture), None, marks.KINDS[kind].help
        except ValueError as error:
            return gr.skip(), gr.skip(), None, str(error)

    @staticmethod
    def _undone(kind: str, text: str) -> Any:
        try:
            return marks.removed(kind, text)
        except ValueError:
            return gr.skip()  # _drawn says why

    def _drawn(self, kind: str, text: str, path: str | None) -> tuple[Any, ...]:
        """The board without a pending click."""
        if kind not in marks.KINDS:
            return None, None, ""
        try:
            picture = read_picture(path, "picture", self.limits)
            return marks.board(kind, text, picture), None, marks.KINDS[kind].help
        except ValueError as error:
            return gr.skip(), None, str(error)

    @staticmethod
    def _chosen(kind: str) -> tuple[Any, ...]:
        known = marks.KINDS.get(kind)
        return gr.update(visible=known is not None), gr.update(visible=known is marks.KINDS["layout"])
