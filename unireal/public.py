"""Editing with public weights: infer.py runs pipelines of diffusers that edit an image by an instruction.

    python infer.py edit --model black-forest-labs/FLUX.1-Kontext-dev --dtype bfloat16 --accelerate spotedit \\
        --canvas room.png --prompt "Make the red car green." --output green.png

They work at about one megapixel, whatever the canvas's size; results are brought to the canvas's size, or to --size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from unireal.acceleration import Acceleration, accelerations
from unireal.acceleration.spotedit import SpotEdit, spot_edit
from unireal.finishing import FEATHER
from unireal.model.folder import find_model
from unireal.notices import one_line
from unireal.pipeline import UniRealPipeline, UniRealPipelineOutput
from unireal.tasks import TASKS, TaskSpec, get_task
from unireal.transforms import mask_image, paste_back, resize, threshold


def _kontext(
    pipeline: DiffusionPipeline, canvas: Image.Image, guidance: float | None, negative_prompt: str | None
) -> dict[str, Any]:
    """FLUX.1-Kontext: the size of those it was trained on whose shape is nearest; guidance is an input of the model."""
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    aspect = canvas.width / canvas.height
    _, width, height = min((abs(aspect - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
    multiple = pipeline.vae_scale_factor * 2
    width, height = width // multiple * multiple, height // multiple * multiple
    image = canvas.resize((width, height), Image.Resampling.LANCZOS)
    # with max_area, the result gets this very size, and so the canvas's tokens
    size = {"width": width, "height": height, "max_area": width * height, "_auto_resize": False}
    return {"image": image, **size} | ({} if guidance is None else {"guidance_scale": guidance})


def _qwen(
    pipeline: DiffusionPipeline, canvas: Image.Image, guidance: float | None, negative_prompt: str | None
) -> dict[str, Any]:
    """Qwen-Image-Edit: it sizes canvas and result itself; guidance takes a second pass with the negative prompt."""
    scale = {} if guidance is None else {"true_cfg_scale": guidance}
    if guidance == 1 and negative_prompt:
        raise ValueError(f"the negative prompt {negative_prompt!r} acts through guidance; give a scale above 1")
    return {"image": canvas} | scale | ({} if guidance == 1 else {"negative_prompt": negative_prompt or " "})


_UNUSED = ("context", "asset", "control", "mask", "expand", "image_guidance")


@dataclass(frozen=True)
class PublicModel:
    """pipeline: name of diffusers' class; unused: what infer.py knows and it does not.
    arguments: those of its call, from itself, a canvas, a guidance scale and a negative prompt."""

    pipeline: str
    arguments: Callable[[DiffusionPipeline, Image.Image, float | None, str | None], dict[str, Any]]
    unused: tuple[str, ...] = _UNUSED

    def check(self, task: str, request: Mapping[str, Any], plugins: Sequence[Acceleration]) -> None:
        """Raises ValueError for what such a model does not take: before its weights are loaded."""
        if not _edits(get_task(task)):
            able = ", ".join(name for name, spec in TASKS.items() if _edits(spec))
            raise ValueError(f"a {self.pipeline} edits one image by an instruction: task {task!r} is none of: {able}")
        for name in self.unused:
            value = request.get(name)
            if value is not None and np.size(value):
                raise ValueError(f"a {self.pipeline} takes no --{name.replace('_', '-')}; leave it out")
        for plugin in plugins:
            if type(plugin).tokens is Acceleration.tokens:
                raise ValueError(f"acceleration {plugin.name!r} needs a UniReal model; use spotedit here")

    def from_pretrained(self, model: str | Path, dtype: torch.dtype = torch.float32) -> PublicPipeline:
        """Loads the pipeline from a folder or hub id; safetensors only. Raises OSError if it is not complete."""
        loaded = getattr(diffusers, self.pipeline).from_pretrained(str(model), use_safetensors=True, dtype=dtype)
        return PublicPipeline(self, loaded)


PUBLIC_MODELS: dict[str, PublicModel] = {
    model.pipeline: model
    for model in (
        PublicModel("FluxKontextPipeline", _kontext, (*_UNUSED, "negative_prompt")),
        PublicModel("QwenImageEditPipeline", _qwen),
        PublicModel("QwenImageEditPlusPipeline", _qwen),
    )
}


def public_model(name: str | Path) -> PublicModel | None:
    """Which public model a folder or hub id holds, by its model_index.json; None for one of UniReal's, or none at all.

    Raises ValueError for another pipeline of diffusers.
    """
    try:
        kind = DiffusionPipeline.load_config(find_model(name, hub=True).as_posix()).get("_class_name", "")
    except (OSError, ValueError, AttributeError):  # UniRealPipeline.from_pretrained says what is wrong with it
        return None
    if kind not in PUBLIC_MODELS and kind != UniRealPipeline.__name__ and hasattr(diffusers, str(kind)):
        known = ", ".join([UniRealPipeline.__name__, *PUBLIC_MODELS])
        raise ValueError(f"model {str(name)!r} is a {kind}, which cannot be run here; these can: {known}")
    return PUBLIC_MODELS.get(kind)


class PublicPipeline:
    """A public pipeline that is called as UniRealPipeline is."""

    def __init__(self, model: PublicModel, pipeline: DiffusionPipeline):
        self.model, self.pipeline = model, pipeline
        parameters = inspect.signature(type(pipeline).__call__).parameters
        self.config = SimpleNamespace(default_steps=parameters["num_inference_steps"].default)

    def to(self, device: str) -> PublicPipeline:
        self.pipeline.to(device)
        return self

    def enable_model_cpu_offload(self, device: str) -> None:
        self.pipeline.enable_model_cpu_offload(device=device)

    def set_progress_bar_config(self, **options: Any) -> None:
        self.pipeline.set_progress_bar_config(**options)

    def load_lora_weights(self, folder: str | Path) -> None:
        """Puts an adapter for this pipeline on it; safetensors only. Raises ValueError if it cannot be had."""
        try:
            self.pipeline.load_lora_weights(str(folder), use_safetensors=True)
        except Exception as error:  # the hub's client raises errors of many kinds
            told = f"adapter {str(folder)!r} cannot be loaded ({one_line(error)})"
            raise ValueError(f"{told}; give a folder or hub id of one for a {self.model.pipeline}") from error

    def __call__(
        self,
        prompt: str,
        task: str = "edit",
        canvas: Sequence[np.ndarray] = (),
        size: tuple[int, int] | None = None,
        num_results: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        generator: torch.Generator | None = None,
        accelerate: str | Acceleration | Sequence[str | Acceleration] = (),
        **others: Any,
    ) -> UniRealPipelineOutput:
        """Arguments as UniRealPipeline's; canvas: one picture uint8 (H, W, 3). Raises ValueError for what this model
        does not take."""
        from unireal.acceleration.public import accelerated  # imports the public transformers

        plugins = accelerations(accelerate)
        others |= {"image_guidance": image_guidance_scale, "negative_prompt": negative_prompt}
        self.model.check(task, others, plugins)
        if len(canvas) != 1:
            raise ValueError(f"a {self.model.pipeline} edits one canvas, got {len(canvas)}")
        source, count = canvas[0] if size is None else resize(canvas[0], size), num_results or 1
        arguments = self.model.arguments(self.pipeline, Image.fromarray(source), guidance_scale, negative_prompt)
        arguments |= {"prompt": prompt, "generator": generator, "num_images_per_prompt": count}
        if num_inference_steps is not None:
            arguments["num_inference_steps"] = num_inference_steps
        with accelerated(self.pipeline, plugins):
            images = self.pipeline(**arguments).images
        return self._at_size(images, source, spot_edit(plugins))

    def _at_size(self, images: list[Image.Image], canvas: np.ndarray, spot: SpotEdit | None) -> UniRealPipelineOutput:
        """Results, and where they were computed, at the canvas's size."""
        size, regions = canvas.shape[:2], None
        results = [resize(np.asarray(image), size) for image in images]
        if spot is not None:
            worked = images[0].size[::-1]
            regions = spot.regions(len(images), worked, 2 * self.pipeline.vae_scale_factor)
            regions = [resize(mask_image(region), size, "mask") for region in regions]
            if spot.paste:
                pairs = zip(results, regions, strict=True)
                results = [paste_back(image, canvas, threshold(region), FEATHER) for image, region in pairs]
        pictures = [Image.fromarray(image) for image in results]
        edited = None if regions is None else [Image.fromarray(region) for region in regions]
        return UniRealPipelineOutput(images=pictures, results=[[picture] for picture in pictures], edited=edited)


def _edits(spec: TaskSpec) -> bool:
    """Whether a task is to edit one image by an instruction."""
    plain = spec.result_kind == "image" and not spec.paste_back
    return plain and len(spec.slots) == 1 and spec.slot("canvas") is not None and spec.slots[0].maximum == 1
