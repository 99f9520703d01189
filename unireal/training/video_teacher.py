"""Learning edits from a frozen video model besides the samples (after Video4Edit, arXiv 2511.18131).

    python train.py tiny-video-teacher
    python train.py tiny-video-student

An edit is a video of two frames, from the source to the result. The teacher gets the source, the noisy result and a
caption that tells how the one becomes the other; the student gets the same frames and the instruction. Two losses come
on top of a sample's flow-matching loss, each with a weight:

    blocks   |s - f|^2 / |f|^2, the mean over blocks; s, f: result tokens of student and teacher after a block
    tail     the mean of (x_s - x_f)^2; x_s, x_f: the clean last frame that each predicts, in the VAE's latent space

Video4Edit tells of a frozen teacher, evolution-style captions, distillation of every block and supervision of the tail
frame in latent space. Formulas, weights and the length of its videos are not published: these are ours. So is that the
video ends with the sample's own result, noised, and not with one that the teacher makes up.

The teacher is no part of what is trained, saved or sharded: every process holds it whole.

Axes: B batch, M result tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from unireal.diffusion.flow import as_clean, as_velocity
from unireal.experiments import TrainConfig, VideoTeacher
from unireal.model.build import Components
from unireal.model.folder import check_model_folder, find_model
from unireal.model.transformer import UniRealTransformer
from unireal.pipeline import UniRealPipeline
from unireal.sample import Batch
from unireal.tasks import get_task
from unireal.training.objective import Objective, Step, predicted


class Taught(Objective):
    """Flow-matching loss of every sample and, where the teacher has a say, how far the student is from it, (B,).

    A sample whose text or inputs were dropped shows no evolution: without text the teacher reads none either, without
    inputs it is not asked.
    """

    def __init__(self, components: Components, teacher: Components, settings: VideoTeacher):
        super().__init__(components)
        self.settings = settings
        self._teacher = [teacher]  # in a list, so that it is no submodule

    def forward(self, step: Step) -> torch.Tensor:
        batch = step.batch
        assert batch is not None  # prepare_step puts it there
        noisy, features = step.noisy, list[torch.Tensor]()
        predictions = self.predict(step, noisy, features)
        losses = self.flow_losses(step, noisy, predictions)
        taught = torch.tensor([task in self.settings.tasks for task in batch.tasks], device=losses.device)
        self.added = {}
        if not step.condition or not taught.any():
            return losses
        goal, goals = self._ask(step, noisy)
        layers = self.settings.layers or range(len(features))
        blocks = torch.stack([_apart(features[i], goals[i]) for i in layers]).mean(dim=0)  # (B,)
        tail = (self._tail(self._frozen[0], step, noisy, predictions) - goal).square().mean(dim=(1, 2, 3))  # (B,)
        self.added = {"teacher/blocks": blocks[taught].detach(), "teacher/tail": tail[taught].detach()}
        return losses + taught * (self.settings.blocks * blocks + self.settings.tail * tail)

    @torch.no_grad()
    def _ask(self, step: Step, noisy: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The teacher's tail frame (B, C, h, w), and its result tokens (B, M, D) after every block."""
        teacher, features = self._teacher[0], list[torch.Tensor]()
        for part in (teacher.transformer, teacher.text_encoder):
            assert part is not None  # a pipeline has both
            part.to(step.t.device)
        assert step.batch is not None
        text = teacher.text(captions(step.batch, self.settings.caption))
        text = text.to(step.t.device, teacher.transformer.dtype)
        predictions = predicted(teacher.transformer, step, noisy, text, features)
        return self._tail(teacher, step, noisy, predictions), features

    @staticmethod
    def _tail(
        parts: Components, step: Step, noisy: list[torch.Tensor], predictions: list[torch.Tensor]
    ) -> torch.Tensor:
        """The clean last frame float32 (B, C, h, w) that is predicted."""
        velocity = as_velocity(predictions[-1].float(), noisy[-1], step.t, parts.transformer.config.prediction_type)
        return as_clean(velocity, noisy[-1], step.t)


def captions(batch: Batch, name: str) -> list[str]:
    """What the teacher reads: the caption that a sample's source holds under that name, else the sample's own prompt;
    nothing where the student reads nothing."""
    pairs = zip(batch.prompts, batch.sources, strict=True)
    return [prompt and str(source.get(name) or prompt) for prompt, source in pairs]


def load_teacher(config: TrainConfig, student: Components) -> Components:
    """The teacher of a run, frozen, in the run's precision.

    Raises ValueError if there is none of that name, if it has other blocks or latents than the student, for layers or
    tasks that there are not, and for precomputed data, whose captions are not at hand.
    """
    settings = config.teacher
    folder = find_model(settings.model, "teacher.model")
    if student.text_encoder is None:
        raise ValueError("a teacher reads captions itself; train on pictures instead of precomputed data")
    for task in settings.tasks:
        get_task(task)
    blocks = len(student.transformer.transformer_blocks)
    if outside := [layer for layer in settings.layers if not -blocks <= layer < blocks]:
        raise ValueError(
            f"teacher.layers are numbers of blocks, {-blocks}..{blocks - 1} of this model, got {outside[0]}"
        )
    check_model_folder(folder)
    its = _size(UniRealTransformer.load_config(folder, subfolder="transformer"))
    if its != (own := _size(student.transformer.config)):
        raise ValueError(
            f"the teacher {str(folder)!r} has {its}, the student {own}; features are compared block by block, so give "
            "a teacher of the student's size"
        )
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    teacher = UniRealPipeline.from_pretrained(folder, dtype=dtype).as_components()
    if not _same(teacher.vae, student.vae):
        raise ValueError(
            f"the teacher {str(folder)!r} has another VAE than the student; give one with the same latents"
        )
    text_encoder = teacher.text_encoder
    if student.text.frozen and _same(text_encoder, student.text_encoder):
        text_encoder = student.text_encoder  # T5-XXL is large: one is enough
    for part in (teacher.transformer, text_encoder):
        assert part is not None  # a pipeline has both
        part.requires_grad_(False).eval()
    return replace(teacher, text_encoder=text_encoder, vae=None)


def _size(config: Mapping[str, Any]) -> str:
    """What must be equal for features and frames to be compared."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    channels, patch = config["in_channels"], config["patch_size"]
    return f"{config['num_layers']} blocks of width {width} on {channels} channels in patches of {patch}"


def _same(one: nn.Module | None, other: nn.Module | None) -> bool:
    """Whether two encoders have the same weights; None is the one that leaves pixels as they are."""
    if one is None or other is None:
        return one is other
    weights, others = one.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(
        x.shape == others[name].shape and torch.equal(x, others[name].to(x)) for name, x in weights.items()
    )


def _apart(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared distance of tokens (B, M, D) in units of the teacher's, float32 (B,)."""
    student, teacher = student.float(), teacher.float()
    return (student - teacher).square().mean(dim=(1, 2)) / teacher.square().mean(dim=(1, 2))
