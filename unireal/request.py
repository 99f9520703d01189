"""What a user asks for, checked and turned into a sample that the model takes; for pipeline, command line and demo."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from unireal.prompts import check_referring, instruction_for, join
from unireal.sample import Frame, Role, Sample
from unireal.tasks import CONTROL_KINDS, TASKS, TaskSpec, get_task
from unireal.transforms import (
    as_frame,
    continued,
    erase,
    expand,
    load_image,
    mask_image,
    resize_around,
    resized,
    threshold,
)

MAX_SIDE = 2048  # pixels
MAX_RESULTS = 64  # of one call
FAR = 4  # times the longer side that a model was made for: beyond, results are blurred, and slow on a CPU

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paste:
    """What is copied back into the first result: canvas uint8 (H, W, 3) where mask bool (H, W) is False, and fading out
    over its border pixels (unireal.finishing.FEATHER)."""

    canvas: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Request:
    """The arguments of one call, pictures as uint8 (H, W, 3).

    task:     a name in TASKS.              prompt: what the user typed.
    canvas, asset: pictures of these roles. control: (kind, picture) pairs; mask: white where to change.
    expand:   pixels to add at left, top, right, bottom. size: (H, W) of the results.
    context:  context prompt; None for the task's own. num_results: how many; None for the task's default.
    video:    the frames of one window of a video. num_frames: of the whole video that comes out, None for the usual.
    """

    task: str
    prompt: str = ""
    canvas: Sequence[np.ndarray] = ()
    asset: Sequence[np.ndarray] = ()
    control: Sequence[tuple[str, np.ndarray]] = ()
    mask: np.ndarray | None = None
    expand: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None
    context: str | None = None
    num_results: int | None = None
    video: Sequence[np.ndarray] = ()
    num_frames: int | None = None

    @classmethod
    def load(cls, canvas: Any = None, asset: Any = None, control: Any = None, mask: Any = None, **others: Any) -> Self:
        """A request whose pictures are paths, PIL images or arrays, one or a list of them; control: pairs or a dict.

        Raises ValueError for what cannot be read as a picture, and for arguments of another type.
        """
        if not isinstance(others.get("task", ""), str):
            raise ValueError(f"task is a name such as 'edit', got {_type(others['task'])}; give pictures as canvas=")
        for name, count in (("size", 2), ("expand", 4)):
            given = others.get(name)
            if given is not None and not _whole_numbers(given, count):
                what = "(height, width)" if count == 2 else "(left, top, right, bottom)"
                raise ValueError(f"{name} is {what} in whole pixels, got {given!r}")
        controls = list(control.items()) if isinstance(control, dict) else _as_list(control)
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in controls):
            kinds = ", ".join(CONTROL_KINDS)
            raise ValueError(f"control is (kind, picture) pairs or a dict {{kind: picture}}; kinds: {kinds}")
        return cls(
            canvas=[load_image(picture, "canvas") for picture in _as_list(canvas)],
            asset=[load_image(picture, "asset") for picture in _as_list(asset)],
            control=[(kind, load_image(picture, f"{kind} control", kind)) for kind, picture in controls],
            mask=None if mask is None else load_image(mask, "mask", "mask"),
            **others,
        )

    def assemble(self, native_size: tuple[int, int], asset_scale: float = 1.0) -> tuple[Sample, Paste | None]:
        """The sample, its results black frames of the size wanted, and what to paste back.

        native_size: (H, W) for tasks whose size is free. asset_scale: sides of assets, at most, as a share of the
        results' longer side. Raises ValueError for whatever does not fit the task.
        """
        spec = get_task(self.task)
        self._check_texts()
        self._check_numbers(spec)
        self._check_counts(spec)
        frames, mask = self._frames(spec)
        size = self._size(spec, frames, native_size)
        if spec.prepare == "erase" and mask is not None and frames[0].size != size:
            frames[0] = replace(frames[0], image=resize_around(frames[0].image, mask, size))
        frames = [self._at_size(f, size, asset_scale) for f in frames]
        original = frames[0].image if frames else None
        if mask is not None and mask.shape != size:
            mask = threshold(resized(as_frame(mask_image(mask), Role.CONTROL, "mask"), size).image)
        if spec.prepare is not None and mask is not None:
            frames[0] = replace(frames[0], image=erase(frames[0].image, mask))
        low, high = spec.num_results
        joint = len(self.video) or min(self.num_results or low, high)
        kind = self.control[0][0] if self.control else None
        instruction = instruction_for(spec, self.prompt, kind)
        check_referring(instruction, len(frames), joint)
        context = spec.context if self.context is None else self.context
        join(context, instruction)  # raises for an unknown keyword
        blank = Frame(np.zeros((*size, 3), np.uint8), Role.RESULT)
        sample = Sample(spec.name, instruction, context, tuple(frames), (blank,) * joint)
        if not spec.paste_back or original is None or mask is None:
            return sample, None
        return sample, Paste(original if spec.prepare is None else continued(original, mask), mask)

    @property
    def variants(self) -> int:
        """How many independent samples are drawn: the results that the task does not generate jointly."""
        spec = get_task(self.task)
        count = spec.num_results[0] if self.num_results is None else self.num_results
        return count if spec.num_results[1] == 1 else 1

    def _check_counts(self, spec: TaskSpec) -> None:
        given = {
            "canvas": len(self.canvas),
            "asset": len(self.asset),
            "control": len(self.control),
            "mask": int(self.mask is not None),
            "video": len(self.video),
        }
        unwanted = next((option for option, count in given.items() if count and spec.slot(option) is None), None)
        if unwanted is not None:
            takes = ", ".join(str(s) for s in spec.slots) or "no pictures"
            others = ", ".join(name for name, task in TASKS.items() if task.slot(unwanted))
            raise ValueError(f"task {spec.name!r} takes no --{unwanted}; it takes {takes}; tasks that do: {others}")
        for slot in spec.slots:
            count = given.get(slot.option, 0)
            if slot.clip and not count:
                raise ValueError(f"task {spec.name!r} needs a video; give it as --{slot.option}")
            if not slot.minimum <= count <= slot.maximum:
                wanted = f"{slot.minimum}" if slot.minimum == slot.maximum else f"{slot.minimum} to {slot.maximum}"
                change = f"{slot.minimum - count} more" if count < slot.minimum else f"{count - slot.maximum} fewer"
                raise ValueError(f"task {spec.name!r} needs {wanted} --{slot.option}, got {count}; give {change}")
        for kind, _ in self.control:
            if kind not in CONTROL_KINDS:
                raise ValueError(f"unknown control kind {kind!r}; choose from: {', '.join(CONTROL_KINDS)}")
        if (self.expand is None) == (spec.prepare == "expand"):
            need = "needs" if spec.prepare == "expand" else "takes no"
            raise ValueError(f"task {spec.name!r} {need} --expand L,T,R,B")
        if max(self.expand or (0,)) > MAX_SIDE:
            raise ValueError(f"--expand adds at most {MAX_SIDE} pixels on a side, got {self.expand}")

    def _check_texts(self) -> None:
        for name, text in (("prompt", self.prompt), ("context", "" if self.context is None else self.context)):
            if not isinstance(text, str):
                raise ValueError(f"{name} is a text, got {_type(text)}")
            if not _is_unicode(text):
                raise ValueError(f"the {name} is not valid UTF-8 text; type it anew")

    def _check_numbers(self, spec: TaskSpec) -> None:
        for name, number in (("num_results", self.num_results), ("num_frames", self.num_frames)):
            if number is not None and not isinstance(number, int | np.integer):
                raise ValueError(f"{name} is a whole number, got {number!r}")
        least, most = spec.num_results if spec.num_results[1] > 1 else (1, MAX_RESULTS)
        if self.num_results is not None and not least <= self.num_results <= most:
            raise ValueError(f"task {spec.name!r} gives {least} to {most} results at once, got {self.num_results}")
        if self.num_frames is not None and not spec.video:
            raise ValueError(f"task {spec.name!r} makes pictures, no video; leave --num-frames out")
        if self.num_frames is not None and self.num_frames < 2:
            raise ValueError(f"a video has at least 2 frames, got --num-frames {self.num_frames}; ask for more")

    def _frames(self, spec: TaskSpec) -> tuple[list[Frame], np.ndarray | None]:
        """Input frames in the order of the task's slots, and the mask bool (H, W) of what is to change."""
        canvas, mask = [*self.canvas, *self.video], None
        if self.mask is not None:
            mask = threshold(self.mask)
            if canvas and mask.shape != canvas[0].shape[:2]:
                raise ValueError(
                    f"the mask has {mask.shape[1]}x{mask.shape[0]} pixels, the canvas "
                    f"{canvas[0].shape[1]}x{canvas[0].shape[0]}; give a mask of the canvas's size"
                )
            if not mask.any():
                raise ValueError("the mask is black everywhere, so nothing would change; paint white what is to change")
        if self.expand is not None:
            canvas[0], mask = expand(canvas[0], self.expand)
        frames = [as_frame(image, Role.CANVAS) for image in canvas]
        frames += [as_frame(image, Role.ASSET) for image in self.asset]
        frames += [as_frame(image, Role.CONTROL, kind) for kind, image in self.control]
        if mask is not None:
            frames.append(as_frame(mask_image(mask), Role.CONTROL, "mask"))
        return frames, mask

    def _at_size(self, frame: Frame, size: tuple[int, int], asset_scale: float) -> Frame:
        """Assets are shrunk to fit into a square, never grown; the others get the size that was asked for."""
        if frame.role is not Role.ASSET:
            return resized(frame, size) if self.size else frame
        scale = asset_scale * max(size) / max(frame.size)
        height, width = (max(1, round(side * scale)) for side in frame.size)
        return frame if scale >= 1 else resized(frame, (height, width))

    def _size(self, spec: TaskSpec, frames: list[Frame], native_size: tuple[int, int]) -> tuple[int, int]:
        size = self.size
        if size is None and spec.size_rule == "canvas":
            size = next((f.size for f in frames if f.role is not Role.ASSET), None)
        return check_size(size or native_size)


def prompts_of(prompt: str | list[str] | tuple[str, ...] | None) -> list[str]:
    """The prompts of a batch; None is an empty one. Raises ValueError for an empty list."""
    if prompts := list(prompt) if isinstance(prompt, list | tuple) else [prompt or ""]:
        return prompts
    raise ValueError("the list of prompts is empty; give one at least, which may be an empty text")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _whole_numbers(values: Any, count: int) -> bool:
    whole = isinstance(values, Sequence) and all(isinstance(value, int | np.integer) for value in values)
    return whole and len(values) == count


def _is_unicode(text: str) -> bool:
    """Python keeps bytes of a command line that are not UTF-8 as halves of characters, which tokenizers refuse."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _type(value: Any) -> str:
    return type(value).__name__


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size (H, W) of results. Raises ValueError if a side is below 1 or above MAX_SIDE."""
    if min(size) < 1 or max(size) > MAX_SIDE:
        raise ValueError(
            f"results of {size[1]}x{size[0]} pixels were asked for; sides must be 1 to {MAX_SIDE}, set --size WxH"
        )
    return size


def tell_if_large(sample: Sample, native_size: tuple[int, int]) -> None:
    """Logs a warning for results more than FAR times as large as what a model was made for, native_size (H, W)."""
    size, native = sample.results[0].size, max(native_size)
    if max(size) <= FAR * native:
        return
    fitting = (max(1, round(side * native / max(size))) for side in size)
    given, made_for, better = (f"{width}x{height}" for height, width in (size, native_size, fitting))
    told = f"results of {given} pixels are far larger than the {made_for} that this model was made for"
    _log.warning("%s: they take long and may be blurred; a size such as %s suits it better", told, better)
