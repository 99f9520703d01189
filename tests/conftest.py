"""What several tests share: a saved pipeline of the debug size, and infer.py called in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unireal import plugins
from unireal.config import MODELS
from unireal.model.build import Components, build
from unireal.pipeline import UniRealPipeline
from unireal.tasks import TASKS

os.environ["HF_HUB_OFFLINE"] = "1"
WORDS = ["Make", "make", "the", "red", "circle", "blue", "Segment", "remove", "Fill", "Extend", "hole", "in", "of"]


def debug_components(seed: int = 0, text_length: int = 64, **transformer) -> Components:
    """Parts of the debug size with random weights everywhere: a fresh model's output layers are 0."""
    config = MODELS["debug"]
    config = replace(config, transformer=config.transformer | transformer, max_text_length=text_length)
    parts = build(config, WORDS, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in parts.transformer.named_parameters():
            if parameter.ndim > 1 or "norm" not in name:
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return parts


def quiet_pipeline(parts: Components, **config) -> UniRealPipeline:
    pipeline = UniRealPipeline.from_components(parts, **{"default_steps": 2} | config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def status_of(main: Callable[[list[str]], int], arguments: list[str]) -> int | str | None:
    """Of a command line: what it returns, or with what its parser exits."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def plugins_of_one_test(monkeypatch):
    """A task that a test's plugin registers is unknown to the tests after it."""
    monkeypatch.setattr(plugins, "_LOADED", {})
    known = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(known)


@pytest.fixture
def small_training(monkeypatch):
    """Runs in this process start anew, and with a small vocabulary."""
    from processes import forget_accelerate

    from unireal.training import start

    monkeypatch.setattr(start, "_VOCABULARY_SAMPLES", 50)
    forget_accelerate()
    yield
    forget_accelerate()


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory) -> Path:
    """A pipeline of the debug size as a folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("models") / "debug"
    quiet_pipeline(debug_components()).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_pipeline_folder) -> UniRealPipeline:
    pipeline = UniRealPipeline.from_pretrained(tiny_pipeline_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def kontext_folder(tmp_path_factory) -> Path:
    """A tiny FluxKontextPipeline as a folder; tests must not change it."""
    from test_public_spotedit import flux

    folder = tmp_path_factory.mktemp("public") / "kontext"
    flux().save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def infer(capfd, monkeypatch, tmp_path, tiny_pipeline_folder):
    """Calls infer.main(arguments) in tmp_path with the debug model; returns status, stdout and stderr."""
    from unireal.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, model: object = tiny_pipeline_folder) -> Outcome:
        capfd.readouterr()
        try:
            status = main([str(a) for a in arguments] + (["--model", str(model)] if model else []))
        except SystemExit as stop:
            status = stop.code
        return Outcome(status, *capfd.readouterr())

    return call


@pytest.fixture
def picture(tmp_path):
    """Writes a random picture of (width, height) and returns its path."""

    def write(name: str, size: tuple[int, int] = (24, 16), seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        path = tmp_path / name
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
        return path

    return write
