"""What a user asks for, checked and turned into a sample that the model takes; for pipeline, command line and demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from unireal.prompts import check_referring, instruction_for, join
from unireal.sample import Frame, Role, Sample
from unireal.tasks import CONTROL_KINDS, TaskSpec, get_task
from unireal.transforms import as_frame, erase, expand, mask_image, resized, threshold

MAX_SIDE = 2048  # pixels
MAX_RESULTS = 64  # of one call


@dataclass(frozen=True)
class Paste:
    """What is copied back into the first result: canvas uint8 (H, W, 3) where mask bool (H, W) is False."""

    canvas: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Request:
    """The arguments of one call, pictures as uint8 (H, W, 3).

    task:     a name in TASKS.              prompt: what the user typed.
    canvas, asset: pictures of these roles. control: (kind, picture) pairs; mask: white where to change.
    expand:   pixels to add at left, top, right, bottom. size: (H, W) of the results.
    context:  context prompt; None for the task's own. num_results: how many; None for the task's default.
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

    def assemble(self, native_size: tuple[int, int]) -> tuple[Sample, Paste | None]:
        """The sample, its results black frames of the size wanted, and what to paste back.

        native_size: (H, W) for tasks whose size is free. Raises ValueError for whatever does not fit the task.
        """
        spec = get_task(self.task)
        self._check_counts(spec)
        frames, mask = self._frames(spec)
        size = self._size(spec, frames, native_size)
        frames = [self._at_size(f, size) for f in frames]
        original = frames[0].image if frames else None
        if mask is not None and mask.shape != size:
            mask = threshold(resized(as_frame(mask_image(mask), Role.CONTROL, "mask"), size).image)
        if spec.prepare == "erase":
            frames[0] = replace(frames[0], image=erase(frames[0].image, mask))
        low, high = spec.num_results
        joint = min(self.num_results or low, high)
        kind = self.control[0][0] if self.control else None
        instruction = instruction_for(spec, self.prompt, kind)
        check_referring(instruction, len(frames), joint)
        context = spec.context if self.context is None else self.context
        join(context, instruction)  # raises for an unknown keyword
        blank = Frame(np.zeros((*size, 3), np.uint8), Role.RESULT)
        sample = Sample(spec.name, instruction, context, tuple(frames), (blank,) * joint)
        return sample, Paste(original, mask) if spec.paste_back else None

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
        }
        for option, count in given.items():
            slot = spec.slot(option)
            if slot is None and count:
                takes = ", ".join(str(s) for s in spec.slots) or "no pictures"
                raise ValueError(f"task {spec.name!r} takes no --{option}; it takes {takes}")
            if slot is not None and not slot.minimum <= count <= slot.maximum:
                wanted = f"{slot.minimum}" if slot.minimum == slot.maximum else f"{slot.minimum} to {slot.maximum}"
                raise ValueError(f"task {spec.name!r} needs {wanted} --{option}, got {count}")
        for kind, _ in self.control:
            if kind not in CONTROL_KINDS:
                raise ValueError(f"unknown control kind {kind!r}; choose from: {', '.join(CONTROL_KINDS)}")
        if (self.expand is None) == (spec.prepare == "expand"):
            need = "needs" if spec.prepare == "expand" else "takes no"
            raise ValueError(f"task {spec.name!r} {need} --expand L,T,R,B")
        if max(self.expand or (0,)) > MAX_SIDE:
            raise ValueError(f"--expand adds at most {MAX_SIDE} pixels on a side, got {self.expand}")
        limit = spec.num_results[1] if spec.num_results[1] > 1 else MAX_RESULTS
        if self.num_results is not None and not 1 <= self.num_results <= limit:
            raise ValueError(f"task {spec.name!r} gives 1 to {limit} results at once, got {self.num_results}")

    def _frames(self, spec: TaskSpec) -> tuple[list[Frame], np.ndarray | None]:
        """Input frames in the order of the task's slots, and the mask bool (H, W) of what is to change."""
        canvas, mask = list(self.canvas), None
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

    def _at_size(self, frame: Frame, size: tuple[int, int]) -> Frame:
        """Assets are shrunk to fit into a square of the results' longer side, never grown; the others get the size
        that was asked for."""
        if frame.role is not Role.ASSET:
            return resized(frame, size) if self.size else frame
        scale = max(size) / max(frame.size)
        return frame if scale >= 1 else resized(frame, tuple(max(1, round(side * scale)) for side in frame.size))

    def _size(self, spec: TaskSpec, frames: list[Frame], native_size: tuple[int, int]) -> tuple[int, int]:
        size = self.size
        if size is None and spec.size_rule == "canvas":
            size = next((f.size for f in frames if f.role is not Role.ASSET), None)
        size = size or native_size
        if min(size) < 1 or max(size) > MAX_SIDE:
            raise ValueError(
                f"results of {size[1]}x{size[0]} pixels were asked for; sides must be 1 to {MAX_SIDE}, set --size WxH"
            )
        return size
