"""The documentation builds without a broken link, and what scripts draw for it is what the code says."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_builders.__main__ import BUILDERS
from unireal.evaluation.benchmarks import PUBLIC
from unireal.model.folder import SHIPPED
from unireal.tasks import TASKS

ROOT = Path(__file__).parent.parent


def _checked(script: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of `python SCRIPT --check`, run in this process, which has the libraries loaded."""
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return stop.value.code


def test_the_pages_build_without_a_broken_link(tmp_path):
    pytest.importorskip("mkdocs", reason="the pages need the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


def test_figures_are_what_the_code_says(monkeypatch):
    assert _checked("docs/make_figures.py", monkeypatch) == 0


def test_the_gallery_shows_every_task(monkeypatch):
    assert _checked("docs/make_gallery.py", monkeypatch) == 0
    assert all(f"## {name}\n" in (ROOT / "docs" / "tasks.md").read_text() for name in TASKS)


def test_scripts_write_utf8_wherever_they_run():
    """Pages hold arrows, which the usual encoding of Windows has not."""
    for script in (ROOT / "docs").glob("*.py"):
        calls = re.findall(r"(?:read|write)_text\(.*", script.read_text(encoding="utf-8"))
        assert all('encoding="utf-8"' in call for call in calls), (script.name, calls)


def test_pictures_stay_small():
    made = [*(ROOT / "docs" / "images").glob("task-*.png"), *(ROOT / "docs" / "images").glob("*.svg")]
    assert sum(path.stat().st_size for path in made) < 600 * 1024


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"])
def test_links_outside_the_pages_lead_somewhere(page):
    """mkdocs looks at docs/ only."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if ":" not in link]
    assert not [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()]


def test_commands_of_the_pages_are_known():
    """Modules and scripts that the pages name exist, and so do the benchmarks and builders among their arguments."""
    benchmarks = {"world", "judge", "compare", "html", "BENCHMARK", *PUBLIC}
    known = {"unireal.evaluation": benchmarks, "data_builders": {"BUILDER", *BUILDERS}}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for option, name, argument in re.findall(r"python (-m )?([\w./]+)(?: ([\w]+))?", page.read_text()):
            file = ROOT / (name.replace(".", "/") if option else name)
            assert file.exists() or file.with_suffix(".py").exists() or name == "pytest", (page.name, name)
            if option and argument:
                assert argument in known.get(name, {argument}) or argument == "list", (page.name, name, argument)


@pytest.mark.parametrize("page", ["index", "python-api", "acceleration"])
def test_the_first_python_of_a_page_runs_as_it_stands(page, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    block = re.search(r"^```python\n(.*?)^```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(block[1], f"{page}.md", "exec"), {})


def test_headlines_have_no_number_that_was_not_measured(monkeypatch):
    """Without rows of the benchmark, what stands in them is not measured; with rows, their numbers are shown."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    from headlines import NOT_MEASURED, SYSTEMS, headlines

    run = json.loads((SHIPPED["unireal-tiny"] / "world.json").read_text())
    looked_up = [headline.here for claims in SYSTEMS.values() for headline in claims if headline.here]
    without, written = headlines({"rows": []}), headlines(run)
    assert without.count(f"| {NOT_MEASURED} |") == written.count(f"| {NOT_MEASURED} |") + len(looked_up)
    for recipe, metric in looked_up:
        row = next(r for r in run["rows"] if (r["recipe"], r["metric"], r["subset"]) == (recipe, metric, "standard"))
        assert f"{metric} **{row['mean']:.{1 if row['mean'] >= 10 else 3}f}**" in written
