"""Options of `python -m unireal.evaluation`: every benchmark has those that it reads, and refuses all others."""

from __future__ import annotations

import sys

import pytest
from benchmark_folders import FOLDERS
from conftest import status_of

from data_builders.world import render
from unireal.evaluation import BENCHMARKS
from unireal.evaluation.__main__ import main
from unireal.evaluation.benchmarks import PUBLIC
from unireal.evaluation.options import COMMANDS, parse, parser_of

WORLD_ALONE = {"--batch-size", "--size", "--pictures", "--frame-encoder"}
PUBLIC_ALONE = {"--images", "--score-only", "--generate-only", "--data", "--skip", "--also", "--backbone", "--workers"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return FOLDERS["imgedit"](tmp_path_factory.mktemp("imgedit"))


def _options(name):
    return {flag for action in parser_of(name)._actions for flag in action.option_strings}


def test_help_shows_what_a_benchmark_reads_and_nothing_else(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(name in overview for name in (*BENCHMARKS, *PUBLIC, *COMMANDS))
    assert _options("world") >= WORLD_ALONE and not _options("world") & (PUBLIC_ALONE | {"--split"})
    for name, benchmark in PUBLIC.items():
        assert _options(name) >= PUBLIC_ALONE and not _options(name) & WORLD_ALONE
        assert ("--split" in _options(name)) == (len(benchmark.splits) > 1)
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert end.value.code == 0 and benchmark.title in text
        for word in (*benchmark.measures, *benchmark.backbones):
            assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imgedit", "--baseline", "copy", "--pictures", "3"], "--pictures, which is an option of world; see"),
        (["imgedit", "--baseline", "copy", "--frame-encoder=x"], "does not read --frame-encoder"),
        (["imgedit", "--model", "m", "--batch-size", "4"], "does not read --batch-size"),
        (["imgedit", "--baseline", "copy", "--split", "test"], "does not read --split"),
        (["world", "--baseline", "copy", "--data", "x"], "world does not read --data"),
        (["world", "--baseline", "copy", "--score-only"], "does not read --score-only"),
        (["world", "--baseline", "copy", "--bckbone", "x"], "unknown option '--bckbone'"),
        (["world", "--baseline", "copy", "--only", "recolor", "add"], "'add' belongs to no option; lists"),
        (["imgedit", "--baseline", "copy", "--steps", "3"], "--steps is for what a --model makes"),
        (["imgedit", "--score-only", "--seed", "3"], "--seed is for what a --model makes"),
        (["imgedit", "--images", ".", "--image-guidance", "1.5"], "--image-guidance is for"),
        (["world", "--baseline", "copy", "--batch-size", "3"], "--batch-size is for what a --model makes"),
        (["imgedit", "--baseline", "copy", "--generate-only", "--only", "L1"], "--only is for scores"),
        (["imgedit", "--baseline", "copy", "--generate-only", "--backbone", "clip=x"], "--backbone is for scores"),
        (["imgedit", "--baseline", "copy", "--backbone", "pick=x"], "add --also pickscore"),
        (["imgedit", "--baseline", "copy", "--only", "L1", "--skip", "L1"], "leave no metric"),
        (["imgedit", "--baseline", "copy", "--only", "L1", "--also", "fid"], "no true pictures, so there is no fid"),
        (["imgedit", "--baseline", "copy", "--limit", "0"], "at least 1"),
        (["nyu_depth", "--baseline", "copy", "--backbone", "clip=x"], "measures without networks"),
        (["--model", "m", "imgedit"], "the benchmark comes first"),
        ([], "the benchmark comes first"),
        (["judg", "run"], "did you mean 'judge'"),
    ],
)
def test_what_would_not_be_read_is_refused(arguments, message, data, tmp_path, capsys):
    given = ["--data", str(data)] if arguments[:1] == ["imgedit"] else []
    named = arguments[:1] and not arguments[0].startswith("-")
    given += ["--output", str(tmp_path / "out")] if named else []
    assert status_of(main, [*arguments, *given]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


def test_photographs_that_are_not_installed_are_told_before_any_work(tmp_path, capsys, monkeypatch):
    for kept in (render._photo, render._background):
        kept.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage", None)  # its import fails
    output = tmp_path / "out"
    assert main(["world", "--baseline", "copy", "--only", "remove", "--limit", "1", "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert "pip install scikit-image" in error and error.count("\n") == 1 and not output.exists()


def test_options_of_the_model_are_read_with_a_model():
    options = parse(["imgedit", "--model", "m", "--steps", "3", "--seed", "0", "--output", "x", "--only", "L1, DINO"])
    assert (options.steps, options.seed, options.only, options.split) == (3, 0, ("L1", "DINO"), None)
