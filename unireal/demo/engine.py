"""The model in a thread of its own: the page is there before it is loaded, and calls can be watched and stopped."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unireal.arguments import memory_errors, usable_device
from unireal.demo.limits import Limits
from unireal.metadata import Recipe, model_name, video_comment
from unireal.notices import collected
from unireal.tasks import TASKS

if TYPE_CHECKING:
    from PIL import Image

    from unireal.pipeline import UniRealPipeline
    from unireal.sample import Sample

HEARTBEAT = 0.5  # seconds after which a call that is silent gives its last word again, so that it can be stopped
PREVIEW = 0.4  # seconds between previews


class StoppedError(Exception):
    """Nobody waits for the result any more."""


@dataclass(frozen=True)
class Progress:
    """step of total is done (for a video: frames); preview: uint8 (H, W, 3) of what the first result becomes."""

    step: int
    total: int
    seconds: float
    preview: np.ndarray | None = None


@dataclass(frozen=True)
class Outcome:
    """What a call gave.

    images: all results of all variants, in order; edited: see UniRealPipelineOutput; video: the file of a video task.
    sample: what the model was given. notices: what the pipeline had to say.
    """

    recipe: Recipe
    sample: Sample
    seconds: float
    images: list[Image.Image] = field(default_factory=list)
    edited: list[Image.Image] | None = None
    video: Path | None = None
    notices: list[str] = field(default_factory=list)


class Engine:
    """model: a shipped model, a folder or a hub id. device: "auto", "cpu", "cuda", ...; dtype: "float32", ...

    Loading and calls take turns in one thread. The errors of loading are raised by whatever needs the pipeline.
    """

    def __init__(self, model: str = "unireal-tiny", device: str = "auto", dtype: str = "float32",
                 limits: Limits | None = None):  # fmt: skip
        self.model, self.device, self.dtype, self.limits = model, device, dtype, limits or Limits()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._loading: Future[UniRealPipeline] | None = None

    def start(self) -> None:
        """Begins to load the model."""
        self._loaded()

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def pipeline(self) -> UniRealPipeline:
        """Waits until it is loaded."""
        return self._loaded().result()

    def _loaded(self) -> Future[UniRealPipeline]:
        if self._loading is None:
            self._loading = self._thread.submit(self._load)
        return self._loading

    def description(self) -> str:
        """Name, device and defaults of the model; waits until it is loaded."""
        pipeline = self.pipeline()
        config, (height, width) = pipeline.config, pipeline.config.native_size
        steps = f"{config.default_steps} step" + ("s" if config.default_steps > 1 else "")
        return f"{model_name(self.model)} on {pipeline.device}, made for {width}x{height} pixels, {steps}"

    def accelerations(self) -> list[str]:
        """Names of the plug-ins."""
        from unireal.acceleration import ACCELERATIONS

        return list(ACCELERATIONS)

    def run(self, recipe: Recipe, video: str | None = None, output: Path | None = None) -> Iterator[Progress | Outcome]:
        """Progress after each step, then the outcome. Closing the iterator stops the call after the step it is in.

        video: the file that a task edits; output: where a task that makes a video writes it.
        Raises ValueError for whatever does not fit the task or the limits.
        """
        self.pipeline()
        news: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        stop = threading.Event()
        future = self._thread.submit(self._call, recipe, video, output, news.put, stop)
        future.add_done_callback(lambda _: news.put(None))
        last: Progress | None = Progress(0, 0, 0.0)
        try:
            while last is not None:
                yield last
                try:
                    last = news.get(timeout=HEARTBEAT)
                except queue.Empty:
                    last = replace(last, preview=None) if last else None
            yield future.result()
        finally:
            stop.set()
            future.cancel()

    def _load(self) -> UniRealPipeline:
        import diffusers
        import torch
        import transformers

        from unireal.pipeline import UniRealPipeline

        for library in (diffusers.utils.logging, transformers.utils.logging):
            library.disable_progress_bar()
        device = usable_device(self.device)
        with memory_errors("start the page with --dtype bfloat16 or --device cpu"):
            pipeline = UniRealPipeline.from_pretrained(self.model, dtype=getattr(torch, self.dtype)).to(device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _call(
        self,
        recipe: Recipe,
        video: str | None,
        output: Path | None,
        put: Callable[[Progress], None],
        stop: threading.Event,
    ) -> Outcome:
        from unireal.video.windows import first_window, open_clip

        pipeline, spec = self.pipeline(), TASKS[recipe.request.task]
        clip = open_clip(video)
        asked, native = first_window(recipe.request, clip), pipeline.config.native_size
        if asked.size is None:  # a photograph is refused in the page's words, not in those of the command line
            for picture in (*asked.canvas, *asked.video, *(frame for _, frame in asked.control)):
                self._check_size("picture", picture.shape[:2], max(native))
        sample, _ = asked.assemble(native)
        for frame in (*sample.inputs, *sample.results):
            self._check_size(frame.role.value, frame.size, max(native))
        watch = _Watch(put, stop, self.limits.seconds, sample)
        arguments = vars(recipe.request) | {"video": None} | recipe.sampling()
        with collected() as notices, memory_errors("ask for a smaller result, fewer frames or fewer variants"):
            if spec.video:
                assert output is not None
                self._save_video(pipeline, arguments, clip, output, watch, video_comment(recipe))
                return Outcome(recipe, sample, watch.seconds(), video=output, notices=notices)
            out = pipeline(**arguments, callback_on_step_end=watch.after_step)
        assert not isinstance(out, tuple)
        images = [image for frames in out.results for image in frames]
        return Outcome(recipe, sample, watch.seconds(), images, out.edited, notices=notices)

    def _check_size(self, what: str, size: tuple[int, ...], native: int) -> None:
        most = min(self.limits.side, self.limits.scale * native)
        if max(size) > most:
            raise ValueError(
                f"the {what} would have {size[1]}x{size[0]} pixels; with this model, the page takes up to {most} on a "
                "side: set width and height under Advanced, or give a smaller picture"
            )

    def _save_video(
        self, pipeline: UniRealPipeline, arguments: dict[str, Any], clip: Any, output: Path, watch: _Watch, comment: str
    ) -> None:
        from unireal.video.command import save_video

        pictures = arguments | {"output_type": "np"}
        total = arguments["num_frames"] or 0

        def make(source: Iterable[np.ndarray] | None) -> Iterator[np.ndarray]:
            for count, frame in enumerate(pipeline.stream(**pictures | {"video": source}), start=1):
                if count > self.limits.frames:
                    raise ValueError(f"this page makes videos of up to {self.limits.frames} frames; set their number")
                watch.tell(count, total, frame)
                yield frame

        save_video(make, output, clip, trim=arguments["num_frames"] is not None, comment=comment)


class _Watch:
    """Tells how far a call is, and ends it with an exception when it is to stop."""

    def __init__(self, put: Callable[[Progress], None], stop: threading.Event, limit: float, sample: Sample):
        self._put, self._stop, self._limit, self._size = put, stop, limit, sample.results[0].size
        self._started = time.perf_counter()
        self._shown = 0.0
        self._latents: Any = None

    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def after_step(self, pipeline: UniRealPipeline, step: int, t: float, given: dict[str, Any]) -> None:
        """callback_on_step_end of the pipeline."""
        sigmas, latents = pipeline.scheduler.sigmas, given["latents"][0][:1]
        total = pipeline.num_timesteps
        preview = None
        if self._latents is not None and step < total - 1 and self.seconds() - self._shown > PREVIEW:
            # Euler's steps are straight: the last one points at where the model sees the clean picture now
            velocity = (self._latents - latents) / (sigmas[step] - sigmas[step + 1])
            preview = self._decoded(pipeline, latents - sigmas[step + 1] * velocity)
            self._shown = self.seconds()
        self._latents = latents
        self.tell(step + 1, total, preview)

    def tell(self, step: int, total: int, preview: np.ndarray | None) -> None:
        if self._stop.is_set():
            raise StoppedError
        if self.seconds() > self._limit:
            raise ValueError(f"stopped after {self._limit} seconds; ask for fewer steps or a smaller result")
        self._put(Progress(step, total, self.seconds(), preview))

    def _decoded(self, pipeline: UniRealPipeline, latents: Any) -> np.ndarray:
        from unireal.transforms import to_image

        return to_image(pipeline.as_components().codec.decode(latents, self._size)[0])
