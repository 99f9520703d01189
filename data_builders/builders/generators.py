"""What makes the edited half of a video pair: an image editor, a video generator, a refiner (Ditto, sections 3.3, 3.4).

Each is a small protocol with one implementation over a pipeline of diffusers, given as a folder or hub id. Pictures are
uint8 (H, W, 3) RGB, videos lists of them; answers have the size and number of the frames that were given, as far as the
model can make them, and follow from the seed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from PIL import Image

from data_builders.annotators.choose import Part
from data_builders.annotators.placing import Devices
from data_builders.annotators.protocols import Annotators
from data_builders.annotators.weights import on_device
from data_builders.errors import one_line
from data_builders.frames import grey

_SHIFTS = (3.0, 5.0)  # of the times, as Wan's authors have them for 832x480 and for 1280x720 pixels
_SMALL = 832 * 480


class ImageEditor(Protocol):
    name: str

    def edit(self, image: np.ndarray, instruction: str, seed: int) -> np.ndarray:
        """The picture, uint8 (H, W, 3), as the instruction asks for it."""


class VideoGenerator(Protocol):
    name: str

    def generate(self, depth: Sequence[np.ndarray], key: np.ndarray, instruction: str, seed: int) -> list[np.ndarray]:
        """A video that moves like depth, and looks like the key frame, uint8 (H, W, 3).

        depth: T times uint16 (H, W), 0 near, on one scale for the whole clip. The video may have fewer frames.
        """


class Refiner(Protocol):
    name: str

    def refine(self, frames: Sequence[np.ndarray], instruction: str, seed: int) -> list[np.ndarray]:
        """The same video, cleaner. It may have fewer frames."""


@dataclass(frozen=True)
class Studio(Annotators):
    """Annotators, and what makes videos."""

    editor: ImageEditor | None = None
    generator: VideoGenerator | None = None
    refiner: Refiner | None = None


class DiffusersEditor:
    """Any pipeline of diffusers that takes image and prompt: Qwen-Image-Edit, FLUX.1 Kontext, InstructPix2Pix, ..."""

    def __init__(self, pipeline: Any, name: str, steps: int | None = None):
        self.pipeline, self.name, self.steps = pipeline, name, steps

    @classmethod
    def from_pretrained(cls, source: str, device: str = "cpu", **rest: Any) -> DiffusersEditor:
        from diffusers import DiffusionPipeline

        return cls(_load(DiffusionPipeline, source, device), source, **rest)

    def edit(self, image: np.ndarray, instruction: str, seed: int) -> np.ndarray:
        given = self._given(image) | {"prompt": instruction, "generator": _generator(seed), "output_type": "pil"}
        if self.steps is not None:
            given["num_inference_steps"] = self.steps
        made = self.pipeline(**given)
        return _resized([np.asarray(made.images[0].convert("RGB"))], image.shape[:2])[0]

    def _given(self, image: np.ndarray) -> dict[str, Any]:
        """The picture as the pipeline takes it, and what it needs beside, as infer.py gives it (unireal.public)."""
        known = inspect.signature(self.pipeline.__call__).parameters
        height, width = _multiple(image.shape[:2], 16)
        given: dict[str, Any] = {}
        if "max_area" in known:  # FLUX.1 Kontext, which makes squares unless it is told a size
            from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS as TRAINED

            aspect = image.shape[1] / image.shape[0]
            _, width, height = min((abs(aspect - w / h), w, h) for w, h in TRAINED)
            given = {"width": width, "height": height, "max_area": width * height, "_auto_resize": False}
        elif "true_cfg_scale" in known:  # Qwen-Image-Edit, which is not guided without a negative prompt
            given = {"negative_prompt": " "}
        return {"image": Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)} | given


class WanGenerator:
    """VACE: in-context generation from a depth video and a reference image (WanVACEPipeline)."""

    def __init__(self, pipeline: Any, name: str, steps: int = 30, guidance: float = 5.0):
        self.pipeline, self.name, self.steps, self.guidance = pipeline, name, steps, guidance

    @classmethod
    def from_pretrained(cls, source: str, device: str = "cpu", **rest: Any) -> WanGenerator:
        from diffusers import WanVACEPipeline

        return cls(_load(WanVACEPipeline, source, device, dtype=_wan_dtypes(device)), source, **rest)

    def generate(self, depth: Sequence[np.ndarray], key: np.ndarray, instruction: str, seed: int) -> list[np.ndarray]:
        frames, size = _wan_video(vace_depth(depth), self.pipeline)
        self._shift_times(size)
        reference = _resized([key], size)[0]
        made = self.pipeline(
            video=frames,
            mask=[Image.new("L", (size[1], size[0]), 255)] * len(frames),
            reference_images=[Image.fromarray(reference)],
            prompt=instruction,
            height=size[0],
            width=size[1],
            num_frames=len(frames),
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=_generator(seed),
            output_type="np",
        )
        return _resized(_to_bytes(made.frames[0]), key.shape[:2])

    def _shift_times(self, size: tuple[int, int]) -> None:
        """What is stored with Wan's weights is meant for 832x480 pixels; larger ones take more of the noisy times."""
        scheduler, shift = self.pipeline.scheduler, _SHIFTS[size[0] * size[1] > _SMALL]
        if scheduler.config.get("flow_shift") in _SHIFTS:
            self.pipeline.scheduler = scheduler.from_config(scheduler.config, flow_shift=shift)


def vace_depth(depth: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Depth as VACE's control video shows it: T times uint8 (H, W, 3), white the nearest pixel, black the farthest.

    depth: T times uint16 (H, W), 0 near, 65535 far, all on one scale (DepthEstimator.depths).
    VACE's annotators (MiDaS, Depth Anything V2) draw inverse distance, stretched from black to white. They stretch each
    frame by itself, so that what keeps its place changes its grey as soon as something else comes nearer; here the clip
    is stretched as a whole, which does not flicker. Of a relative model the grey levels follow inverse distance as
    VACE's do; of a metric one, and of the procedural world, they follow distance, in the same order.
    """
    nearest, farthest = min(int(d.min()) for d in depth), max(int(d.max()) for d in depth)
    span = (farthest - nearest) or 1
    return [grey(((farthest - d.astype(np.float64)) / span * 255).astype(np.uint8)) for d in depth]


class WanRefiner:
    """A little noise and few steps back, with the expert for low noise where there are two (WanVideoToVideoPipeline).

    noise: share of noise that is added, above 0 and below 0.15, as in Ditto; steps: in which it is removed.
    """

    def __init__(self, pipeline: Any, name: str, noise: float = 0.14, steps: int = 4):
        if not 0 < noise < 0.15 or steps < 2:
            raise ValueError(
                f"refinement takes noise above 0 and below 0.15, and steps from 2, got {noise} and {steps}"
            )
        from diffusers import FlowMatchEulerDiscreteScheduler

        # Without a shift the times are evenly spaced, so that the share of noise follows from how many are left out.
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        self.pipeline, self.name, self.noise, self.steps = pipeline, name, noise, steps

    @classmethod
    def from_pretrained(cls, source: str, device: str = "cpu", **rest: Any) -> WanRefiner:
        from diffusers import WanVideoToVideoPipeline

        expert = _expert_for_low_noise(source, device)
        return cls(_load(WanVideoToVideoPipeline, source, device, dtype=_wan_dtypes(device), **expert), source, **rest)

    def refine(self, frames: Sequence[np.ndarray], instruction: str, seed: int) -> list[np.ndarray]:
        given, size = _wan_video(frames, self.pipeline)
        total = 1 + math.ceil((self.steps - 1) / self.noise)  # the last `steps` of them begin at `noise` or below
        made = self.pipeline(
            video=given,
            prompt=instruction,
            height=size[0],
            width=size[1],
            num_inference_steps=total,
            strength=(self.steps + 0.5) / total,  # the pipeline rounds down to `steps` of them
            guidance_scale=1.0,
            generator=_generator(seed),
            output_type="np",
        )
        return _resized(_to_bytes(made.frames[0]), frames[0].shape[:2])


def _check(source: str) -> None:
    """Raises ValueError if there is no pipeline. Its weights are left alone."""
    from diffusers import DiffusionPipeline

    with _told(source):
        DiffusionPipeline.load_config(source)


GENERATORS: dict[str, Part] = {
    "editor": Part(
        "edits the key frame, any pipeline of diffusers that takes image and prompt",
        "Qwen/Qwen-Image-Edit-2511",
        DiffusersEditor.from_pretrained,
        _check,
    ),
    "generator": Part(
        "makes the video from depth and key frame, a WanVACEPipeline",
        "Wan-AI/Wan2.1-VACE-14B-diffusers",
        WanGenerator.from_pretrained,
        _check,
    ),
    "refiner": Part(
        "removes small artefacts, a Wan pipeline from text to video",
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        WanRefiner.from_pretrained,
        _check,
    ),
}


def load_studio(annotators: Annotators, specs: dict[str, str], devices: Devices | None = None) -> Studio:
    """The annotators and the generators that the specs name. Raises ValueError if one cannot be loaded."""
    devices = devices or Devices()
    made = {part: GENERATORS[part].load(spec, devices.of(part)) for part, spec in specs.items()}
    return Studio(**vars(annotators), **made)


def _load(kind: Any, source: str, device: str, **parts: Any) -> Any:
    with _told(source):
        pipeline = kind.from_pretrained(source, **({"dtype": _dtype(device), "use_safetensors": True} | parts))
    pipeline.set_progress_bar_config(disable=True)
    return on_device(pipeline, device)


def _expert_for_low_noise(source: str, device: str) -> dict[str, Any]:
    """Wan2.2's, as `transformer`; nothing where there is but one transformer."""
    from diffusers import WanTransformer3DModel, WanVideoToVideoPipeline

    with _told(source):
        parts = WanVideoToVideoPipeline.load_config(source)
        if parts.get("transformer_2", [None])[0] is None:
            return {}
        given = {"subfolder": "transformer_2", "dtype": _dtype(device), "use_safetensors": True}
        return {"transformer": WanTransformer3DModel.from_pretrained(source, **given)}


@contextmanager
def _told(source: str) -> Iterator[None]:
    """What goes wrong while something is loaded, as a ValueError."""
    from safetensors import SafetensorError

    try:
        yield
    # RuntimeError for weights of other shapes, SafetensorError for a file that is cut off
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"cannot load {source!r} ({one_line(error)}); give a folder or hub id of diffusers") from error


def _dtype(device: str) -> Any:
    import torch

    return torch.float32 if device == "cpu" else torch.bfloat16


def _wan_dtypes(device: str) -> Any:
    """Wan's VAE stays in 32 bits, as its authors run it."""
    import torch

    return {"default": _dtype(device), "vae": torch.float32}


def _generator(seed: int) -> Any:
    import torch

    return torch.Generator("cpu").manual_seed(seed)


def _multiple(size: tuple[int, int], of: int) -> tuple[int, int]:
    height, width = (max(of, round(side / of) * of) for side in size)
    return height, width


def _wan_video(frames: Sequence[np.ndarray], pipeline: Any) -> tuple[list[Image.Image], tuple[int, int]]:
    """The first 4 k + 1 frames at a size that Wan takes, and that size (height, width)."""
    step = pipeline.vae_scale_factor_temporal
    count = (len(frames) - 1) // step * step + 1
    size = _multiple(frames[0].shape[:2], pipeline.vae_scale_factor_spatial * pipeline.transformer.config.patch_size[1])
    return [Image.fromarray(image) for image in _resized(frames[:count], size)], size


def _resized(images: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    resize = partial(Image.Image.resize, size=(size[1], size[0]), resample=Image.Resampling.LANCZOS)
    return [i if i.shape[:2] == tuple(size) else np.asarray(resize(Image.fromarray(i))) for i in images]


def _to_bytes(video: np.ndarray) -> list[np.ndarray]:
    """float (T, H, W, 3) in 0..1 as uint8."""
    return list((np.clip(np.nan_to_num(video), 0, 1) * 255 + 0.5).astype(np.uint8))
