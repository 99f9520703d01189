"""A newcomer's path: every command of the README's `bash` and `python` blocks, in order, as it stands there.

Blocks of kind `console` are shown only: they install, train for hours or stay up as a server. The commands run in this
process, since loading the libraries anew for each takes longer than all else.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from processes import forget_accelerate

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)


def _commands(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs `python FILE ...` or `python -m MODULE ...` as the interpreter would."""
    assert words[0] == "python", f"only python commands belong into bash blocks, found: {shlex.join(words)}"
    module = words[1] == "-m"
    name, arguments = (words[2], words[3:]) if module else (words[1], words[2:])
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setattr(os, "_exit", sys.exit)  # how data builders end once Daft is loaded, and with it all tests
    status = None
    try:
        if module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as stop:
        status = stop.code
    assert not status, f"{shlex.join(words)} ended with {status}"


def test_every_command_runs_as_it_stands(tmp_path, monkeypatch):
    for name in ("infer.py", "train.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    count = 0
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "README.md", "exec"), {})
            count += 1
        for words in _commands(block) if kind == "bash" else ():
            _run(words, monkeypatch)
            count += 1
    forget_accelerate()
    assert count >= 12
    pictures = ("green.png", "runs/jobs/follows.png", "both_2.png", "region.png")
    for made in (*pictures, "edited.mp4", "data/control/preview.html"):
        assert (tmp_path / made).is_file(), made
