"""infer.py --help, and infer.py TASK --help: what the task takes, and an example that runs; what calls say."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from PIL import Image

from unireal import cli
from unireal.tasks import TASKS
from unireal.video.files import DEFAULT_RATE, VideoWriter


def _help(infer, monkeypatch, *words: str) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    outcome = infer(*words, model=None)
    assert outcome.status == 0 and outcome.err == ""
    return outcome.out


def test_help_of_all_options(infer, monkeypatch):
    told = _help(infer, monkeypatch, "--help")
    assert told.startswith("usage: infer.py TASK [--prompt TEXT]")
    assert all(f"  {name} " in told and spec.summary in told for name, spec in TASKS.items())
    assert all(f"\n{group}:\n" in told for group in ("pictures", "videos", "result", "model and sampling"))
    assert "FILE" in told.split("--layout ")[1].split()[0]  # not JSON text: it is read from a file


@pytest.fixture
def files(tmp_path, picture):
    """Inputs by the names that the examples of the help have."""
    for name in ("canvas", "asset", "depth"):
        picture(f"{name}.png")
    mask = Image.new("L", (24, 16))
    mask.paste(255, (4, 2, 12, 10))
    mask.save(tmp_path / "mask.png")
    with VideoWriter(tmp_path / "video.mp4", DEFAULT_RATE) as writer:
        for level in (40, 80, 120, 160):
            writer.write(np.full((16, 24, 3), level, np.uint8))


@pytest.mark.parametrize("task", TASKS)
def test_help_of_a_task_ends_with_an_example_that_runs(infer, monkeypatch, tmp_path, files, task):
    spec = TASKS[task]
    told = _help(infer, monkeypatch, task, "--help")
    for option, taken in (("--canvas", spec.slot("canvas")), ("--asset", spec.slot("asset")),
                          ("--mask", spec.slot("mask")), ("--control", spec.slot("control")),
                          ("--video", spec.slot("video")), ("--layout", spec.slot("control")),
                          ("--expand", spec.prepare == "expand"), ("--fps", spec.video)):  # fmt: skip
        assert (f"\n  {option} " in told) == bool(taken), option
    assert "\n  --steps " in told and "--jobs" not in told
    before = set(tmp_path.iterdir())
    python, script, *words = shlex.split(told.splitlines()[-1])
    assert (python, script) == ("python", "infer.py")
    outcome = infer(*words)
    assert outcome.status == 0, outcome.err
    assert {path.stem.split("_")[0] for path in set(tmp_path.iterdir()) - before} == {"result"}


def test_help_of_an_unknown_task(infer):
    outcome = infer("edti", "--help", model=None)
    assert (outcome.status, outcome.out) == (2, "") and "did you mean 'edit'?" in outcome.err


def test_an_interrupted_call_shows_no_traceback(infer, picture, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt  # a signal would go to whatever another library has put in Python's place

    picture("in.png")
    monkeypatch.setattr(cli, "_save", interrupted)
    outcome = infer("edit", "--canvas", "in.png", "--prompt", "x", "--output", "o.png")
    assert outcome.status == 130 and outcome.err == "infer.py: interrupted\n"


def test_fewer_frames_than_asked_for_are_told(infer, files):
    outcome = infer("video_edit", "--video", "video.mp4", "--prompt", "x", "--num-frames", 9, "--output", "o.mp4")
    assert outcome.status == 0 and "9 frames were asked for, the video has only 4" in outcome.err
    outcome = infer("video_edit", "--video", "video.mp4", "--prompt", "x", "--num-frames", 2, "--output", "o.mp4")
    assert outcome.status == 0 and outcome.err == ""


def test_spaces_between_accelerations(infer, picture):
    picture("in.png")
    call = ("edit", "--canvas", "in.png", "--prompt", "x", "--output", "o.png")
    assert infer(*call, "--accelerate", "spotedit, condition_cache").status == 0
