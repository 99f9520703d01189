"""What makes the pictures: what infer.py runs, any other editing pipeline of diffusers, or the copy baseline."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from unireal.arguments import placed
from unireal.evaluation.pictures import resize_bicubic
from unireal.evaluation.results import Item
from unireal.model.folder import find_model, fingerprint, model_path
from unireal.notices import one_line
from unireal.sample import Role
from unireal.tasks import TASKS

OURS = "UniRealPipeline"


class Model(Protocol):
    """settings: what is recorded with the results."""

    settings: dict[str, Any]

    def __call__(self, item: Item, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        """The output, uint8 (H, W, 3), or one for each frame of the item's video.

        inputs: the item's inputs, or the frames of its video. Raises ValueError for what the model cannot do.
        """
        ...


@dataclass
class Copy:
    """Returns its input: what a score is worth."""

    settings: dict[str, Any] = field(default_factory=lambda: {"baseline": "copy"})

    def __call__(self, item: Item, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        if not inputs:
            raise ValueError("there is no input to copy")
        return list(inputs[: item.frames])


@dataclass
class UniReal:
    """This project's pipeline, which is asked to edit a video of a single frame as a picture.

    options: num_inference_steps, guidance_scale, ... of the call.
    """

    pipeline: Any
    settings: dict[str, Any]
    options: dict[str, Any]

    def __call__(self, item: Item, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        if len(item.video) == 1:
            item = replace(item, task="edit", video=())
        generator = torch.Generator().manual_seed(seed)
        arguments = self.arguments(item, list(inputs))
        out = self.pipeline(
            item.instruction, task=item.task, **arguments, **self.options, generator=generator, output_type="np"
        )
        return out.results[0] if item.video else out.images

    @staticmethod
    def arguments(item: Item, inputs: list[np.ndarray]) -> dict[str, Any]:
        """The inputs by the options of the task's slots, in their order, and the mask if the task takes one."""
        given: dict[str, Any] = {}
        for slot in TASKS[item.task].slots:
            if slot.option == "mask":
                if "mask" in item.arrays and not slot.optional:
                    given["mask"] = np.where(item.arrays["mask"](), np.uint8(255), np.uint8(0))
                continue
            count = len(inputs) if item.video else slot.maximum
            taken, inputs = inputs[:count], inputs[count:]
            if taken:
                of_kinds = slot.role is Role.CONTROL
                given[slot.option] = list(zip(item.controls, taken, strict=True)) if of_kinds else taken
        return given


@dataclass
class Public:
    """A pipeline of unireal.public, as infer.py runs it: results have the size of what is edited; a video is edited
    frame by frame, with one seed. options: of its call."""

    pipeline: Any
    settings: dict[str, Any]
    options: dict[str, Any]

    def __call__(self, item: Item, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        return [self._edited(item, pixels, seed) for pixels in _to_edit(item, inputs)]

    def _edited(self, item: Item, pixels: np.ndarray, seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        out = self.pipeline(_plain_words(item), canvas=[pixels], **self.options, generator=generator)
        return np.asarray(out.images[0])


@dataclass
class Diffusers:
    """Another diffusers pipeline that takes `prompt` and `image`; a video is edited frame by frame, with one seed.

    Many make squares unless told otherwise, so they are asked for the size of what is edited, in whole tokens; results
    have that very size.

    options: those of num_inference_steps, guidance_scale, ... that its call knows.
    """

    pipeline: Any
    settings: dict[str, Any]
    options: dict[str, Any]

    def __post_init__(self) -> None:
        known = inspect.signature(self.pipeline.__call__).parameters
        self._parameters = set(known)
        kind = type(self.pipeline).__name__
        if not {"prompt", "image"} <= self._parameters:
            raise ValueError(f"{kind} takes no prompt and image, so it cannot edit; give an editing pipeline")
        unknown = [name for name, value in self.options.items() if value is not None and name not in known]
        if unknown:
            raise ValueError(f"{kind} takes no {', '.join(unknown)}; leave the option out")
        self.options = {name: value for name, value in self.options.items() if value is not None}
        # Qwen's editors go by the picture's shape, at the size that they were trained with
        self._sized = {"height", "width"} <= self._parameters and not kind.startswith("QwenImageEdit")
        self._multiple = 2 * getattr(self.pipeline, "vae_scale_factor", 8)  # tokens are 2 x 2 latents
        if "true_cfg_scale" in known and known["true_cfg_scale"].default > 1:  # Qwen's, which read no guidance_scale
            scale = self.options.pop("guidance_scale", known["true_cfg_scale"].default)
            self.options |= {"true_cfg_scale": scale, "negative_prompt": " "}  # without one there is no guidance

    def __call__(self, item: Item, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        return [self._edited(item, pixels, seed) for pixels in _to_edit(item, inputs)]

    def _edited(self, item: Item, pixels: np.ndarray, seed: int) -> np.ndarray:
        given: dict[str, Any] = dict(self.options)
        if "mask_image" in self._parameters and "mask" in item.arrays:
            given["mask_image"] = Image.fromarray(np.where(item.arrays["mask"](), np.uint8(255), np.uint8(0)))
        if "generator" in self._parameters:
            given["generator"] = torch.Generator().manual_seed(seed)
        if self._sized:
            sides = [max(round(side / self._multiple), 1) * self._multiple for side in pixels.shape[:2]]
            given |= dict(zip(("height", "width"), sides, strict=True))
        kind = type(self.pipeline).__name__
        try:
            out = self.pipeline(prompt=_plain_words(item), image=Image.fromarray(pixels), **given)
        except (TypeError, AttributeError) as error:  # what pipelines raise for pictures that they need besides
            raise ValueError(f"{kind} cannot edit from a prompt and an image alone ({one_line(error, 200)})") from error
        if any(getattr(out, "nsfw_content_detected", None) or ()):
            raise ValueError(f"the safety checker of {kind} blackened the picture")
        edited = np.asarray(out.images[0].convert("RGB"))
        return edited if edited.shape == pixels.shape else resize_bicubic(edited, (pixels.shape[0], pixels.shape[1]))


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a shipped one, a folder or a hub id. lora: folder or hub id of an adapter for it.
    offload: each part is on the GPU only while it works."""

    name: str
    dtype: str = "float32"
    lora: str | None = None
    offload: bool = False

    @classmethod
    def asked(cls, options: argparse.Namespace) -> Source:
        """That of a command line; None for an option is the default."""
        return cls(options.model, options.dtype or cls.dtype, options.lora, bool(options.offload))

    @property
    def settings(self) -> dict[str, Any]:
        """With a hash of the weights, which may change under their name."""
        adapter = {} if self.lora is None else {"lora": self.lora, "lora weights": weights_of(self.lora)}
        return {"model": self.name, "weights": weights_of(self.name), "dtype": self.dtype, **adapter}

    def ours(self, device: str) -> Any:
        """As a pipeline of this project. Raises ValueError if it is none, or for an adapter that does not fit."""
        from unireal.pipeline import UniRealPipeline

        pipeline = UniRealPipeline.from_pretrained(self.name, dtype=getattr(torch, self.dtype))
        return self._ready(pipeline, device)

    def public(self, device: str, load: Callable[..., Any] | None = None) -> Any:
        """As a pipeline of diffusers, or of what `load` makes of one.

        Raises ValueError if it cannot be loaded, or for an adapter that does not fit.
        """
        from diffusers import DiffusionPipeline

        load = load or partial(DiffusionPipeline.from_pretrained, use_safetensors=True)
        try:
            pipeline = load(self.name, dtype=getattr(torch, self.dtype))
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(f"model {self.name!r} cannot be loaded ({one_line(error, 200)})") from error
        return self._ready(pipeline, device)

    def _ready(self, pipeline: Any, device: str) -> Any:
        if self.lora is not None:
            try:
                pipeline.load_lora_weights(self.lora)
            except Exception as error:  # the hub's client raises errors of many kinds
                raise ValueError(
                    f"adapter {self.lora!r} cannot be put on {self.name!r} ({one_line(error, 200)})"
                ) from error
        pipeline.set_progress_bar_config(disable=True)
        return placed(pipeline, device, self.offload)


def sampling(pipeline: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of sampling that a pipeline of this project is called with: those given, else its own defaults."""
    defaults = {
        "num_inference_steps": "default_steps",
        "guidance_scale": "default_guidance",
        "image_guidance_scale": "default_image_guidance",
    }
    return {n: pipeline.config[default] if given.get(n) is None else given[n] for n, default in defaults.items()}


def load_model(source: Source, device: str = "cpu", **options: Any) -> Model:
    """options: num_inference_steps, guidance_scale, ...; None leaves one out.

    Raises ValueError for one that is no pipeline, that cannot edit, or that takes no such option.
    """
    from unireal.public import PUBLIC_MODELS

    used = {key: value for key, value in options.items() if value is not None}
    kind = class_name(source.name)
    if kind == OURS:  # the pipeline comes before its settings: loading says what is wrong with a name
        ours = source.ours(device)
        used = sampling(ours, used)
        return UniReal(ours, {**source.settings, "pipeline": kind, **used}, used)
    if kind in PUBLIC_MODELS:
        PUBLIC_MODELS[kind].check("edit", {"image_guidance": used.get("image_guidance_scale")}, ())
        public = source.public(device, PUBLIC_MODELS[kind].from_pretrained)
        return Public(public, {**source.settings, "pipeline": kind, **used}, used)
    pipeline = source.public(device)
    return Diffusers(pipeline, {**source.settings, "pipeline": type(pipeline).__name__, **used}, options)


def _plain_words(item: Item) -> str:
    """The instruction without "from IMG1" or "of IMG1", a word that only this project's models have."""
    return re.sub(r" (?:from|of) IMG1\b", "", item.instruction)


def _to_edit(item: Item, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """The pictures that a pipeline for one image edits one by one: the first, or the frames of a video."""
    if not inputs:
        raise ValueError("the item has no picture to edit")
    return inputs if item.video else inputs[:1]


def weights_of(name: str) -> str:
    """Tells whether a model is still the same one; of a hub id the files that were fetched."""
    folder = model_path(name)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        fetched = try_to_load_from_cache(name, "model_index.json")
        folder = Path(fetched).parent if isinstance(fetched, str) else folder
    return fingerprint(folder, "**/*.safetensors", "*/*.json", "model_index.json")


def class_name(name: str) -> str:
    """Of the pipeline that a folder or hub id holds. Raises ValueError if it holds none."""
    from diffusers import DiffusionPipeline

    source = find_model(name, hub=True)
    try:
        return DiffusionPipeline.load_config(source.as_posix())["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model {name!r} holds no pipeline ({one_line(error, 200)})") from error
