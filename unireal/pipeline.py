"""UniReal as a diffusers pipeline: one class for all tasks.

pipe = UniRealPipeline.from_pretrained("unireal-tiny")
image = pipe("Make the red circle green.", task="edit", canvas=Image.open("room.png")).images[0]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from unireal.acceleration import Acceleration, Accelerations, accelerations
from unireal.acceleration.spotedit import spot_edit
from unireal.diffusion.guidance import Guidance
from unireal.diffusion.sampling import Generators, checked_latents, denoise, draw_noise
from unireal.encoding import encode_samples, tell_cut_prompts
from unireal.finishing import UniRealPipelineOutput, check_output_type, converted, finished, pasted
from unireal.loading import LoadablePipeline
from unireal.model.transformer import UniRealTransformer
from unireal.model.vae import VAE
from unireal.request import Paste, Request, prompts_of, tell_if_large
from unireal.sample import Sample
from unireal.tasks import get_task
from unireal.transforms import mask_image, to_image
from unireal.video.windows import open_clip, video_frames

Video = str | Path | Iterable[Any] | None  # a file, its frames, or none where a task makes one from nothing


@dataclass(frozen=True)
class _How:
    """The arguments of a call that say how to sample, whatever the samples are."""

    steps: int | None
    guidance: Guidance
    generator: Generators
    callback: Any
    plugins: Accelerations
    latents: torch.Tensor | Sequence[torch.Tensor] | None = None
    told: set[str] = field(default_factory=set)  # prompts that a warning was given for


class UniRealPipeline(LoadablePipeline):
    """Makes and edits pictures and videos by an instruction. Its arguments:
    transformer, text_encoder, tokenizer, scheduler: the parts; vae: None for a model that works on pixels.
    native_size: (H, W) of results whose size nothing else decides. asset_scale: what the model is used to: assets of
    pictures are shrunk to this share of the result's longer side.
    default_steps, default_guidance, default_image_guidance: used where the call gives none.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["vae"]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        transformer: UniRealTransformer,
        text_encoder: T5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: VAE | None = None,
        native_size: list[int] | tuple[int, int] = (64, 64),
        asset_scale: float = 1.0,
        default_steps: int = 8,
        default_guidance: float = 1.0,
        default_image_guidance: float = 1.0,
    ):
        super().__init__()
        self.register_modules(
            transformer=transformer, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler, vae=vae
        )
        self.register_to_config(native_size=tuple(native_size), asset_scale=asset_scale, default_steps=default_steps,
            default_guidance=default_guidance, default_image_guidance=default_image_guidance)  # fmt: skip

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | tuple[str, ...] | None = "",
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
        generator: Generators = None,
        latents: torch.Tensor | Sequence[torch.Tensor] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        accelerate: str | Acceleration | Sequence[str | Acceleration] = (),
        return_dict: bool = True,
        video: Video = None,
        num_frames: int | None = None,
        negative_prompt: str | None = None,
    ) -> UniRealPipelineOutput | tuple[list[Any]]:
        """Makes the results of one task. Its arguments:
        prompt:  one, or a batch that shares all other arguments. context: context prompt; None for the task's own.
        canvas, asset: PIL images, arrays or paths, one or a list. control: (kind, picture) pairs or a dict.
        mask:    white where to change. expand: pixels to add at (left, top, right, bottom).
        size:    (height, width) of results; inputs but assets are resized to it. None keeps the canvas's size.
        num_results: results per prompt: jointly generated frames if the task has several, else variants.
        guidance_scale, image_guidance_scale: 1 is none; guidance_interval: share of the steps in which they act;
                 negative_prompt: what they lead away from, for all prompts.
        callback_on_step_end(pipe, step, t, {"latents": [...]}) may return a dict with other latents; `pipe.interrupt`
                 set to True ends the call after that step, a video with that window.
        generator: for reproducible noise; a list has one for each prompt and variant. latents: the noise itself, a
                 tensor (B, C, h, w) for each result frame, or a single tensor.
        output_type: "pil", "np" (uint8), "pt" (0..1), or "latent" for what the last step gives, (C, h, w).
        accelerate: plug-ins or their names, e.g. ["spotedit", "condition_cache"]; see unireal.acceleration.
        video:   path or frames, for a task that edits a video; num_frames: of the video that comes out (see stream).

        Raises ValueError for whatever does not fit the task or the model.
        """
        check_output_type(output_type, "latent")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callbacks are given {self._callback_tensor_inputs}, not {sorted(unknown)}; leave it out")
        scales = self.guidance(guidance_scale, image_guidance_scale, guidance_interval, negative_prompt)
        how = _How(num_inference_steps, scales, generator, callback_on_step_end, accelerations(accelerate), latents)
        prompts = prompts_of(prompt)
        request = Request.load(canvas, asset, control, mask, expand=expand, size=size, task=task, context=context,
            num_results=num_results, num_frames=num_frames)  # fmt: skip
        requests = [replace(request, prompt=prompt) for prompt in prompts]
        self.interrupt = False
        if video is None and not get_task(task).video:
            out = self._pictures(requests, output_type, how)
        else:
            out = self._videos(requests, video, output_type, how)
        return out if return_dict else (out.images,)

    def _pictures(self, requests: Sequence[Request], output_type: str, how: _How) -> UniRealPipelineOutput:
        """The results of requests of one layout."""
        trained_at = self.config.native_size, self.config.asset_scale
        variants = [pair for request in requests for pair in [request.assemble(*trained_at)] * request.variants]
        samples, pastes = zip(*variants, strict=True)
        tell_if_large(samples[0], self.config.native_size)
        latents = self._sample(samples, how)
        if output_type == "latent":
            self.maybe_free_model_hooks()
            results = [[frame[i] for frame in latents] for i in range(len(samples))]
        else:
            whole = zip(self._decoded(samples, latents, how), pastes, strict=True)
            results = [[converted(image, output_type) for image in pasted(*images)] for images in whole]
        regions, edited = self._edited(how, samples), None
        if regions is not None:
            edited = [converted(mask_image(r), "pt" if output_type == "latent" else output_type) for r in regions]
        return UniRealPipelineOutput(images=[frames[0] for frames in results], results=results, edited=edited)

    def _videos(self, requests: Sequence[Request], video: Video, output_type: str, how: _How) -> UniRealPipelineOutput:
        """A video for each request, one after another."""
        if how.latents is not None:
            raise ValueError("a video is made window by window, from noise of its own; leave latents out")
        count = len(requests)
        videos = tee(video, count) if isinstance(video, Iterator) else (video,) * count
        generators = how.generator if isinstance(how.generator, list | tuple) else [how.generator] * count
        if len(generators) != count:
            raise ValueError(f"{len(generators)} generators were given for {count} videos; give one for each")
        results = [
            list(self._windows(request, frames, output_type, replace(how, generator=generator)))
            for request, frames, generator in zip(requests, videos, generators, strict=True)
            if not self.interrupt
        ]
        return UniRealPipelineOutput(images=[frames[0] for frames in results], results=results)

    def stream(
        self,
        prompt: str = "",
        task: str = "video_edit",
        video: Video = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        accelerate: str | Acceleration | Sequence[str | Acceleration] = (),
        negative_prompt: str | None = None,
        **pictures: Any,
    ) -> Iterator[Any]:
        """The frames of a video as they are made: memory holds a window of it, whatever its length.

        Arguments as in the call. Raises ValueError for what does not fit the task when the first frame is asked for.
        """
        request = Request.load(task=task, prompt=prompt, **pictures)
        scales = self.guidance(guidance_scale, image_guidance_scale, guidance_interval, negative_prompt)
        how = _How(num_inference_steps, scales, generator, None, accelerations(accelerate))
        self.interrupt = False
        return self._windows(request, video, output_type, how)

    def _windows(self, request: Request, video: Video, output_type: str, how: _How) -> Iterator[Any]:
        """Frames of one video."""
        check_output_type(output_type)
        size, clip = self.config.native_size, open_clip(video)
        frames = video_frames(request, clip, size, lambda sample: self._run([sample], how)[0], lambda: self.interrupt)
        return (converted(frame, output_type) for frame in frames)

    @torch.no_grad()
    def generate(
        self,
        samples: Sequence[Sample],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        seed: int = 0,
        accelerate: str | Acceleration | Sequence[str | Acceleration] = (),
    ) -> list[list[np.ndarray]]:
        """Results of samples of one layout, uint8 (H, W, 3): for each sample as many as it has result frames.

        Arguments as in the call; seed: of the first sample's noise, the others have those that follow.
        """
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(samples))]
        scales = self.guidance(guidance_scale, image_guidance_scale)
        self.interrupt = False
        return self._run(samples, _How(num_inference_steps, scales, generators, None, accelerations(accelerate)))

    @property
    def num_timesteps(self) -> int:
        """Steps of the call that goes on, or of the last one."""
        return self._num_timesteps

    @property
    def guidance_scale(self) -> float:
        """The same of the text guidance."""
        return self._guidance_scale

    def guidance(
        self, text: float | None = None, image: float | None = None, interval: tuple[float, float] = (0.0, 1.0),
        negative_prompt: str | None = None,
    ) -> Guidance:  # fmt: skip
        """Guidance with this model's defaults filled in."""
        text = self.config.default_guidance if text is None else text
        image = self.config.default_image_guidance if image is None else image
        return Guidance(text, image, (interval[0], interval[1]), negative_prompt or "")

    def _run(self, samples: Sequence[Sample], how: _How) -> list[list[np.ndarray]]:
        """Results of samples of one layout, uint8 (H, W, 3)."""
        return self._decoded(samples, self._sample(samples, how), how)

    @torch.no_grad()
    def _sample(self, samples: Sequence[Sample], how: _How) -> list[torch.Tensor]:
        """The R latent result frames (B, C, h, w) of samples of one layout."""
        num_steps = self.config.default_steps if how.steps is None else how.steps
        if not isinstance(num_steps, int | np.integer) or num_steps < 1:
            raise ValueError(f"the number of steps must be a whole number of at least 1, got {num_steps}")
        num_steps = int(num_steps)
        self._num_timesteps, self._guidance_scale = num_steps, how.guidance.text  # for callbacks
        parts, device = self.as_components(), self._execution_device
        without_text = how.guidance.without_text(num_steps, bool(samples[0].inputs))
        tell_cut_prompts(parts, samples, without_text or "", how.told)
        given = encode_samples(parts, samples, device, without_text)
        batch, channels, codec = len(samples), parts.transformer.config.in_channels, parts.codec
        shapes = [(batch, channels, *codec.latent_size(size)) for size in samples[0].layout.results]
        noise = [draw_noise(shape, how.generator) for shape in shapes] if how.latents is None else how.latents
        noise = checked_latents(noise, shapes, device)
        with self.progress_bar(total=num_steps) as bar:

            def after_step(step: int, t: float, latents: list[torch.Tensor]) -> list[torch.Tensor] | None:
                bar.update()
                if how.callback is None:
                    return None
                changed = (how.callback(self, step, t, {"latents": latents}) or {}).get("latents")
                return None if changed is None else checked_latents(changed, shapes, device)

            return denoise(self.transformer, self.scheduler, noise, given, how.guidance, num_steps, after_step,
                how.plugins, codec, interrupted=lambda: self.interrupt, generator=how.generator)  # fmt: skip

    @torch.no_grad()
    def _decoded(self, samples: Sequence[Sample], latents: list[torch.Tensor], how: _How) -> list[list[np.ndarray]]:
        """Pictures uint8 (H, W, 3) of latent result frames, before a mask's outside is pasted back."""
        codec = self.as_components().codec
        frames = [codec.decode(x, size) for x, size in zip(latents, samples[0].layout.results, strict=True)]
        self.maybe_free_model_hooks()
        results = [[to_image(frame[i]) for frame in frames] for i in range(len(samples))]
        results = [finished(images, sample) for images, sample in zip(results, samples, strict=True)]
        spot, regions = spot_edit(how.plugins), self._edited(how, samples)
        if spot is None or regions is None or not spot.paste or spot.frame is None:
            return results
        pastes = [Paste(s.inputs[spot.frame].image, region) for s, region in zip(samples, regions, strict=True)]
        return [pasted(images, paste) for images, paste in zip(results, pastes, strict=True)]

    def _edited(self, how: _How, samples: Sequence[Sample]) -> list[np.ndarray] | None:
        """After a call: where SpotEdit computed each first result, bool (H, W); None without SpotEdit."""
        spot, token = spot_edit(how.plugins), self.as_components().codec.multiple
        return None if spot is None else spot.regions(len(samples), samples[0].results[0].size, token)
