"""The documentation builds without a broken link, and what scripts draw for it is what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unireal.tasks import TASKS

ROOT = Path(__file__).parent.parent


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_pages_build_without_a_broken_link(tmp_path):
    pytest.importorskip("mkdocs", reason="the pages need the extra docs")
    done = _run("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


def test_figures_are_what_the_code_says():
    done = _run("docs/make_figures.py", "--check")
    assert done.returncode == 0, done.stderr


def test_the_gallery_shows_every_task():
    page = (ROOT / "docs" / "tasks.md").read_text()
    for name in TASKS:
        assert f"## {name}\n" in page and (ROOT / "docs" / "images" / f"task-{name}.png").is_file()
