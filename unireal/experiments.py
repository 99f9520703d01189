"""Training runs as values: `python train.py NAME`. A variant is a `replace` of another; every field can be overridden
on the command line as --section.field VALUE.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from unireal.data.buckets import DataConfig
from unireal.data.mixture import Source
from unireal.diffusion.flow import TimeSampling
from unireal.names import lookup


@dataclass(frozen=True)
class OptimizerConfig:
    """Muon for the matrices of the transformer's blocks, AdamW for everything else.

    muon_lr: learning rate of Muon; 0 gives the matrices to AdamW as well. lr: of AdamW.
    warmup, decay: steps of linear rise at the start and fall to 0 at the end; constant between.
    ema: decay of the averaged weights that are saved; max_grad_norm: of clipping.
    """

    lr: float = 1e-3
    muon_lr: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int = 100
    decay: int = 0
    ema: float = 0.998
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    model:      a name in unireal.config.MODELS, or a folder saved by an earlier run to start from.
    steps:      optimizer steps in all; accumulation: batches per step.
    precision:  "no" or "bf16", of accelerate's autocast; compile: torch.compile of every block.
    changed_weight: weight of the changed region in the loss, 1 elsewhere.
    log_every, checkpoint_every, sample_every: steps between log lines, checkpoints and sample sheets (0: none).
    """

    model: str
    data: DataConfig = field(default_factory=DataConfig)
    time: TimeSampling = field(default_factory=TimeSampling)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 1000
    accumulation: int = 1
    precision: str = "no"
    compile: bool = False
    gradient_checkpointing: bool = False
    changed_weight: float = 5.0
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    sample_every: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f'precision must be "no" or "bf16", got {self.precision!r}')


_WORLD = "data_builders.world.stream:WorldStream"

_TINY = TrainConfig(
    model="tiny",
    data=DataConfig(sources=(Source(_WORLD, options={"photo_share": 0.08}),), batch_size=32),
    time=TimeSampling(std=1.2, shift=6.0),  # docs/training-log.md
    optimizer=OptimizerConfig(lr=2e-3, muon_lr=0.02, warmup=40, decay=400, ema=0.995),
    steps=4000,
    precision="bf16",
    compile=True,
    checkpoint_every=100,
    sample_every=500,
)

EXPERIMENTS: dict[str, TrainConfig] = {
    # seconds; for tests
    "debug": TrainConfig(
        model="debug",
        data=DataConfig(sources=(Source(_WORLD),), batch_size=2),
        steps=2,
        log_every=1,
        checkpoint_every=1,
        workers=0,
    ),
    # the shipped checkpoint; see its model card for what it took
    "tiny": _TINY,
    # the same on the latents of an autoencoder
    "tiny-latent": replace(_TINY, model="tiny-latent"),
}


def get_experiment(name: str) -> TrainConfig:
    """The run of that name. Raises ValueError with the nearest name for an unknown one."""
    return lookup(EXPERIMENTS, name, "experiment")
