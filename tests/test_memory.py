"""Models larger than a GPU's memory: offloading, and what is said where the memory does not suffice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

import unireal.cli
from unireal.arguments import memory_errors
from unireal.demo.engine import Engine
from unireal.evaluation.__main__ import main as evaluation
from unireal.evaluation.models import Source, load_model
from unireal.evaluation.options import parse
from unireal.metadata import Recipe
from unireal.pipeline import UniRealPipeline
from unireal.request import Request
from unireal.training.cli import main
from unireal.training.trainer import Trainer

_EDIT = "edit --canvas in.png --prompt green --output".split()


@pytest.fixture
def offloaded(monkeypatch):
    """Lets the CPU stand for a GPU; returns the classes of the pipelines that offload to it."""
    enable, found = DiffusionPipeline.enable_model_cpu_offload, set()

    def noted(self, *arguments, **options):
        found.add(type(self).__name__)
        return enable(self, *arguments, **options)

    monkeypatch.setattr(DiffusionPipeline, "enable_model_cpu_offload", noted)
    monkeypatch.setattr(unireal.cli, "usable_device", lambda name, offload: "cpu")
    return found


def _pixels(name: str) -> np.ndarray:
    return np.asarray(Image.open(name))


def test_offloading_gives_the_same_picture(infer, picture, offloaded):
    picture("in.png")
    for name, options in (("plain.png", []), ("kept.png", ["--offload"])):
        outcome = infer(*_EDIT, name, *options)
        assert outcome.status == 0, outcome.err
        assert offloaded == ({"UniRealPipeline"} if options else set())
    assert np.array_equal(_pixels("plain.png"), _pixels("kept.png"))


def test_public_weights_are_offloaded_too(infer, picture, offloaded, kontext_folder):
    picture("in.png", (40, 24))
    for name, options in (("plain.png", []), ("kept.png", ["--offload"])):
        outcome = infer(*_EDIT, name, "--steps", 2, "--accelerate", "spotedit:tau=0", *options, model=kontext_folder)
        assert outcome.status == 0, outcome.err
        assert offloaded == ({"FluxKontextPipeline"} if options else set())
    assert np.array_equal(_pixels("plain.png"), _pixels("kept.png"))


def test_evaluation_offloads(offloaded, kontext_folder, tmp_path):
    asked = ["world", "--model", str(kontext_folder), "--output", str(tmp_path)]
    assert not Source.asked(parse(asked)).offload
    source = Source.asked(parse([*asked, "--offload"]))
    load_model(source)
    assert offloaded == {"FluxKontextPipeline"}
    assert source.settings == Source(str(kontext_folder)).settings  # the same numbers


@pytest.mark.parametrize("device", [(), ("--device", "cpu")])
def test_the_cpu_is_not_offloaded(infer, picture, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    picture("in.png")
    outcome = infer(*_EDIT, "o.png", "--offload", *device, model="/nowhere/at/all")  # told before the model is loaded
    assert outcome.status == 2 and "the device is the CPU; leave it out" in outcome.err


def _too_much(*arguments, **options) -> None:
    torch.empty(2**60)


def test_too_little_memory_is_told_with_a_remedy(infer, picture, monkeypatch, tmp_path):
    picture("in.png")
    monkeypatch.setattr(UniRealPipeline, "__call__", _too_much)
    outcome = infer(*_EDIT, "o.png")
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert "the memory does not suffice" in outcome.err and "--offload" in outcome.err
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"task": "edit", "prompt": "x", "canvas": "in.png", "output": "a.png"}\n')
    assert infer("--jobs", jobs).err.count("the memory does not suffice") == 1


def test_of_a_gpu_as_well():
    with pytest.raises(ValueError, match=r"\(CUDA out of memory\); try less$"), memory_errors("try less"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")
    with pytest.raises(RuntimeError, match="shapes"), memory_errors("try less"):
        raise RuntimeError("shapes differ")


def test_training_tells_it_too(tmp_path, monkeypatch, capfd, small_training):
    monkeypatch.setattr(Trainer, "_backward", _too_much)
    assert main(["debug", "--output", str(tmp_path / "run")]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("train.py: the memory does not suffice") and "--data.batch-size" in last


def test_evaluation_tells_it_too(tiny_pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(UniRealPipeline, "generate", _too_much)
    model = ["--model", str(tiny_pipeline_folder), "--output", str(tmp_path / "out")]
    assert evaluation(["world", *model, "--only", "recolor", "--limit", "1", "--size", "16x16"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]  # after the progress bar
    assert last.startswith("error: the memory does not suffice") and "--batch-size" in last


def test_the_page_tells_it_too(tiny_pipeline_folder, monkeypatch):
    monkeypatch.setattr(UniRealPipeline, "__call__", _too_much)
    engine = Engine(str(tiny_pipeline_folder), "cpu")
    with pytest.raises(ValueError, match=r"the memory does not suffice .*; ask for a smaller result"):
        list(engine.run(Recipe(Request("t2i", "red"))))
    engine.close()
    monkeypatch.setattr(UniRealPipeline, "to", _too_much)
    engine = Engine(str(tiny_pipeline_folder), "cpu")
    with pytest.raises(ValueError, match=r"the memory does not suffice .*; start the page with --dtype"):
        engine.description()
    engine.close()
