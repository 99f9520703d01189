"""What a run leaves to look at and to use: sample sheets, and the model or the adapter with averaged weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from PIL import Image

from unireal.data.mixture import Mixture
from unireal.data.preparation import DataConfig, fitted
from unireal.experiments import TrainConfig
from unireal.files import replacing
from unireal.model.build import Components
from unireal.model.lora import merged, save_lora
from unireal.pipeline import UniRealPipeline
from unireal.training.checkpoint import as_os_error
from unireal.training.start import Start

SHEET_ROWS = 16


@contextmanager
def averaged(ema: EMAModel, parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """Inside, the parameters hold their moving averages."""
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


def save_model(components: Components, start: Start, config: TrainConfig, output: Path) -> None:
    """Saves output/model, a pipeline's folder, unless an adapter alone was trained, and output/lora if there is one.

    The adapter is merged into the model.
    """
    if config.lora.used and not config.trainable:
        _replace(output / "lora", lambda folder: save_lora(components.transformer, folder))
    elif components.text_encoder is None:  # what was not loaded is copied
        origin = start.folder
        assert origin is not None  # a fresh model has its text encoder
        _replace(output / "model", lambda folder: _save_with_encoders_of(origin, components, folder))
    else:
        pipeline = UniRealPipeline.from_components(components, **start.settings)
        _replace(output / "model", lambda folder: pipeline.save_pretrained(folder, safe_serialization=True))
    if config.lora.used and config.trainable:
        _replace(output / "lora", lambda folder: save_lora(components.transformer, folder))


def _save_with_encoders_of(source: Path, components: Components, folder: Path) -> None:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("transformer"))
    merged(components.transformer).save_pretrained(folder / "transformer", safe_serialization=True)


def _replace(folder: Path, save: Callable[[Path], None]) -> None:
    """Lets `save` write a folder, whole or not at all; an earlier one is replaced. Raises OSError if it cannot."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with as_os_error():
            save(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_sheet(components: Components, settings: dict[str, Any], data: DataConfig, path: Path) -> None:
    """A PNG with one row per example: inputs, truth, result. Of finite data sets it shows what was trained on."""
    pipeline = UniRealPipeline.from_components(components, **settings)
    pipeline.set_progress_bar_config(disable=True)
    mixture = Mixture(data.sources, data.seed)
    mixture.go_far()
    samples = list(islice(mixture, SHEET_ROWS))
    rows = []
    for sample in samples:
        sample = fitted(sample, data.side, data.multiple) if data.side else sample
        frames = [f.image for f in (*sample.inputs, *sample.results)] + pipeline.generate([sample])[0]
        height = max(f.shape[0] for f in frames)
        rows.append(np.concatenate([np.pad(f, ((0, height - f.shape[0]), (0, 4), (0, 0))) for f in frames], axis=1))
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(r, ((0, 4), (0, width - r.shape[1]), (0, 0))) for r in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, f".unfinished{path.suffix}") as temporary:
        Image.fromarray(sheet).save(temporary)
