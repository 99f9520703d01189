"""Training runs as values. `python train.py NAME` overrides any of their fields by --section.field VALUE."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

from unireal.data.mixture import Source
from unireal.data.preparation import DataConfig
from unireal.diffusion.flow import TimeSampling
from unireal.names import lookup


@dataclass(frozen=True)
class OptimizerConfig:
    """Muon for the matrices of the transformer's blocks, AdamW for everything else."""

    lr: float = 1e-3
    """Learning rate of AdamW."""
    muon_lr: float = 0.0
    """Learning rate of Muon; 0 gives the matrices to AdamW as well."""
    text_lr: float = 0.0
    """Learning rate of AdamW for a text encoder that is trained jointly; 0 for that of all else."""
    weight_decay: float = 0.0
    """Every step multiplies the weights by 1 - learning rate * weight_decay, in both optimizers."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decays of AdamW's means of the gradients and of their squares."""
    warmup: int = 100
    """Steps of linear rise of the learning rates at the start; they are constant between rise and fall."""
    decay: int = 0
    """Steps of their linear fall to 0 at the end."""
    ema: float = 0.998
    """Decay of the averaged weights that are saved."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 clips none."""

    def __post_init__(self) -> None:
        for name in ("lr", "muon_lr", "text_lr", "weight_decay", "warmup", "decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optimizer.{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.ema <= 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.ema is in 0..1 and betas are in 0..1, without 1, got {self.ema}, {self.betas}")


@dataclass(frozen=True)
class LoraConfig:
    """An adapter that is trained beside the trainable parts, or alone (unireal.model.lora)."""

    rank: int = 0
    """Rank of the adapter; 0 for none."""
    alpha: float = 0.0
    """Its update is scaled by alpha / rank; 0 means rank."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Ends of the names of the layers that it is put on."""
    start: str = ""
    """An adapter to go on with, a shipped one or a folder; its rank, alpha and targets are kept."""

    def __post_init__(self) -> None:
        if self.rank < 0 or not 0 <= self.alpha < math.inf or not self.targets:
            raise ValueError(f"lora has rank >= 0, alpha >= 0 and at least one of targets, got {self}")
        if self.start and (self.rank or self.alpha or self.targets != type(self).targets):
            raise ValueError(f"lora.start {self.start!r} has its own rank, alpha and targets; leave these options out")

    @property
    def used(self) -> bool:
        return bool(self.rank or self.start)


@dataclass(frozen=True)
class Distillation:
    """Training of a model that samples in few steps, from one that needs many (unireal.training.distillation)."""

    steps: int = 0
    """Sampling steps of the student; 0 trains by flow matching instead."""
    substeps: int = 8
    """Steps of the teacher in each of the student's."""
    guidance: float = 1.0
    """Guidance of the teacher; the student learns its result and needs none."""
    image_guidance: float = 1.0
    """Image guidance of the teacher; the student learns its result and needs none."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.substeps < 1:
            raise ValueError(f"distillation has steps >= 0 and substeps >= 1, got {self}")


@dataclass(frozen=True)
class VideoTeacher:
    """A frozen video model that has a say in the training besides the samples (unireal.training.video_teacher)."""

    model: str = ""
    """A shipped model, or a pipeline's folder, of the student's size; empty for no teacher."""
    blocks: float = 1.0
    """Weight of the loss of the features after the blocks."""
    tail: float = 1.0
    """Weight of the loss of the frame that comes out."""
    layers: tuple[int, ...] = ()
    """Numbers of the blocks that are compared, from 0, or from -1 backward; all if there are none."""
    caption: str = "evolution"
    """Key of a record's source that tells how input becomes result; without it, it reads what the student reads."""
    tasks: tuple[str, ...] = ("edit",)
    """Tasks whose samples it has a say in; those of others train as without it."""

    def __post_init__(self) -> None:
        if self.blocks < 0 or self.tail < 0 or not self.blocks + self.tail > 0:
            raise ValueError(f"a teacher has weights blocks and tail >= 0, at least one above 0, got {self}")


@dataclass(frozen=True)
class Stage:
    """What changes in a run at step `start` (UniReal, section 3.3). The learning rate warms up anew."""

    start: int
    """Step from which on it holds."""
    data: DataConfig
    time: TimeSampling | None = None
    """Its times; None for those of the stage before."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: str
    """A name in unireal.config.MODELS; or a model to start from, a shipped one or a pipeline's folder."""
    data: DataConfig = field(default_factory=DataConfig)
    time: TimeSampling = field(default_factory=TimeSampling)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    stages: tuple[Stage, ...] = ()
    """The later stages, in order; data and time are those of the first."""
    trainable: tuple[str, ...] = ()
    """Names in unireal.training.tuning.PARTS, or regular expressions that parameter names contain; all if none."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    distillation: Distillation = field(default_factory=Distillation)
    teacher: VideoTeacher = field(default_factory=VideoTeacher)
    steps: int = 1000
    """Optimizer steps in all."""
    accumulation: int = 1
    """Batches per optimizer step."""
    precision: str = "no"
    """"no" or "bf16", of accelerate's autocast."""
    compile: bool = False
    """torch.compile of every block."""
    gradient_checkpointing: bool = False
    """Recomputes the activations of blocks in the backward pass: less memory, more time."""
    changed_weight: float = 5.0
    """Weight of the changed region in the loss; it is 1 elsewhere."""
    reference_weight: tuple[tuple[int, float], ...] = ()
    """Weight of assets in attention against text: (step, ratio) points, straight lines between; none for 1 always."""
    seed: int = 0
    """Of weights, noise, times and dropout in the model; the order of samples has data.seed."""
    log_every: int = 20
    """Steps between log lines."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints that are kept; older ones are deleted."""
    sample_every: int = 0
    """Steps between sample sheets; 0 for none."""
    workers: int = 1
    """1 makes batches ahead in a process of their own, 0 when they are needed."""

    def __post_init__(self) -> None:
        least = dict.fromkeys(("steps", "accumulation", "log_every", "checkpoint_every", "keep_checkpoints"), 1)
        for name, number in (least | {"sample_every": 0, "seed": 0}).items():
            if getattr(self, name) < number:
                raise ValueError(f"{name} must be at least {number}, got {getattr(self, name)}")
        if self.workers not in (0, 1):
            raise ValueError(f"workers is 1, a process that makes batches ahead, or 0, got {self.workers}")
        if not 0 < self.changed_weight < math.inf:
            raise ValueError(f"changed_weight must be above 0, got {self.changed_weight}")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f'precision must be "no" or "bf16", got {self.precision!r}')
        if self.distillation.steps and (self.teacher.model or self.reference_weight):
            raise ValueError("distillation excludes a teacher and a reference_weight; set --distillation.steps 0")
        steps, ratios = [step for step, _ in self.reference_weight], [ratio for _, ratio in self.reference_weight]
        if steps != sorted(steps) or not all(ratio > 0 for ratio in ratios) or ratios[-1:] not in ([], [1]):
            raise ValueError(
                "reference_weight has ascending (step, ratio above 0) points and ends at 1, as attention is in "
                f"inference, e.g. ((0, 9.0), (5000, 1.0)), got {self.reference_weight}"
            )
        starts = [0, *(stage.start for stage in self.stages)]
        if any(earlier >= later for earlier, later in pairwise(starts)):
            raise ValueError(f"stages start one after the other, from step 1 on, got {starts[1:]}")

    @property
    def course(self) -> tuple[Stage, ...]:
        """All stages, the first one too, with their own times."""
        course = [Stage(0, self.data, self.time)]
        for stage in self.stages:
            course.append(stage if stage.time else replace(stage, time=course[-1].time))
        return tuple(course)

    def time_of(self, stage: int) -> TimeSampling:
        """The times of a stage, by its number in the course."""
        time = self.course[stage].time
        assert time is not None  # course fills it in
        return time

    def stage_at(self, step: int) -> int:
        """The number of the stage in which a step is taken, counted from 0."""
        return max(number for number, stage in enumerate(self.course) if stage.start <= step)


_WORLD, _POOL = "data_builders.world.stream:WorldStream", "data_builders.world.evolution:EvolvingPool"

_SCENES = {"photo_share": 0.08, "tint_share": 0.4}
_LARGER = {"sizes": ((64, 96), (96, 64), (96, 96), (96, 128), (128, 96), (128, 128), (128, 128))}
_SIZES = (Source(_WORLD, 3.0, options=_SCENES), Source(_WORLD, options=_SCENES | _LARGER))

_TINY = TrainConfig(
    model="tiny",
    data=DataConfig(sources=_SIZES, batch_size=16, full_batch_side=64),
    time=TimeSampling(std=1.2, shift=6.0),  # docs/training-log.md
    optimizer=OptimizerConfig(lr=2e-3, muon_lr=0.02, text_lr=3e-4, warmup=40, decay=2000, ema=0.998),
    steps=8000,
    precision="bf16",
    compile=True,
    checkpoint_every=100,
    sample_every=500,
)

# Video4Edit's order (arXiv 2511.18131): frames of videos with captions first, then a few edits again and again.
_FRAMES = DataConfig(
    sources=(
        Source(_WORLD, 3.0, options={"recipes": ("frame2frame",)}),
        Source(_WORLD, 1.0, options={"recipes": ("image_to_video", "t2v")}),
    ),
    batch_size=16,
)
_EDITS = {"count": 1000, "recipes": ("recolor", "remove", "add", "move", "replace")}
_FEW_EDITS = replace(_FRAMES, sources=(Source(_POOL, options=_EDITS),))
_VIDEO_PRIOR = replace(_TINY, data=_FRAMES, stages=(Stage(4000, _FEW_EDITS),))
_VIDEO_TEACHER = "runs/tiny-video-teacher/model"

# Folders of a user's own records (docs/training.md). UniReal does not say in which proportion its sets are drawn.
_CAPTIONS = DataConfig(sources=(Source("data/images", 2.0), Source("data/videos")), side=256, batch_size=8)
_ALL_TASKS = replace(_CAPTIONS, sources=(Source("data/images"), Source("data/pairs", 4.0), Source("data/edits", 2.0)))

_UNIREAL = TrainConfig(
    model="models/unireal-2b",
    data=_CAPTIONS,
    # the four stages of section 3.3; the paper gives their sizes and the learning rate, their lengths are ours
    stages=(
        Stage(20_000, _ALL_TASKS),
        Stage(60_000, replace(_ALL_TASKS, side=512, batch_size=2), TimeSampling(shift=2.0)),
        Stage(80_000, replace(_ALL_TASKS, side=1024, batch_size=1), TimeSampling(shift=4.0)),
    ),
    optimizer=OptimizerConfig(lr=1e-5, warmup=1000, ema=0.9999),
    steps=100_000,
    precision="bf16",
    gradient_checkpointing=True,
    checkpoint_every=1000,
)

EXPERIMENTS: dict[str, TrainConfig] = {
    # seconds; for tests
    "debug": TrainConfig(
        "debug", DataConfig((Source(_WORLD),), batch_size=2), steps=2, log_every=1, checkpoint_every=1, workers=0
    ),
    # the shipped checkpoint; see its model card for what it took
    "tiny": _TINY,
    # a student of the shipped checkpoint that samples in 4 steps (docs/acceleration.md)
    "tiny-4step": replace(
        _TINY,
        model="unireal-tiny",
        distillation=Distillation(steps=4),
        optimizer=OptimizerConfig(lr=2e-4, muon_lr=2e-3, warmup=40, decay=400, ema=0.995),
        steps=2000,
    ),
    # tiny on the latents of an autoencoder
    "tiny-latent": replace(_TINY, model="tiny-latent"),
    # tiny on videos, with Ditto's modality curriculum: the edited first frame is given ever more seldom, then never
    "tiny-video": replace(
        _TINY,
        model="unireal-tiny",
        data=DataConfig(
            sources=(Source(_WORLD, options={"recipes": ("video_edit_reference", "video_edit", "t2v")}),),
            batch_size=8,
            scaffold=((0, 1.0), (1000, 0.2), (1000, 0.0)),
        ),
        steps=1600,
    ),
    # tiny from a video prior of its own (docs/training.md)
    "tiny-video-prior": _VIDEO_PRIOR,
    # the same with distillation: the first stage makes a teacher, of which a copy then learns the edits
    "tiny-video-teacher": replace(_VIDEO_PRIOR, steps=4000),
    "tiny-video-student": replace(
        _TINY, model=_VIDEO_TEACHER, data=_FEW_EDITS, teacher=VideoTeacher(_VIDEO_TEACHER), steps=4000
    ),
    # from CogVideoX (python -m unireal.model.video_prior), for many GPUs
    "unireal-2b": _UNIREAL,
    "unireal-5b": replace(_UNIREAL, model="models/unireal-5b"),
}


def get_experiment(name: str) -> TrainConfig:
    """The run of that name. Raises ValueError with the nearest name for an unknown one."""
    return lookup(EXPERIMENTS, name, "experiment")
