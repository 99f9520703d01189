"""infer.py --jobs: many jobs, one model, and a second call that does only what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from unireal import cli


@pytest.fixture
def canvas(tmp_path) -> Path:
    Image.new("RGB", (24, 16), (90, 120, 60)).save(tmp_path / "room.png")
    return tmp_path / "room.png"


@pytest.fixture
def jobs(tmp_path, canvas):
    """Writes a file of jobs, each on the canvas unless it says otherwise."""

    def write(*lines: dict | str) -> Path:
        path = tmp_path / "jobs.jsonl"
        common = {"task": "edit", "canvas": str(canvas)}
        path.write_text("\n".join(x if isinstance(x, str) else json.dumps(common | x) for x in lines) + "\n")
        return path

    return write


def _reports(outcome) -> list[dict]:
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_jobs_give_what_single_calls_give_with_one_load(infer, jobs, canvas, tmp_path, monkeypatch):
    cli._load.cache_clear()
    cli._public.cache_clear()
    first, second, single = tmp_path / "out/1.png", tmp_path / "out/2.png", tmp_path / "single.png"
    path = jobs(
        {"prompt": "Make it red.", "output": str(first), "seed": 3},
        {"task": "depth", "output": str(second)},
    )
    outcome = infer("--jobs", path, "--json", "--steps", 1)
    assert outcome.status == 0, outcome.err
    assert [r["files"] for r in _reports(outcome)] == [[str(first)], [str(second)]]
    assert cli._load.cache_info().misses == 1 and cli._load.cache_info().hits == 1
    assert cli._public.cache_info().misses == 1
    infer("edit", "--canvas", canvas, "--prompt", "Make it red.", "--seed", 3, "--output", single,
          "--steps", 1)  # fmt: skip
    assert Image.open(first).tobytes() == Image.open(single).tobytes()


def test_a_second_call_does_only_what_is_missing(infer, jobs, tmp_path):
    outputs = [tmp_path / f"{i}.png" for i in range(3)]
    path = jobs(*({"prompt": f"Edit {i}.", "output": str(o)} for i, o in enumerate(outputs)))
    call = ("--jobs", path, "--json", "--steps", 1)
    assert len(_reports(infer(*call))) == 3
    outputs[1].unlink()
    with path.with_name("jobs.jsonl.done").open("a") as file:
        file.write('{"job": "half')  # stopped while it wrote
    again = infer(*call)
    assert again.status == 0 and [r["line"] for r in _reports(again)] == [2]
    assert outputs[1].is_file() and infer(*call).out == ""


def test_a_half_written_note_costs_only_its_own_job(infer, jobs, tmp_path):
    path = jobs({"prompt": "Edit 1.", "output": str(tmp_path / "1.png")})
    path.with_name("jobs.jsonl.done").write_text('{"job": "half')  # stopped while it wrote
    assert infer("--jobs", path).out
    assert infer("--jobs", path).out == ""


def test_a_line_is_what_ends_with_a_newline_and_null_is_nothing(infer, jobs, canvas, tmp_path):
    job = {"task": "edit", "prompt": "Make\u2028it red.", "canvas": str(canvas), "output": str(tmp_path / "1.png")}
    path = jobs(json.dumps(job | {"mask": None}, ensure_ascii=False))
    outcome = infer("--jobs", path)
    assert outcome.status == 0, outcome.err


def test_a_job_that_fails_does_not_stop_the_others(infer, jobs, tmp_path):
    path = jobs(
        {"canvas": str(tmp_path / "no.png"), "prompt": "Make it red.", "output": str(tmp_path / "a.png")},
        {"prompt": "Make it red.", "output": str(tmp_path / "b.png")},
    )
    outcome = infer("--jobs", path, "--steps", 1)
    assert outcome.status == 2 and "line 1" in outcome.err and "no.png" in outcome.err
    assert outcome.out.split() == [str(tmp_path / "b.png")] and (tmp_path / "b.png").is_file()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "jobs.jsonl:2 is not JSON"),
        ("[1]", "not a JSON object"),
        ({"promt": "x"}, "did you mean --prompt?"),
        ({"steps": 0}, "at least 1"),
        ({"model": "unireal-tiny"}, "all jobs share"),
        ({"plugin": "code.py"}, "jobs.jsonl:2 sets plugin, which all jobs share"),
        ("[" * 100_000, "jobs.jsonl:2 is not JSON"),
        ({"task": 5}, "jobs.jsonl:2: the task is a name such as 'edit', got 5"),
        ({"task": "--help"}, "the task is a name"),
        ({"prompt": ["a", "b"]}, "jobs.jsonl:2: prompt is one value, got a list"),
        ({"output": "d/../a.png"}, "jobs.jsonl:2 writes to 'd/../a.png', as line 1 does"),
        ({"output": "b.png", "accelerate": "spotedit", "spot_mask": "a.png"}, "writes to 'a.png', as line 1 does"),
    ],
)
def test_bad_lines_are_told_before_anything_runs(infer, jobs, tmp_path, line, expected):
    good = {"prompt": "Make it red.", "output": str(tmp_path / "a.png")}
    outcome = infer("--jobs", jobs(good, line))
    assert outcome.status == 2 and expected in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_pictures_of_a_job_replace_those_of_the_command_line(infer, jobs, picture, tmp_path):
    picture("wide.png", (48, 16))
    path = jobs({"prompt": "Make it red.", "output": str(tmp_path / "a.png")})  # with a canvas of 24x16
    outcome = infer("--jobs", path, "--canvas", "wide.png")
    assert outcome.status == 0, outcome.err
    assert Image.open(tmp_path / "a.png").size == (24, 16)


def test_a_call_with_nothing_to_do_says_so(infer, jobs, tmp_path):
    path = jobs({"prompt": "Make it red.", "output": str(tmp_path / "a.png")})
    assert infer("--jobs", path).out
    again = infer("--jobs", path, "--json")  # another report, the same jobs
    assert again.status == 0 and again.out == "" and "1 of 1 jobs were done before" in again.err


def test_an_output_of_the_command_line_is_for_one_job(infer, jobs, tmp_path):
    one, two = {"prompt": "Make it red."}, {"prompt": "Make it blue."}
    outcome = infer("--jobs", jobs(one, two), "--output", "o.png")
    assert outcome.status == 2 and "writes to 'o.png', as line 1 does" in outcome.err
    assert infer("--jobs", jobs(one), "--output", "o.png").out == "o.png\n"


def test_the_task_of_the_command_line_is_for_jobs_without_one(infer, jobs, canvas, tmp_path):
    (tmp_path / "j.jsonl").write_text(
        json.dumps({"output": "a.png"}) + "\n" + json.dumps({"task": "t2i", "prompt": "red", "output": "b.png"}) + "\n"
    )
    outcome = infer("depth", "--jobs", "j.jsonl", "--canvas", canvas)
    assert outcome.out == "a.png\n" and "line 2: task 't2i' takes no --canvas" in outcome.err
    grey = Image.open(tmp_path / "a.png")
    assert grey.getchannel(0).tobytes() == grey.getchannel(2).tobytes()
    path = jobs({"prompt": "Make it red.", "output": "c.png"})
    outcome = infer("--jobs", path, "--canvas", canvas, model=None)  # no option between the pictures and the task
    assert outcome.status == 0, outcome.err


def test_lists_of_plugins_are_all_used(infer, jobs, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(cli, "run", lambda options: used.append((options.accelerate, options.expand)) or {"files": []})
    path = jobs(
        {"prompt": "x", "accelerate": ["spotedit", "teacache"], "output": "a.png"},
        {"task": "outpaint", "expand": [0, 0, 8, 0], "output": "b.png"},
    )
    assert infer("--jobs", path).status == 0
    assert used == [(["spotedit", "teacache"], None), ([], (0, 0, 8, 0))]


@pytest.mark.parametrize("task", ["edit", "compose"])
def test_several_results_are_not_written_over(infer, jobs, tmp_path, task):
    """Both would write a_2.png."""
    several = {"task": task, "prompt": "x", "num_results": 2, "output": "a.png"}
    told = infer("--jobs", jobs(several, {"prompt": "x", "output": "a_2.png"}))
    assert told.status == 2 and "jobs.jsonl:2 writes to 'a_2.png', as line 1 does" in told.err
    assert not list(tmp_path.glob("a*"))
    assert infer("--jobs", jobs(several, {"prompt": "x", "output": "a_3.png"})).status == 0


def test_a_file_that_another_job_wrote_anew_is_made_again(infer, jobs, tmp_path):
    """The jobs are changed to and fro, all writing to one file."""
    red, blue = ({"prompt": "x", "seed": seed, "output": "a.png"} for seed in (1, 2))
    assert infer("--jobs", jobs(red)).out
    first = (tmp_path / "a.png").read_bytes()
    assert infer("--jobs", jobs(blue)).out and infer("--jobs", jobs(blue)).out == ""
    assert infer("--jobs", jobs(red)).out and (tmp_path / "a.png").read_bytes() == first


def test_files_as_other_programs_write_them(infer, tmp_path):
    line = json.dumps({"task": "t2i", "prompt": "red", "output": "a.png", "canvas": None, "mask": None})
    (tmp_path / "j.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    (tmp_path / "j.jsonl.done").write_bytes(b'5\nnull\n{"job": 3}\n{"job": "a", "files": [[]]}\n\xff')
    outcome = infer("--jobs", "j.jsonl")
    assert outcome.status == 0 and outcome.out == "a.png\n", outcome.err
    (tmp_path / "j.jsonl").write_text("\n")
    outcome = infer("--jobs", "j.jsonl")
    assert outcome.status == 0 and outcome.err == "j.jsonl holds no jobs\n"


def test_jobs_that_cannot_be_noted_are_not_run(infer, jobs, tmp_path):
    path = jobs({"prompt": "Make it red.", "output": "a.png"})
    (tmp_path / "jobs.jsonl.done").mkdir()
    for source, told in ((path, "what is done cannot be noted in"), ("/dev/stdin", "is not a file")):
        outcome = infer("--jobs", source)
        assert outcome.status == 2 and told in outcome.err and outcome.err.count("\n") == 1
    outcome = infer("--jobs", path, "--from-metadata", "a.png")
    assert outcome.status == 2 and "give one of them" in outcome.err
    assert not (tmp_path / "a.png").exists()


def test_a_missing_file_of_jobs(infer, tmp_path):
    outcome = infer("--jobs", tmp_path / "none.jsonl")
    assert outcome.status == 2 and "none.jsonl" in outcome.err
