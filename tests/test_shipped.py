"""The checkpoint that the repository ships, and what the README says about it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_builders.world.recipes import world_sample
from data_builders.world.render import decode_depth
from data_builders.world.stream import TEST_SEEDS
from unireal.evaluation.metrics import abs_rel
from unireal.evaluation.models import weights_of
from unireal.experiments import get_experiment
from unireal.model.folder import ADAPTERS, SHIPPED
from unireal.pipeline import UniRealPipeline
from unireal.training.start import Start, spelled_words

ROOT = Path(__file__).parent.parent
TINY, LARGER = SHIPPED["unireal-tiny"], ADAPTERS["unireal-tiny-128"]


@pytest.fixture(scope="module")
def pipeline() -> UniRealPipeline:
    pipe = UniRealPipeline.from_pretrained("unireal-tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_small_and_safe():
    files = [path for folder in (TINY, LARGER) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}


def test_it_runs_the_tasks_of_the_demo(pipeline):
    room = Image.open(ROOT / "examples" / "room.png")
    heart = Image.open(ROOT / "examples" / "asset.png")
    edited = pipeline("Make the red circle green.", task="edit", canvas=room).images[0]
    inserted = pipeline("Add the object from IMG2 to IMG1.", task="insert", canvas=room, asset=heart).images[0]
    mask = pipeline("the red circle", task="segment", canvas=room).images[0]
    assert edited.size == inserted.size == mask.size == room.size
    assert set(np.unique(np.asarray(mask))) <= {0, 255}


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (128, 128)])
def test_its_depth_beats_the_canvas_by_far_at_any_size(pipeline, size):
    """Weak on purpose: the benchmark's table says how good it is, this only says that it has learned something."""
    samples = [world_sample("depth", TEST_SEEDS + seed, size) for seed in range(6)]
    outputs = [images[0] for images in pipeline.generate(samples)]
    truths = [decode_depth(sample.results[0].image) for sample in samples]
    ours = np.mean([abs_rel(decode_depth(o), t) for o, t in zip(outputs, truths, strict=True)])
    copied = np.mean([abs_rel(decode_depth(s.inputs[0].image), t) for s, t in zip(samples, truths, strict=True)])
    assert 5 * ours < copied


def test_its_adapter_makes_larger_pictures_better(pipeline, caplog):
    adapted = UniRealPipeline.from_pretrained("unireal-tiny")
    adapted.load_lora_weights("unireal-tiny-128")
    assert not caplog.text  # it was trained on these weights
    samples = [world_sample("recolor", TEST_SEEDS + seed, (128, 128)) for seed in range(6)]
    errors = {pipe: [] for pipe in (pipeline, adapted)}
    for pipe, found in errors.items():
        for sample, (made,) in zip(samples, pipe.generate(samples), strict=True):
            difference = made.astype(float) - sample.results[0].image
            found.append(np.square(difference[sample.mask]).mean())
    assert np.mean(errors[adapted]) < 0.8 * np.mean(errors[pipeline])


@pytest.mark.parametrize(
    ("one", "other"),
    [("a large red circle", "a large blue circle"), ("the object from IMG1", "the object from IMG2")],
)
def test_its_text_encoder_says_at_a_place_what_is_there(pipeline, one, other):
    """Without that, two things get the same mixed colour, or the same mixed picture."""
    text = pipeline.as_components().text
    here, there = (f"{a} at the left and {b} at the right in a sand room." for a, b in ((one, other), (other, one)))
    tokens = text.tokenizer([here, there], return_tensors="pt")
    left = text.tokenizer.convert_tokens_to_ids("\u2581left")
    features = text.model(**tokens).last_hidden_state[tokens["input_ids"] == left]  # (2, D)
    assert torch.dist(*features) > 0.15 * features.norm(dim=-1).mean()


def test_the_benchmark_run_beside_it_is_of_this_model():
    for folder in (TINY, LARGER):
        for path in folder.glob("world*.json"):
            run = json.loads(path.read_text())
            assert run["benchmark"] == "world" and run["settings"]["model"] == "unireal-tiny"
            assert all(row["n"] > 0 and "copy" in row["baselines"] for row in run["rows"])
    settings = json.loads((LARGER / "world-128x128.json").read_text())["settings"]
    assert settings["lora weights"] == weights_of("unireal-tiny-128")


def test_the_readmes_tables_are_up_to_date():
    done = subprocess.run(
        [sys.executable, "docs/update_readme.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_it_has_a_token_for_every_word_that_it_was_trained_on(pipeline):
    """Words that are spelled letter by letter are hardly read: see unireal.model.vocabulary."""
    config = get_experiment("tiny")
    start = Start(pipeline.as_components(), {}, TINY)
    assert spelled_words(config, start) == []
