"""What a page shows of a call: progress and preview, then the result against what it was made from."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from unireal.demo.engine import Outcome, Progress
from unireal.demo.examples import examples_of
from unireal.metadata import png_infos, save_png
from unireal.sample import Role
from unireal.tasks import TaskSpec

CHANGED = 16  # levels of 255 in some channel by which an edited pixel differs from the canvas's
TINT = np.array([255, 61, 113])
HISTORY = 24  # pictures that a page remembers


class Results:
    """outputs: the components that a call fills, in the order in which the API returns them."""

    def __init__(self, spec: TaskSpec):
        self.spec = spec
        hint = "fill in the form and press Run" + (", or click an example first" if examples_of(spec) else "")
        self.status = gr.HTML(status(hint), label="status", elem_classes=["status"])
        compared = any(slot.role is not Role.ASSET for slot in spec.slots) and not spec.video
        with gr.Tabs():
            with gr.Tab("Result"):
                if spec.video:
                    self.result = gr.Video(label="result", interactive=False, autoplay=True, loop=True, height=420)
                else:
                    self.result = _picture("result")
            with gr.Tab("Before and after", visible=compared):
                self.slider = gr.ImageSlider(
                    label="before and after", interactive=False, format="png", max_height=420, elem_classes=["slider"]
                )
            edits = spec.slot("canvas") is not None and spec.result_kind in ("image", "mask")
            with gr.Tab("Edited region", visible=edits and not spec.video):
                self.region = _picture("edited region")
            with gr.Tab("Gallery"):
                self.gallery = gr.Gallery(
                    label="results so far",
                    interactive=False,
                    format="png",
                    columns=4,
                    height=420,
                    object_fit="contain",
                    buttons=["download", "fullscreen"],
                    elem_classes=["shown"],
                )
        self.files = gr.File(label="files", file_count="multiple", interactive=False, elem_classes=["files"])
        with gr.Accordion("What made it", open=False):
            self.report = gr.JSON(label="parameters")
        self.outputs = [self.result, self.files, self.report, self.slider, self.region, self.status]

    def progress(self, news: Progress) -> dict[Any, Any]:
        """Updates while a call runs."""
        share = "" if not news.total else f"step {news.step} of {news.total}, "
        bar = f'<progress value="{news.step}" max="{news.total}"></progress>' if news.total else "<progress></progress>"
        update: dict[Any, Any] = {self.status: status(f"{share}{news.seconds:.1f} s", bar)}
        if news.preview is not None and not self.spec.video:
            update[self.result] = news.preview
        return update

    def finished(self, outcome: Outcome, folder: Path) -> dict[Any, Any]:
        """Updates with all that came out. folder: where files may be written."""
        several = f", {len(outcome.images)} results: see Gallery" if len(outcome.images) > 1 else ""
        done = {self.report: report(outcome), self.status: status(f"done in {outcome.seconds:.2f} s{several}")}
        if outcome.video is not None:
            return done | {self.result: str(outcome.video), self.files: [str(outcome.video)]}
        stem = f"{self.spec.name}_{outcome.recipe.seed}"
        infos = png_infos(outcome.recipe, range(len(outcome.images)))
        paths = [
            str(save_png(image, folder / f"{stem}_{i}.png", info))
            for i, (image, info) in enumerate(zip(outcome.images, infos, strict=True), start=1)
        ]
        first, before = np.asarray(outcome.images[0]), canvas_of(outcome)
        return done | {
            self.result: paths[0],
            self.files: paths,
            self.slider: None if before is None else (before, first),
            self.region: None if before is None else overlay(before, region_of(self.spec, outcome, before, first)),
        }

    def ended(self, shown: str) -> tuple[Any, Any]:
        """Status and result after a call that gave none; shown: the status by then, which has a bar if it went on."""
        return (status("cancelled"), None) if "<progress" in shown else (gr.skip(), gr.skip())

    def remember(
        self, files: list[str] | None, shown: list[tuple[str, str | None]] | None
    ) -> list[tuple[str, str | None]]:
        """The gallery with new files in front."""
        return ([(file, None) for file in files or []] + list(shown or []))[:HISTORY]


def _picture(label: str) -> gr.Image:
    return gr.Image(label=label, interactive=False, format="png", height=420, buttons=["download", "fullscreen"],
                    elem_classes=["shown"])  # fmt: skip


def canvas_of(outcome: Outcome) -> np.ndarray | None:
    """What the first result was made from, uint8 (H, W, 3), if there is a frame of its size that keeps its place."""
    frames = [frame for frame in outcome.sample.inputs if frame.role is not Role.ASSET and frame.image.ndim == 3]
    original = outcome.recipe.request.canvas
    if not frames or frames[0].size != outcome.sample.results[0].size:
        return None
    same = bool(original) and original[0].shape == frames[0].image.shape
    return original[0] if same else frames[0].image  # the frame of a task that erases has a hole


def region_of(spec: TaskSpec, outcome: Outcome, before: np.ndarray, result: np.ndarray) -> np.ndarray:
    """bool (H, W): a mask that came out, the hole that was filled, what spotedit computed, or else where the pixels
    differ."""
    if spec.result_kind == "mask":
        return result.mean(axis=2) > 127
    holes = [frame for frame in outcome.sample.inputs if frame.kind == "mask"]
    if spec.paste_back and holes:
        return holes[-1].image.mean(axis=2) > 127
    if outcome.edited:
        return np.asarray(outcome.edited[0]).mean(axis=2) > 127
    return np.abs(result.astype(int) - before.astype(int)).max(axis=2) > CHANGED


def overlay(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The picture uint8 (H, W, 3), tinted in the region bool (H, W) and faded elsewhere."""
    faded = picture * 0.45 + 255 * 0.2
    return np.where(region[..., None], picture * 0.5 + TINT * 0.5, faded).astype(np.uint8)


def report(outcome: Outcome) -> dict[str, Any]:
    """What made it, in words."""
    sample, recipe = outcome.sample, outcome.recipe
    height, width = sample.results[0].size
    return {
        "task": recipe.request.task,
        "instruction": sample.instruction,
        "frames": [f"{frame.role.value}: {frame.kind}, {frame.size[1]}x{frame.size[0]}" for frame in sample.inputs],
        "size": f"{width}x{height}",
        "seconds": round(outcome.seconds, 3),
        **recipe.options(),
        **({"warnings": outcome.notices} if outcome.notices else {}),
    }


def status(text: str, bar: str = "") -> str:
    return f"<div>{bar}<span>{escape(text)}</span></div>"
