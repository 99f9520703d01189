"""Videos of any length, window by window: the model sees a few frames at a time, and so does memory.

Editing: a window has the length that the model was trained on, which the shipped one edits better than longer ones. It
begins with the frame at which the last one ended. How that frame came out is given to the model as the edited first
frame, the reference it is trained with, so the look goes on; the frame itself is made twice and mixed, which hides
what difference is left. (Pasting the known frame into the noisy latents, the usual other way, does
nothing in a sampler of a single step, which the shipped model uses.)

Generation: a window goes on from the last frame that was made, which is its canvas, as it is when a video is made from
a picture. Each window is made of what the model made before, and so loses a little: windows are as few, and so as long,
as the task allows. (At frame 16, still parts of 48 held-out scenes then have 26.2 dB instead of 24.6 with the shipped
model. The first frame as an additional reference makes it try to change what should stay; the same noise in all windows
does nothing.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from unireal.request import Request, tell_if_large
from unireal.sample import Sample
from unireal.tasks import get_task
from unireal.transforms import load_image
from unireal.video.files import VideoFile

OVERLAP = 1  # frames that two windows share
Interrupted = Callable[[], bool]
Generate = Callable[[Sample], list[np.ndarray]]  # a window -> its results, uint8 (H, W, 3)


def window_length(request: Request) -> int:
    """How many frames are made at a time."""
    return request.num_results or get_task(request.task).num_results[0]


def open_clip(video: str | Path | Iterable[Any] | None) -> Iterable[np.ndarray] | None:
    """The frames of a path, or of pictures, as uint8 (H, W, 3), when they are asked for.

    Raises ValueError for what is no video and, when they come, for frames that are no pictures or not of one
    size.
    """
    if isinstance(video, str | Path):
        return VideoFile(video)
    if video is not None and not isinstance(video, Iterable):
        raise ValueError(f"a video is the path of a file or a list of pictures, got a {type(video).__name__}")
    return None if video is None else _of_one_size(video)


def _of_one_size(pictures: Iterable[Any]) -> Iterator[np.ndarray]:
    size = None
    for number, picture in enumerate(pictures, start=1):
        image = load_image(picture, f"frame {number}")
        size = size or image.shape[:2]
        if image.shape[:2] != size:
            given = f"frame {number} has {image.shape[1]}x{image.shape[0]} pixels, the first {size[1]}x{size[0]}"
            raise ValueError(f"the frames of a video have one size, but {given}; resize them")
        yield image


def first_window(request: Request, clip: Iterable[np.ndarray] | None) -> Request:
    """The request with the first frames of the clip, to be checked before a model is loaded."""
    if clip is None:
        return request
    length = window_length(request)
    return replace(request, video=_filled(list(islice(clip, length)), length))


def video_frames(
    request: Request,
    clip: Iterable[np.ndarray] | None,
    native_size: tuple[int, int],
    generate: Generate,
    interrupted: Interrupted = lambda: False,
) -> Iterator[np.ndarray]:
    """The frames of the result, uint8 (H, W, 3), as they are made.

    request: of a task whose results are videos. clip: the frames to edit, uint8 (H, W, 3), for a task that takes some;
    request.num_frames is how many of them. Without clip it is the number of frames of the result, the canvas included.
    generate: makes the results of a window. interrupted: asked after every window whether it was the last one.
    Raises ValueError for whatever does not fit the task.
    """
    takes_clip = any(slot.clip for slot in get_task(request.task).slots)
    if clip is not None or takes_clip:
        yield from _edited(request, islice(clip or (), request.num_frames), native_size, generate, interrupted)
    else:
        yield from _continued(request, native_size, generate, interrupted)


def _edited(
    request: Request,
    clip: Iterator[np.ndarray],
    native_size: tuple[int, int],
    generate: Generate,
    interrupted: Interrupted,
) -> Iterator[np.ndarray]:
    """The last OVERLAP results of a window are held back until the next window has made them too.

    A clip shorter than a window, of one frame even, stays at its last frame until the window is full.
    """
    length = window_length(request)
    scaffold = next((slot.option for slot in get_task(request.task).slots if slot.scaffold), None)
    sources = list(islice(clip, length))
    first, _ = replace(request, video=_filled(sources, length)).assemble(native_size)
    tell_if_large(first, native_size)
    results = generate(first)[: len(sources)]
    yield from results[:-OVERLAP]
    while not interrupted() and (coming := list(islice(clip, length - OVERLAP))):
        known = length - len(coming)  # more than OVERLAP in the last window, which is as long as the others
        sources = sources[-known:] + coming
        reference: dict[str, Any] = {} if scaffold is None else {scaffold: (results[-known],)}
        sample, _ = replace(request, video=sources, **reference).assemble(native_size)
        made = generate(sample)
        mixed = _mixed(results[-OVERLAP:], made[known - OVERLAP : known])
        results = results[-known:-OVERLAP] + mixed + made[known:]
        yield from results[known - OVERLAP : -OVERLAP]
    yield from results[-OVERLAP:]


def _continued(
    request: Request, native_size: tuple[int, int], generate: Generate, interrupted: Interrupted
) -> Iterator[np.ndarray]:
    total = request.num_frames or window_length(request) + len(request.canvas)
    if request.num_results is None:
        request = replace(request, num_results=_even_length(request, total - len(request.canvas)))
    count = 0
    while count < total:
        sample, _ = request.assemble(native_size)
        given: list[np.ndarray] = []
        if count == 0:
            tell_if_large(sample, native_size)
            given = [frame.image for frame in sample.inputs]
        frames = [*given, *generate(sample)]
        yield from frames[: total - count]
        count += len(frames)
        request = replace(request, canvas=frames[-1:])
        if interrupted():
            return


def _even_length(request: Request, frames: int) -> int:
    """Of windows that make so many frames, as few as the task allows and all of one length."""
    least, most = get_task(request.task).num_results
    return max(least, ceil(frames / ceil(frames / most)))


def _filled(frames: list[np.ndarray], length: int) -> list[np.ndarray]:
    """The last frame stays until the window is full."""
    return frames + frames[-1:] * (length - len(frames))


def _mixed(old: list[np.ndarray], new: list[np.ndarray]) -> list[np.ndarray]:
    """A linear cross-fade, frame by frame, from one window to the next."""
    shares = np.linspace(0, 1, len(old) + 2)[1:-1]
    pairs = zip(old, new, shares, strict=True)
    return [((1 - share) * a + share * b + 0.5).astype(np.uint8) for a, b, share in pairs]
