"""What a run leaves to look at and to use: sample sheets and the model with averaged weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from PIL import Image

from unireal.config import MODELS
from unireal.data.mixture import Mixture
from unireal.experiments import TrainConfig
from unireal.model.build import Components
from unireal.pipeline import UniRealPipeline

SHEET_ROWS = 16
_FAR = 1 << 30  # a place in endless streams that training never reaches, so that sheets show what is new


@contextmanager
def averaged(ema: EMAModel, parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """Inside, the parameters hold their moving averages."""
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


def save_pipeline(components: Components, config: TrainConfig, folder: Path) -> None:
    """Saves a pipeline folder, whole or not at all; an earlier one is replaced."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    _pipeline(components, config).save_pretrained(temporary, safe_serialization=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def save_sheet(components: Components, config: TrainConfig, path: Path) -> None:
    """A PNG with one row per example: inputs, truth, result. Of finite data sets it shows what was trained on."""
    pipeline = _pipeline(components, config)
    pipeline.set_progress_bar_config(disable=True)
    mixture = Mixture(config.data.sources, config.data.seed)
    mixture.load_state({"draw": 0, "counts": [_FAR] * len(config.data.sources)})
    samples = list(islice(mixture, SHEET_ROWS))
    rows = []
    for sample in samples:
        frames = [f.image for f in (*sample.inputs, *sample.results)] + pipeline.generate([sample])[0]
        height = max(f.shape[0] for f in frames)
        rows.append(np.concatenate([np.pad(f, ((0, height - f.shape[0]), (0, 4), (0, 0))) for f in frames], axis=1))
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(r, ((0, 4), (0, width - r.shape[1]), (0, 0))) for r in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)


def _pipeline(components: Components, config: TrainConfig) -> UniRealPipeline:
    model = MODELS.get(config.model)
    size = {} if model is None else {"native_size": model.native_size}
    return UniRealPipeline.from_components(components, shift=config.time.shift, **size)
