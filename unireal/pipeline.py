"""UniReal as a diffusers pipeline: one class for all tasks.

pipe = UniRealPipeline.from_pretrained("unireal-tiny")
image = pipe("Make the red circle green.", task="edit", canvas=Image.open("room.png")).images[0]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from unireal.acceleration import Acceleration, accelerations
from unireal.acceleration.spotedit import spot_edit
from unireal.diffusion.guidance import Guidance
from unireal.diffusion.sampling import denoise
from unireal.encoding import encode_samples
from unireal.finishing import converted, finished, pasted
from unireal.model.build import Components
from unireal.model.folder import HUB_ID, SHIPPED, check_model_folder
from unireal.model.transformer import UniRealTransformer
from unireal.model.vae import VAE
from unireal.request import Paste, Request
from unireal.sample import Sample
from unireal.tasks import get_task
from unireal.transforms import mask_image, to_image
from unireal.video.windows import open_clip, video_frames


@dataclass
class UniRealPipelineOutput(BaseOutput):
    """images: the first result of every prompt and variant. results: all results of each, RES1 first.
    edited: with spotedit, where each first result was computed, white; elsewhere it is the canvas. Else None.

    PIL images, uint8 arrays (H, W, 3) or float tensors (3, H, W) in 0..1, by output_type.
    """

    images: list[Any]
    results: list[list[Any]]
    edited: list[Any] | None = None


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
        elif str(name) in SHIPPED or not re.fullmatch(HUB_ID, str(name)):
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
        video: str | Path | Iterable[Any] | None = None,
        num_frames: int | None = None,
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
        video:   path or frames, for a task that edits a video; num_frames: of the video that comes out (see stream).

        Raises ValueError for whatever does not fit the task or the model.
        """
        plugins = accelerations(accelerate)
        scales = self.guidance(guidance_scale, image_guidance_scale, guidance_interval)
        how = num_inference_steps, scales, generator, callback_on_step_end, plugins
        given = {"canvas": canvas, "asset": asset, "control": control, "mask": mask, "expand": expand, "size": size}
        given |= {"task": task, "context": context, "num_results": num_results, "num_frames": num_frames}
        requests = [replace(Request.load(**given), prompt=p) for p in ([prompt] if isinstance(prompt, str) else prompt)]
        if video is not None or get_task(task).video:
            results = [list(self._windows(request, video, output_type, *how)) for request in requests]
            first = [frames[0] for frames in results]
            return UniRealPipelineOutput(images=first, results=results) if return_dict else (first,)
        samples, pastes = [], []
        for request in requests:
            sample, paste = request.assemble(self.config.native_size)
            samples += [sample] * request.variants
            pastes += [paste] * request.variants
        whole = (pasted(images, paste) for images, paste in zip(self._run(samples, *how), pastes, strict=True))
        results = [[converted(image, output_type) for image in images] for images in whole]
        regions = self._edited(plugins, samples)
        edited = None if regions is None else [converted(mask_image(region), output_type) for region in regions]
        first = [frames[0] for frames in results]
        return UniRealPipelineOutput(images=first, results=results, edited=edited) if return_dict else (first,)

    def stream(
        self,
        prompt: str = "",
        task: str = "video_edit",
        video: str | Path | Iterable[Any] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        accelerate: str | Acceleration | Sequence[str | Acceleration] = (),
        **pictures: Any,
    ) -> Iterator[Any]:
        """The frames of a video as they are made: memory holds a window of it, whatever its length.

        Arguments as in the call. Raises ValueError for what does not fit the task when the first frame is asked for.
        """
        request = Request.load(task=task, prompt=prompt, **pictures)
        scales, plugins = self.guidance(guidance_scale, image_guidance_scale), accelerations(accelerate)
        return self._windows(request, video, output_type, num_inference_steps, scales, generator, None, plugins)

    def _windows(
        self, request: Request, video: str | Path | Iterable[Any] | None, output_type: str, *how: Any
    ) -> Iterator[Any]:
        """Frames of one video; how: arguments of _run."""
        frames = video_frames(
            request, open_clip(video), self.config.native_size, lambda sample: self._run([sample], *how)[0]
        )
        return (converted(frame, output_type) for frame in frames)

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

    @torch.no_grad()
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
        without_text = any(not b.text for b in guidance.branches(num_steps, bool(samples[0].inputs)))
        given = encode_samples(parts, samples, device, without_text)
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
        results = [finished(images, sample) for images, sample in zip(results, samples, strict=True)]
        spot = spot_edit(accelerate)
        if spot is None or not spot.paste or spot.frame is None:
            return results
        pastes = [
            Paste(sample.inputs[spot.frame].image, region)
            for sample, region in zip(samples, self._edited(accelerate, samples), strict=True)
        ]
        return [pasted(images, paste) for images, paste in zip(results, pastes, strict=True)]

    def _edited(self, plugins: Sequence[Acceleration], samples: Sequence[Sample]) -> list[np.ndarray] | None:
        """After a call: where SpotEdit computed each first result, bool (H, W); None without SpotEdit."""
        spot, token = spot_edit(plugins), self.as_components().codec.multiple
        return None if spot is None else spot.regions(len(samples), samples[0].results[0].size, token)

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
