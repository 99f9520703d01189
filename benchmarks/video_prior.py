"""How much supervision a model needs that has learned from videos before (Video4Edit, arXiv 2511.18131), and the
ablations that UniReal prints (arXiv 2412.07774, table 4), at a small size in the procedural world.

    python -m benchmarks.video_prior --output runs/video-prior [--distilled]

Every run is the experiment `tiny-video-prior` with other stages, at 32x32 pixels: the same start, the same number of
optimizer steps in all, the same held-out scenes. `scratch` spends all steps on supervised edits, `video prior` the
first half on frames of videos with captions. The supervised samples are a pool of so many different ones, seen again
in every pass. With --distilled there are two more ways to spend the second half: a copy of what the first half made
learns the edits, as a `student` of the original (unireal.training.video_teacher), or, to tell what that alone does, as
a mere `copy of the prior`.

A run that is finished is not run again, and one that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.video_prior_report import Score, write_report
from unireal.arguments import failed
from unireal.config import MODELS, ModelConfig
from unireal.data.sources import Source
from unireal.evaluation.results import write_json
from unireal.evaluation.world import World
from unireal.experiments import Stage, TrainConfig, VideoTeacher, get_experiment
from unireal.model.build import build
from unireal.names import lookup
from unireal.pipeline import UniRealPipeline
from unireal.sample import Sample
from unireal.training.checkpoint import complete_checkpoints
from unireal.training.start import vocabulary
from unireal.training.trainer import Trainer

SIZE = (32, 32)
EDITS = ("recolor", "remove", "add", "move")
SAMPLING_STEPS = 1  # docs/training-log.md: more do not help a model of this kind
SMALL = ModelConfig(
    transformer=MODELS["tiny"].transformer
    | {"num_layers": 3, "num_attention_heads": 3, "attention_head_dim": 32, "patch_size": 8, "in_channels": 3}
    | {"position_span": SIZE[0] // 8},  # as many as there are tokens, so that these are counted
    text={
        **{"d_model": 96, "d_kv": 24, "d_ff": 192, "num_layers": 2, "num_heads": 4},
        **{"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0},
    },
    vae=None,
    native_size=SIZE,
)
# UniReal's ablation leaves out the roles alone. Where every sample has one canvas, these follow from the number of the
# frame, so the embeddings of IMGk and RESk go as well: positions in time are left to tell inputs from results.
IMAGE_PROMPT = r"transformer\.(role|index)_embedding\."


@dataclass(frozen=True)
class Run:
    """One training.

    video: share of the steps that are spent on frames of videos, before the edits; pool: share of the supervised
    samples that the rest sees. context, image_prompt: whether the model is told these, in training and after.
    distillation: None, or a copy of what the videos made learns the edits, and the original is its teacher, with this
    weight.
    """

    video: float
    pool: float
    context: bool = True
    image_prompt: bool = True
    distillation: float | None = None


PRIOR = 0.5
RUNS: dict[str, Run] = {
    f"{way}, {pool:.0%}": Run(video, pool)
    for pool in (0.01, 0.1, 1.0)
    for way, video in (("scratch", 0.0), ("video prior", PRIOR))
} | {
    "without context prompt": Run(PRIOR, 1.0, context=False),
    "without image prompt": Run(PRIOR, 1.0, image_prompt=False),
    "only video data": Run(1.0, 0.0),
}
DISTILLED: dict[str, Run] = {
    f"{way}, {pool:.0%}": Run(PRIOR, pool, distillation=weight)
    for pool in (0.01, 0.1, 1.0)
    for way, weight in (("copy of the prior", 0.0), ("student", 1.0))
}
ALL = RUNS | DISTILLED


@dataclass(frozen=True)
class Setup:
    """The size of all runs: optimizer steps, supervised samples at 100%, samples of a batch, held-out scenes for each
    recipe. Raises ValueError for too few to be shared out."""

    steps: int
    samples: int
    batch_size: int
    scenes: int

    def __post_init__(self) -> None:
        for name, least in (("steps", 2), ("samples", 100), ("batch_size", 1), ("scenes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}")


def training(run: Run, setup: Setup, start: Path, seed: int) -> TrainConfig:
    """The training of a run from the model in the folder `start`: what the videos made, for a copy of it."""
    experiment = get_experiment("tiny-video-prior")
    data = replace(
        experiment.data,
        batch_size=setup.batch_size,
        seed=seed,
        text_dropout=0.0,  # these two are for guidance, of which there is none here
        input_dropout=0.0,
        context_dropout=experiment.data.context_dropout if run.context else 1.0,
    )
    videos = replace(data, sources=tuple(_small(source, seed) for source in experiment.data.sources))
    first_edit = round(setup.steps * run.video)
    first, stages = videos, ()
    if run.pool:
        options = {"count": round(setup.samples * run.pool), "recipes": EDITS}
        pool = _small(Source("data_builders.world.evolution:EvolvingPool", options=options), seed)
        edits = replace(data, sources=(pool,))
        through = first_edit and run.distillation is None
        first, stages = (videos, (Stage(first_edit, edits),)) if through else (edits, ())
    weight = run.distillation or 0.0
    return replace(
        experiment,
        model=str(start),
        data=first,
        stages=stages,
        teacher=VideoTeacher(str(start), blocks=weight, tail=weight) if weight else VideoTeacher(),
        trainable=() if run.image_prompt else (rf"^(?!{IMAGE_PROMPT})",),
        optimizer=replace(experiment.optimizer, text_lr=1e-3, ema=0.99, warmup=30, decay=setup.steps // 4),
        steps=setup.steps if run.distillation is None else setup.steps - first_edit,
        precision="no",
        compile=False,
        seed=seed,
        log_every=min(50, setup.steps),
        checkpoint_every=min(200, setup.steps),
        keep_checkpoints=1,
        sample_every=0,
        workers=0,
    )


def _small(source: Source, seed: int) -> Source:
    return replace(source, options=source.options | {"sizes": (SIZE,), "seed": seed})


def make_start(run: Run, setup: Setup, folder: Path, seed: int) -> Path:
    """Saves the model that runs of this seed start from: the same weights and words for all of them. Without an image
    prompt its embeddings are 0, and are not trained."""
    path = folder / ("start" if run.image_prompt else "start without image prompt")
    if not (path / "model_index.json").exists():
        everything = training(RUNS["video prior, 100%"], setup, path, seed)
        parts = build(SMALL, vocabulary(everything), seed)
        if not run.image_prompt:
            for embedding in (parts.transformer.role_embedding, parts.transformer.index_embedding):
                torch.nn.init.zeros_(embedding.weight)
        pipeline = UniRealPipeline.from_components(parts, everything.time.shift, native_size=SIZE)
        temporary = path.with_name(f"{path.name}.unfinished")
        pipeline.save_pretrained(temporary, safe_serialization=True)
        temporary.rename(path)
    return path


def make_prior(start: Path, setup: Setup, folder: Path, seed: int) -> Path:
    """Trains what runs with distillation start from, on frames of videos alone for their share of the steps."""
    path = folder / "prior"
    if not (path / "model").exists():
        train(training(Run(1.0, 0.0), replace(setup, steps=round(setup.steps * PRIOR)), start, seed), path)
    return path / "model"


def train(config: TrainConfig, folder: Path) -> None:
    """Trains to the end, from the last checkpoint if there is one."""
    trainer = Trainer(config, folder)
    if complete_checkpoints(folder / "checkpoints"):
        trainer.resume()
    trainer.train()


def score(run: Run, setup: Setup, model: Path) -> list[dict[str, Any]]:
    """The world benchmark's rows on its standard scenes, with the baselines in them."""
    pipeline = UniRealPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)

    def generate(samples: Sequence[Sample], seed: int) -> list:
        asked = samples if run.context else [replace(sample, context="") for sample in samples]
        return pipeline.generate(asked, num_inference_steps=SAMPLING_STEPS, seed=seed)

    report = World(limit=setup.scenes, only=EDITS, size=SIZE).run(generate)
    return [asdict(row) for row in report.rows if row.subset == "standard"]


def claim(output: Path, setup: Setup) -> None:
    """Makes the folder one of runs of this size. Raises ValueError if it holds runs of another one."""
    path = output / "settings.json"
    if not path.exists():
        write_json(path, asdict(setup))
    elif (found := json.loads(path.read_text(encoding="utf-8"))) != asdict(setup):
        raise ValueError(f"{output} holds runs with {found}, not {asdict(setup)}; give another --output")


def run_all(names: Sequence[str], setup: Setup, seeds: int, output: Path) -> Iterator[list[Score]]:
    """Everything that is known after each run."""
    claim(output, setup)
    known: list[Score] = []
    for seed in range(seeds):
        for name in names:
            folder = output / f"seed {seed}"
            path = folder / name / "score.json"
            if not path.exists():
                start = make_start(ALL[name], setup, folder, seed)
                if ALL[name].distillation is not None:
                    start = make_prior(start, setup, folder, seed)
                train(training(ALL[name], setup, start, seed), folder / name)
                rows = score(ALL[name], setup, folder / name / "model")
                write_json(path, asdict(Score(name, seed, asdict(setup), rows)))
            known.append(Score.read(path))
            yield known


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.video_prior", description="Edit quality against the share of supervision."
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the runs, results.json, the table, the chart"
    )
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of every run (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=10_000, help="supervised ones at 100%% (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=64, help="held out, for each recipe (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of every kind (default: %(default)s)")
    parser.add_argument("--only", action="append", metavar="RUN", help=f"some of: {'; '.join(ALL)}".replace("%", "%%"))
    parser.add_argument("--distilled", action="store_true", help="with the runs of a video teacher and its students")
    options = parser.parse_args(arguments)
    try:
        names = options.only or list(ALL if options.distilled else RUNS)
        for name in names:
            lookup(ALL, name, "run")
        setup = Setup(options.steps, options.samples, options.batch_size, options.scenes)
        if options.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {options.seeds}")
        for known in run_all(names, setup, options.seeds, options.output):
            text = write_report(known, options.output)
        print(text)
    except (ValueError, OSError) as error:
        return failed(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
