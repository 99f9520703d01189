"""Fewer sampling steps: a student learns in one step what its teacher does in many.

    python train.py tiny-4step

This is multistep consistency distillation (Heek et al., arXiv 2403.06807). The sampling times 1 = b_N > ... > b_0 = 0
of an N-step sampler cut the teacher's path into N segments, each of which a fine grid divides. From a point at a grid
time t, the teacher takes one step to the next lower grid time s; from there the student, without gradients, jumps to
the segment's end b. The straight line from the start to where it arrives is what the student has to predict at t:

    v* = (x_t - x_b) / (t - b),   x_b = x_s - (s - b) v_student(x_s, s),   x_s = x_t - (t - s) v_teacher(x_t, t)

At s = b the teacher alone says where the path ends, and consistency carries that up the segment. What is predicted
stays what the model predicts, so that the student is an ordinary model, sampled by the same pipeline in N steps. The
teacher's guidance goes into the student, which then needs none: one pass for each step.

Axes: B batch, R results, C, h, w latent channels, rows and columns.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from unireal.diffusion.flow import add_noise, as_velocity, flow_loss
from unireal.diffusion.guidance import Guidance, combine
from unireal.diffusion.sampling import Conditions, sampling_times, velocity
from unireal.experiments import Distillation, TrainConfig
from unireal.model.build import Components
from unireal.model.text_encoder import TextFeatures
from unireal.training.objective import Objective, Step
from unireal.training.start import Start
from unireal.training.video_teacher import Taught, load_teacher

Frames = list[torch.Tensor]  # one (B, C, h, w) for each result


class Grid:
    """Times of the teacher's small steps in the segments of a sampler with so many steps and such a shift."""

    def __init__(self, steps: int, substeps: int, shift: float):
        bounds = sampling_times(FlowMatchEulerDiscreteScheduler(shift=shift), steps, torch.device("cpu"))
        bounds = torch.cat([bounds.flip(0).new_zeros(1), bounds.flip(0)])  # ascending, from 0 to 1
        inside = torch.arange(substeps) / substeps
        times = bounds[:-1, None] + inside * bounds.diff()[:, None]  # (steps, substeps)
        self.times, self.substeps = torch.cat([times.flatten(), bounds[-1:]]), substeps

    def snap(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Times (B,) in 0..1 moved up to the grid, the next lower ones, and the ends of their segments."""
        times = self.times.to(t.device)
        above = torch.searchsorted(times, t).clamp(1, len(times) - 1)
        below = above - 1
        return times[above], times[below], times[below - below % self.substeps]


class Distilled(Objective):
    """Consistency loss of every sample, (B,); takes the place of the flow-matching loss.

    components: what is trained, as it is at the start; the teacher is a copy.
    """

    def __init__(self, components: Components, settings: Distillation, shift: float):
        super().__init__(components)
        self.grid = Grid(settings.steps, settings.substeps, shift)
        self.guidance = Guidance(settings.guidance, settings.image_guidance)
        self._no_text = any(not branch.text for branch in self.guidance.branches(1, True))
        transformer, text_encoder = _frozen_copy(components.transformer), components.text_encoder
        if text_encoder is not None and not components.text.frozen:
            text_encoder = _frozen_copy(text_encoder)
        # in a list, so that it is no submodule
        self._teacher = [replace(components, transformer=transformer, text_encoder=text_encoder, vae=None)]

    def forward(self, step: Step) -> torch.Tensor:
        components, student = self._frozen[0], self.parts["transformer"]
        text = step.text if isinstance(step.text, TextFeatures) else components.text.encode_tokens(step.text)
        kind = components.transformer.config.prediction_type
        t, below, end = self.grid.snap(step.t)
        noisy = [add_noise(x, e, t) for x, e in zip(step.clean, step.noise, strict=True)]

        def predict(frames: Frames, times: torch.Tensor) -> Frames:
            return student(frames, times, text.features, step.condition, step.roles, text.mask, text.referring)

        with torch.no_grad():
            reached = _moved(noisy, self._taught(step, noisy, t), t - below)
            onward = [
                as_velocity(p.float(), x, below, kind) for p, x in zip(predict(reached, below), reached, strict=True)
            ]
            ends = _moved(reached, onward, below - end)
            span = (t - end).view(-1, 1, 1, 1)
            targets = [(x - at_end) / span for x, at_end in zip(noisy, ends, strict=True)]
        losses = []
        for prediction, x_t, v, weight in zip(predict(noisy, t), noisy, targets, step.weight, strict=True):
            clean = x_t - t.view(-1, 1, 1, 1) * v
            losses.append(flow_loss(prediction, x_t, clean, clean + v, t, kind, weight))
        return torch.stack(losses).mean(dim=0)  # (B,)

    def _taught(self, step: Step, noisy: Frames, t: torch.Tensor) -> Frames:
        """The teacher's guided velocities."""
        teacher = self._teacher[0]
        for part in (teacher.transformer, teacher.text_encoder):
            if part is not None:
                part.to(t.device)
        text = step.text if isinstance(step.text, TextFeatures) else teacher.text.encode_tokens(step.text)
        no_text = teacher.text([""] * len(t)).to(t.device, teacher.transformer.dtype) if self._no_text else None
        given = Conditions(text, no_text, step.condition, step.roles)
        weights = self.guidance.weights(0, 1, bool(step.condition))
        return combine({b: velocity(teacher.transformer, noisy, t, b, given) for b in weights}, weights)


def make_objective(config: TrainConfig, start: Start) -> Objective:
    """The loss of a run: flow matching, with a video teacher or without, or distillation of the model that it starts
    from.

    Raises ValueError for distillation of a fresh model, or on precomputed data, which comes without text encoder, and
    for a teacher that does not fit.
    """
    if config.teacher.model:
        return Taught(start.components, load_teacher(config, start.components), config.teacher)
    if not config.distillation.steps:
        return Objective(start.components)
    if start.folder is None:
        raise ValueError(f"model {config.model!r} is fresh and has nothing to teach; distil a trained model's folder")
    if start.components.text_encoder is None:
        raise ValueError("distillation encodes prompts itself; train on pictures instead of precomputed data")
    return Distilled(start.components, config.distillation, start.settings.get("shift", config.time.shift))


def settings_of(config: TrainConfig) -> dict[str, float]:
    """What distillation changes in the settings of the pipeline that is saved: few steps, and no guidance."""
    if not config.distillation.steps:
        return {}
    return {"default_steps": config.distillation.steps, "default_guidance": 1.0, "default_image_guidance": 1.0}


def _moved(frames: Frames, velocities: Frames, by: torch.Tensor) -> Frames:
    """Frames at times (B,) less, along their velocities."""
    return [x - by.view(-1, 1, 1, 1) * v for x, v in zip(frames, velocities, strict=True)]


def _frozen_copy(module: Any) -> Any:
    return deepcopy(module).requires_grad_(False).eval()
