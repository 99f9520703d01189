"""Video4Edit's recipe: a video prior first, few edits after; the pools of samples, the experiment, the benchmark."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks.video_prior import EDITS, RUNS, SIZE, SMALL, Setup, main, make_start, train, training
from data_builders.world.stream import WorldPool, WorldStream
from unireal.data.buckets import Lane
from unireal.data.mixture import Mixture
from unireal.experiments import get_experiment
from unireal.model.embeddings import position_step
from unireal.pipeline import UniRealPipeline
from unireal.training.checkpoint import complete_checkpoints

SETUP = Setup(steps=4, samples=100, batch_size=2, scenes=2)
NAMES = ("scratch, 1%", "video prior, 1%", "without context prompt", "without image prompt")


def recipes(data, count):
    return {sample.source["recipe"] for sample in islice(Mixture(data.sources, data.seed), count)}


def test_a_pool_is_the_beginning_of_the_stream_and_of_larger_pools():
    options = {"recipes": EDITS, "sizes": (SIZE,), "seed": 3}
    small, large, stream = WorldPool(3, **options), WorldPool(30, **options), WorldStream(**options)
    assert (len(small), len(large)) == (3, 30)
    for number, sample in enumerate(small):
        for other in (large[number], stream[number]):
            assert other.instruction == sample.instruction
            assert np.array_equal(other.results[0].image, sample.results[0].image)
    with pytest.raises(IndexError, match="3 of a pool of 3"):
        small[3]
    with pytest.raises(ValueError, match="count=0"):
        WorldPool(0)


def test_the_experiment_goes_from_videos_to_a_finite_pool_of_edits():
    videos, edits = (stage.data for stage in get_experiment("tiny-video-prior").course)
    assert recipes(videos, 60) == {"frame2frame", "image_to_video", "t2v"}
    (pool,) = Mixture(edits.sources).sources
    assert len(pool) == 1000
    assert recipes(edits, 60) >= set(EDITS)


def test_the_tokens_of_the_small_model_are_counted():
    """As when it was measured, whatever its larger sibling does."""
    grid = tuple(side // SMALL.transformer["patch_size"] for side in SIZE)
    assert position_step(grid, SMALL.transformer["position_span"]) == 1


def test_the_share_of_supervision_is_the_number_of_different_samples(tmp_path):
    for name, different in (("scratch, 1%", 1), ("video prior, 10%", 10), ("scratch, 100%", 100)):
        config = training(RUNS[name], SETUP, tmp_path, seed=0)
        data = config.course[-1].data
        seen = [sample.source["seed"] for sample in islice(Mixture(data.sources, data.seed), 100)]
        assert len(set(seen)) == different
        assert config.steps == SETUP.steps
    assert [stage.start for stage in training(RUNS["video prior, 10%"], SETUP, tmp_path, 0).course] == [0, 2]


def test_a_student_learns_the_edits_from_what_the_videos_made(tmp_path, small_training):
    names = "copy of the prior, 1%", "student, 1%"
    assert benchmark(tmp_path, names=names) == 0
    steps = {}
    for run in ("prior", *names):
        (last,) = complete_checkpoints(tmp_path / "seed 0" / run / "checkpoints")
        state = json.loads((last / "state.json").read_text())
        steps[run] = state["step"]
        teacher = state["config"]["teacher"]["model"]
        assert bool(teacher) == run.startswith("student") and teacher in ("", state["config"]["model"])
    assert steps == {"prior": 2, "copy of the prior, 1%": 2, "student, 1%": 2}
    copy, student, prior = (
        UniRealPipeline.from_pretrained(tmp_path / "seed 0" / run / "model").transformer.proj_out.weight
        for run in (*names, "prior")
    )
    assert len({tuple(weight.flatten().tolist()) for weight in (copy, student, prior)}) == 3
    table = (tmp_path / "video-prior.md").read_text()
    assert all(f"| {name} | 1 |" in table for name in names)


def test_without_context_prompt_no_batch_has_one(tmp_path):
    def prompts(name):
        data = training(RUNS[name], SETUP, tmp_path, seed=0).course[-1].data
        return [prompt for batch in islice(Lane(data, 0, 1), 20) for prompt in batch.prompts]

    assert any("scenario" in prompt for prompt in prompts("video prior, 100%"))
    assert not any("scenario" in prompt for prompt in prompts("without context prompt"))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The benchmark's folder after tiny runs; tests must not change it."""
    from processes import forget_accelerate

    from unireal.training import start

    folder = tmp_path_factory.mktemp("video-prior")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "_VOCABULARY_SAMPLES", 50)
        forget_accelerate()
        assert benchmark(folder) == 0
        forget_accelerate()
    return folder


def benchmark(folder, *options, names=NAMES):
    size = ["--steps", 4, "--samples", 100, "--batch-size", 2, "--scenes", 2]
    only = [word for name in names for word in ("--only", name)]
    return main([str(word) for word in ("--output", folder, *size, *only, *options)])


def test_every_run_is_scored_beside_the_baselines(output):
    runs = json.loads((output / "results.json").read_text())
    assert [run["run"] for run in runs] == list(NAMES)
    for run in runs:
        changed = {row["recipe"]: row for row in run["rows"] if row["metric"] == "changed PSNR"}
        assert set(changed) == set(EDITS)
        assert all(row["n"] == 2 and row["resolution"] == "32x32" for row in changed.values())
    table, ablations = (output / "video-prior.md").read_text().split("| left out |")
    assert "4 optimizer steps of 2 samples" in table
    assert "1 seed;" in table
    cells = {line.split(" | ")[0].lstrip("| "): line for line in table.splitlines() if line.startswith("|")}
    assert set(cells) == {"supervised samples", "---", "scratch, 1%", "video prior, 1%", "copy", "mean"}
    for run in runs[:2]:
        shown = float(re.search(r"\*\*([\d.]+)\*\*", cells[run["run"]])[1])
        found = [row["mean"] for row in run["rows"] if row["metric"] == "changed PSNR"]
        assert shown == pytest.approx(sum(found) / len(EDITS), abs=0.051)
    assert "| context prompt | 1 | " in ablations
    assert "| image prompt | 1 | " in ablations
    assert "expert data" not in ablations  # was not run


def test_the_curve_shows_both_ways_and_the_baselines(output):
    svg = (output / "video-prior.svg").read_text()
    for label in ("scratch", "video prior", "copy", "mean", "1%"):
        assert f">{label}</text>" in svg


def test_all_runs_of_a_seed_start_from_the_same_weights(output):
    whole, without = (output / "seed 0" / name for name in ("start", "start without image prompt"))
    one, other = (UniRealPipeline.from_pretrained(folder).transformer.state_dict() for folder in (whole, without))
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        "role_embedding.weight",
        "index_embedding.weight",
    }


def test_without_image_prompt_nothing_is_learned_of_it(output):
    trained = UniRealPipeline.from_pretrained(output / "seed 0" / "without image prompt" / "model").transformer
    assert not trained.role_embedding.weight.any()
    assert not trained.index_embedding.weight.any()
    assert trained.proj_out.weight.any()  # 0 at the start


def test_a_finished_run_is_not_run_again(output, capsys):
    models = sorted(output.glob("seed 0/*/model/model_index.json"))
    before = [path.stat().st_mtime_ns for path in models]
    assert len(models) == len(NAMES)
    assert benchmark(output) == 0
    assert [path.stat().st_mtime_ns for path in models] == before
    assert "scratch, 1%" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path, small_training, capsys):
    (name,) = names = ("scratch, 1%",)
    folder = tmp_path / "seed 0"
    config = training(RUNS[name], SETUP, make_start(RUNS[name], SETUP, folder, seed=0), seed=0)
    train(replace(config, steps=2), folder / name)  # as far as it came
    (first,) = complete_checkpoints(folder / name / "checkpoints")
    assert benchmark(tmp_path, names=names) == 0
    assert f"resumed from {first}" in capsys.readouterr().out
    (last,) = complete_checkpoints(folder / name / "checkpoints")
    assert (first.name[-1], last.name[-1]) == ("2", "4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "8"), "give another --output"),
        (("--samples", "5"), "--samples must be at least 100, got 5"),
        (("--only", "scratch, 2%"), "scratch, 1%"),
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
    ],
)
def test_bad_input_is_told_in_one_line(output, capsys, options, message):
    assert benchmark(output, *options) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in told and told.count("\n") == 1
