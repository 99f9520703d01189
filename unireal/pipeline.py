"""UniReal as a diffusers pipeline: one class for all tasks.

pipe = UniRealPipeline.from_pretrained("unireal-tiny")
image = pipe("Make the red circle green.", task="edit", canvas=Image.open("room.png")).images[0]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from PIL import Image
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from unireal.acceleration import Acceleration, accelerations
from unireal.diffusion.guidance import Guidance
from unireal.diffusion.sampling import Conditions, denoise
from unireal.model.build import Components
from unireal.model.folder import SHIPPED, check_model_folder
from unireal.model.transformer import UniRealTransformer
from unireal.model.vae import VAE
from unireal.prompts import join
from unireal.request import Paste, Request
from unireal.sample import Sample
from unireal.tasks import TASKS
from unireal.transforms import collate, load_image, mask_image, paste_back, threshold, to_image

FEATHER = 1  # pixels inside a mask over which the canvas fades out


@dataclass
class UniRealPipelineOutput(BaseOutput):
    """images: the first result of every prompt and variant. results: all results of each, RES1 first.

    PIL images, uint8 arrays (H, W, 3) or float tensors (3, H, W) in 0..1, by output_type.
    """

    images: list[Any]
    results: list[list[Any]]


class UniRealPipeline(DiffusionPipeline):
    """
    transformer, text_encoder, tokenizer, scheduler: the parts; vae: None for a model that works on pixels.
    native_size: (H, W) of results whose size nothing else decides.
    default_steps, default_guidance, default_image_guidance: used where the call gives none.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["vae"]

    def __init__(
        self,
        transformer: UniRealTransformer,
        text_encoder: T5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: VAE | None = None,
        native_size: list[int] | tuple[int, int] = (64, 64),
        default_steps: int = 8,
        default_guidance: float = 1.0,
        default_image_guidance: float = 1.0,
    ):
        super().__init__()
        self.register_modules(
            transformer=transformer, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler, vae=vae
        )
        self.register_to_config(
            native_size=tuple(native_size),
            default_steps=default_steps,
            default_guidance=default_guidance,
            default_image_guidance=default_image_guidance,
        )

    @classmethod
    def from_components(cls, parts: Components, shift: float = 1.0, **config: Any) -> UniRealPipeline:
        """A pipeline of freshly built or trained parts. shift: of the sampling times toward noise; config as in the
        constructor."""
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        return cls(parts.transformer, parts.text_encoder, parts.tokenizer, scheduler, parts.vae, **config)

    def as_components(self) -> Components:
        return Components(self.transformer, self.text_encoder, self.tokenizer, self.vae)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> UniRealPipeline:
        """Loads a shipped model by name, a folder, or a hub id; safetensors only, in float32 unless dtype says else.

        Raises ValueError if a folder lacks files or holds pickled weights.
        """
        if not options.keys() & {"dtype", "torch_dtype"}:
            options["dtype"] = torch.float32  # whatever it was stored in; bfloat16 is a choice, not a surprise
        path = SHIPPED.get(str(name), Path(name))
        if path.exists():
            check_model_folder(path)
        elif str(name) in SHIPPED or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
            raise ValueError(f"model {str(name)!r} is neither a folder, a hub id, nor one of: {', '.join(SHIPPED)}")
        source = path if path.exists() else name
        return super().from_pretrained(str(source), use_safetensors=True, **options)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] = "",
        task: str = "edit",
        canvas: Any = None,
        asset: Any = None,
        control: Sequence[tuple[str, Any]] | dict[str, Any] | None = None,
        mask: Any = None,
        expand: tuple[int, int, int, int] | None = None,
        size: tuple[int, int] | None = None,
        context: str | None = None,
        num_results: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Any = None,
        accelerate: str | Acceleration | Sequence[str | Acceleration] = (),
        return_dict: bool = True,
    ) -> UniRealPipelineOutput | tuple[list[Any]]:
        """
        prompt:  one, or a batch that shares all other arguments.
        canvas, asset: PIL images, arrays or paths, one or a list. control: (kind, picture) pairs or a dict.
        mask:    white where to change. expand: pixels to add at (left, top, right, bottom).
        size:    (height, width) of results; inputs but assets are resized to it. None keeps the canvas's size.
        context: context prompt, e.g. "synthetic style, static scenario"; None for the task's own.
        num_results: results per prompt: jointly generated frames if the task has several, else variants.
        guidance_scale, image_guidance_scale: 1 is none; guidance_interval: share of the steps in which they act.
        callback_on_step_end(pipe, step, t, {"latents": [...]}) may return a dict with other latents.
        generator: for reproducible noise; a list has one for each prompt and variant.
        accelerate: plug-ins or their names, e.g. ["spotedit", "condition_cache"]; see unireal.acceleration.

        Raises ValueError for whatever does not fit the task or the model.
        """
        plugins = accelerations(accelerate)
        request = Request(
            task=task,
            canvas=[load_image(i, "canvas") for i in _as_list(canvas)],
            asset=[load_image(i, "asset") for i in _as_list(asset)],
            control=[(kind, load_image(i, f"{kind} control")) for kind, i in _as_pairs(control)],
            mask=None if mask is None else load_image(mask, "mask"),
            expand=expand,
            size=size,
            context=context,
            num_results=num_results,
        )
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        samples, pastes = [], []
        for text in prompts:
            sample, paste = replace(request, prompt=text).assemble(self.config.native_size)
            samples += [sample] * request.variants
            pastes += [paste] * request.variants
        scales = self.guidance(guidance_scale, image_guidance_scale, guidance_interval)
        frames = self._run(samples, num_inference_steps, scales, generator, callback_on_step_end, plugins)
        pasted = (_pasted(images, paste) for images, paste in zip(frames, pastes, strict=True))
        results = [[_convert(image, output_type) for image in images] for images in pasted]
        first = [frames[0] for frames in results]
        return UniRealPipelineOutput(images=first, results=results) if return_dict else (first,)

    @torch.no_grad()
    def generate(
        self,
        samples: Sequence[Sample],
        num_inference_steps: int | None = None,
        guidance: float | None = None,
        image_guidance: float | None = None,
        seed: int = 0,
        accelerate: str | Acceleration | Sequence[str | Acceleration] = (),
    ) -> list[list[np.ndarray]]:
        """Results of samples of one layout, uint8 (H, W, 3): for each sample as many as it has result frames."""
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(samples))]
        scales, plugins = self.guidance(guidance, image_guidance), accelerations(accelerate)
        return self._run(samples, num_inference_steps, scales, generators, accelerate=plugins)

    def load_lora_weights(self, folder: str | Path, adapter_name: str = "default") -> None:
        """Puts an adapter that save_lora wrote into the transformer. Raises ValueError if it does not fit."""
        from unireal.model.lora import load_lora

        load_lora(self.transformer, folder, adapter_name)

    def guidance(
        self, text: float | None = None, image: float | None = None, interval: tuple[float, float] = (0.0, 1.0)
    ) -> Guidance:
        """Guidance with this model's defaults filled in."""
        text = self.config.default_guidance if text is None else text
        return Guidance(text, self.config.default_image_guidance if image is None else image, tuple(interval))

    def _run(
        self,
        samples: Sequence[Sample],
        num_steps: int | None,
        guidance: Guidance,
        generator: torch.Generator | list[torch.Generator] | None,
        callback: Any = None,
        accelerate: Sequence[Acceleration] = (),
    ) -> list[list[np.ndarray]]:
        num_steps = self.config.default_steps if num_steps is None else num_steps
        if num_steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {num_steps}")
        parts, device = self.as_components(), self._execution_device
        codec = parts.codec
        given = encode_samples(parts, samples, device)
        sizes = samples[0].layout.results
        noise = [self._noise(codec.latent_size(size), len(samples), generator) for size in sizes]
        with self.progress_bar(total=num_steps) as bar:

            def after_step(step: int, t: float, latents: list[torch.Tensor]) -> list[torch.Tensor] | None:
                bar.update()
                if callback is None:
                    return None
                return (callback(self, step, t, {"latents": latents}) or {}).get("latents")

            latents = denoise(
                self.transformer, self.scheduler, noise, given, guidance, num_steps, after_step, accelerate, codec
            )
        frames = [codec.decode(x, size) for x, size in zip(latents, sizes, strict=True)]
        self.maybe_free_model_hooks()
        results = [[to_image(frame[i]) for frame in frames] for i in range(len(samples))]
        return [_finished(images, sample) for images, sample in zip(results, samples, strict=True)]

    def _noise(
        self, size: tuple[int, int], count: int, generator: torch.Generator | list[torch.Generator] | None
    ) -> torch.Tensor:
        """float32 (B, C, h, w), drawn on the generator's device so that a seed means the same everywhere."""
        shape = (self.transformer.config.in_channels, *size)
        if isinstance(generator, list):
            if len(generator) != count:
                raise ValueError(f"{len(generator)} generators were given for {count} samples; give one for each")
            noise = torch.stack([torch.randn(shape, generator=g, device=g.device).cpu() for g in generator])
        else:
            device = "cpu" if generator is None else generator.device
            noise = torch.randn((count, *shape), generator=generator, device=device)
        return noise.to(self._execution_device)


def encode_samples(parts: Components, samples: Sequence[Sample], device: torch.device) -> Conditions:
    """What samples of one layout are conditioned on, on the transformer's device."""
    batch, dtype, no_text = collate(samples), parts.transformer.dtype, [""] * len(samples)
    return Conditions(
        text=parts.text([join(s.context, s.instruction) for s in samples]).to(device, dtype),
        no_text=parts.text(no_text).to(device, dtype),
        frames=[parts.codec.encode(frame.to(device)).to(dtype) for frame in batch.inputs],
        roles=batch.roles.to(device),
    )


def _finished(images: list[np.ndarray], sample: Sample) -> list[np.ndarray]:
    """The first result as its task shows it: masks black and white, depth grey."""
    kind = TASKS[sample.task].result_kind
    if kind == "mask":
        return [mask_image(threshold(images[0])), *images[1:]]
    if kind == "depth":
        grey = images[0].mean(axis=2, keepdims=True).round().astype(np.uint8)
        return [np.repeat(grey, 3, axis=2), *images[1:]]
    return images


def _pasted(images: list[np.ndarray], paste: Paste | None) -> list[np.ndarray]:
    return images if paste is None else [paste_back(images[0], paste.canvas, paste.mask, FEATHER), *images[1:]]


def _convert(image: np.ndarray, output_type: str) -> Any:
    if output_type == "pil":
        return Image.fromarray(image)
    if output_type == "np":
        return image
    if output_type == "pt":
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255
    raise ValueError(f'output_type must be "pil", "np" or "pt", got {output_type!r}')


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _as_pairs(control: Sequence[tuple[str, Any]] | dict[str, Any] | None) -> list[tuple[str, Any]]:
    return list(control.items()) if isinstance(control, dict) else list(control or [])
