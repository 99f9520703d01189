"""The benchmark: its measures against independent ones, and the whole of it with systems whose scores are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from conftest import status_of
from PIL import Image

from data_builders.world.recipes import RECIPES
from data_builders.world.scene import UNSEEN_PAIRS
from unireal.evaluation import metrics, world
from unireal.evaluation.__main__ import main
from unireal.evaluation.exams import BARS, EXAMS, candidates
from unireal.evaluation.report import Bar
from unireal.evaluation.world import STANDARD, SUBSETS, World
from unireal.sample import Role

RNG = np.random.default_rng(0)


def _picture(size=(12, 10)):
    return RNG.integers(0, 256, (*size, 3), dtype=np.uint8)


def _mask(share=0.4, size=(12, 10)):
    return RNG.random(size) < share


@pytest.fixture(autouse=True)
def few_training_seeds(monkeypatch):
    monkeypatch.setattr(world, "TRAINING_SEEDS", range(4))
    world._mean_truth.cache_clear()
    yield
    world._mean_truth.cache_clear()


def _items(limit):
    return [item for s in SUBSETS for recipe in s.recipes for item in s.items(recipe, limit, (64, 64))]


def _key(sample):
    return sample.task, sample.instruction, *(frame.image.tobytes() for frame in sample.inputs)


def test_psnr_against_skimage():
    peak_signal_noise_ratio = pytest.importorskip("skimage.metrics").peak_signal_noise_ratio
    image, truth, region = _picture(), _picture(), _mask()
    assert metrics.psnr(image, truth) == pytest.approx(peak_signal_noise_ratio(truth, image))
    inside = peak_signal_noise_ratio(truth[region], image[region])
    assert metrics.psnr(image, truth, region) == pytest.approx(inside)


def test_psnr_of_equal_pictures_and_empty_regions():
    image = _picture()
    assert metrics.psnr(image, image) == math.inf
    assert math.isnan(metrics.psnr(image, _picture(), np.zeros((12, 10), bool)))
    with pytest.raises(ValueError, match="one size"):
        metrics.psnr(image, _picture((8, 8)))


def test_iou_against_sets():
    pairs = [(_mask(), _mask()) for _ in range(5)]
    sets = [tuple(set(zip(*np.nonzero(mask), strict=True)) for mask in pair) for pair in pairs]
    expected = [len(a & b) / len(a | b) for a, b in sets]
    assert [metrics.iou(a, b) for a, b in pairs] == pytest.approx(expected)
    pooled, error, count = metrics.pooled_ratio([metrics.overlap(a, b) for a, b in pairs])
    assert pooled == pytest.approx(sum(len(a & b) for a, b in sets) / sum(len(a | b) for a, b in sets))
    assert error > 0 and count == 5
    empty = np.zeros((4, 4), bool)
    assert metrics.iou(empty, empty) == 1 and metrics.pooled_ratio([metrics.overlap(empty, empty)])[0] == 1


def test_pooled_error_is_that_of_a_bootstrap():
    union = RNG.integers(50, 150, 400)
    values = np.stack([union * RNG.uniform(0.3, 0.9, 400), union], axis=1)
    draws = values[RNG.integers(0, 400, (2000, 400))].sum(axis=1)
    _, error, _ = metrics.pooled_ratio(values.tolist())
    assert error == pytest.approx((draws[:, 0] / draws[:, 1]).std(), rel=0.1)


def test_depth_by_loops():
    depth, truth = RNG.uniform(0.5, 5, (2, 6, 5))
    pairs = list(zip(depth.ravel(), truth.ravel(), strict=True))
    assert metrics.abs_rel(depth, truth) == pytest.approx(sum(abs(p - g) / g for p, g in pairs) / len(pairs))
    assert metrics.delta1(depth, truth) == pytest.approx(sum(max(p / g, g / p) < 1.25 for p, g in pairs) / len(pairs))


def test_alignment_undoes_scale_and_shift_and_is_clipped():
    truth = RNG.uniform(1, 4, (6, 5))
    assert metrics.align(truth * 0.3 - 2, truth, (0.5, 5)) == pytest.approx(truth)
    scale, shift = np.polyfit((depth := RNG.uniform(0, 1, (6, 5))).ravel(), truth.ravel(), 1)
    assert metrics.align(depth, truth, (0, 9)) == pytest.approx(scale * depth + shift)
    assert metrics.align(depth, truth, (2.4, 2.5)).max() <= 2.5


def test_mean_leaves_undefined_values_out():
    average, error, count = metrics.mean([1.0, math.nan, 2.0, 3.0])
    assert (average, count) == (2.0, 3) and error == pytest.approx(1 / math.sqrt(3))
    assert metrics.mean([math.nan])[2] == 0 and math.isnan(metrics.mean([1.0])[1])
    assert metrics.mean([1.0, math.inf])[0] == math.inf


def test_bars():
    assert Bar(20).passes(20, True, {}) and not Bar(20).passes(19.9, True, {})
    assert Bar(0.1).passes(0.05, False, {}) and Bar(0.1).text(False) == "<= 0.1"
    assert not Bar("copy").passes(5.0, True, {"copy": 5.0}) and Bar("copy").passes(5.1, True, {"copy": 5.0})


def test_tables_agree():
    assert set(EXAMS) == set(RECIPES)
    assert all(name in [metric.name for metric in EXAMS[recipe]] for recipe, name in BARS)
    assert all(recipe in RECIPES for subset in SUBSETS for recipe in subset.recipes)


def test_held_out_scenes_and_questions_without_their_answers():
    for subset in SUBSETS:
        for item in subset.items("recolor", 8, (64, 64)):
            assert item.sample.source["seed"] >= world.TEST_SEEDS
            question = item.question()
            assert question.mask is None and not question.source and not question.results[0].image.any()
            assert question.layout == item.sample.layout


def test_unseen_pairs_are_in_their_own_subset_alone():
    unseen = next(subset for subset in SUBSETS if subset.name == "unseen pairs")
    for subset in (STANDARD, unseen):
        for item in subset.items("segment", 6, (64, 64)):
            pairs = [(thing.color, thing.shape) in UNSEEN_PAIRS for thing in item.scene.things]
            assert pairs[0] if subset is unseen else not any(pairs)


def test_alignment_forgives_what_plain_depth_does_not():
    (item,) = STANDARD.items("depth", 1, (64, 64))
    found = {metric.name: metric.measure(item, [item.truth[0] // 2]) for metric in EXAMS["depth"]}
    assert found["AbsRel"] > 0.1 > 0.02 > found["AbsRel aligned"]
    assert found["delta1"] < 0.9 < found["delta1 aligned"]


def test_each_result_is_measured_against_its_own_truth():
    (item,) = next(s for s in SUBSETS if "edit_depth" in s.recipes).items("edit_depth", 2, (64, 64))
    for wrong, names in ((0, {"full PSNR"}), (1, {"AbsRel RES2"})):
        outputs = [255 - picture if k == wrong else picture for k, picture in enumerate(item.truth)]
        found = {metric.name: metric.measure(item, outputs) for metric in EXAMS["edit_depth"]}
        perfect = {"full PSNR": math.inf, "AbsRel RES2": 0.0}
        assert {name for name, value in perfect.items() if found[name] != pytest.approx(value, abs=1e-9)} == names


@pytest.mark.parametrize("recipe", ["customize1", "t2i"])
def test_classifier_recognises_the_truth(recipe):
    items = STANDARD.items(recipe, 40, (64, 64))
    right = []
    for item in items:
        thing = item.scene.things[0]
        things, pictures, region = candidates(item.scene, thing, item.size)
        right.append(things[metrics.nearest(item.truth[0], pictures, region)].pair == thing.pair)
    assert np.mean(right) >= 0.98


def test_classifier_sees_another_colour_and_shape():
    item = STANDARD.items("customize1", 1, (64, 64))[0]
    things, pictures, _ = candidates(item.scene, item.scene.things[0], item.size)
    measures = {metric.name: metric.measure for metric in EXAMS["customize1"]}
    for thing, picture in zip(things, pictures, strict=True):
        assert measures["colour correct"](item, [picture]) == (thing.color == item.scene.things[0].color)
        assert measures["shape correct"](item, [picture]) == (thing.shape == item.scene.things[0].shape)


def test_a_system_that_knows_the_truth_is_perfect():
    answers = {_key(item.sample): item.truth for item in _items(3)}
    sizes = []

    def generate(samples, seed):
        sizes.append(len(samples))
        assert len({sample.layout for sample in samples}) == 1
        # It does not know the frames of a video alone, which are asked for as another way to edit one.
        return [answers.get(_key(sample)) or [sample.inputs[0].image] for sample in samples]

    report = World(limit=3, batch_size=2).run(generate)
    assert max(sizes) == 2
    assert {row.recipe for row in report.rows} == set(RECIPES)
    for row in report.rows:
        perfect = {"dB": math.inf, "0..1": 1.0, "ratio": 0.0}[row.unit]
        assert row.mean == row.baselines["oracle"] == pytest.approx(perfect, abs=1e-9), row
        assert row.passed in (None, True)
    assert sum(row.passed is not None for row in report.rows) == len(BARS)


def test_a_system_that_copies_scores_as_the_copy_baseline():
    def generate(samples, seed):
        answers = []
        for sample in samples:
            canvases, assets = ([f.image for f in sample.inputs if f.role == r] for r in (Role.CANVAS, Role.ASSET))
            first = [*canvases, *assets, np.full((64, 64, 3), 127, np.uint8)][:1]
            shown = canvases if len(canvases) == len(sample.results) else first * len(sample.results)
            pictures = (Image.fromarray(image).resize((64, 64), Image.Resampling.LANCZOS) for image in shown)
            answers.append([np.asarray(picture) for picture in pictures])
        return answers

    report = World(limit=2).run(generate)
    copied = World(limit=2).run_baseline("copy")
    assert [(r.recipe, r.metric, r.mean) for r in report.rows] == [(r.recipe, r.metric, r.mean) for r in copied.rows]
    assert all(row.mean == row.baselines["copy"] and "model" not in row.baselines for row in report.rows)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="recolor"):
        World(limit=1, only=("recolor",)).run(lambda samples, seed: [[_picture()]] * len(samples))


def test_noise_does_not_depend_on_the_batch_size():
    def seeds(batch_size):
        found = []

        def generate(samples, seed):
            found.extend(seed + i for i in range(len(samples)))
            return [[frame.image for frame in sample.results] for sample in samples]

        World(limit=5, batch_size=batch_size, seed=7, only=("t2i",)).run(generate)
        return found

    assert seeds(2) == seeds(5) == [7, 8, 9, 10, 11]


def test_command_line_writes_a_report(tmp_path, capsys):
    arguments = ["world", "--baseline", "copy", "--output", str(tmp_path), "--limit", "2", "--only", "segment,recolor"]
    assert main(arguments) == 0
    files = ["world.json", "world.md", "world.png"]
    files += ["index.html", "breakdown.md", "items.jsonl", "settings.json", "summary.json"]
    files += ["baselines", "images", "inputs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    rows = json.loads((tmp_path / "world.json").read_text())["rows"]
    unchanged = next(row for row in rows if row["metric"] == "unchanged PSNR")
    assert unchanged["mean"] == "inf" and unchanged["standard_error"] is None
    assert "random object" in rows[3]["baselines"] and rows[0]["resolution"] == "64x64"
    assert (tmp_path / "world.md").read_text() in capsys.readouterr().out
    assert Image.open(tmp_path / "world.png").height > 64


def test_pictures_of_another_size_and_models_of_it(tmp_path, tiny_pipeline_folder, capsys):
    arguments = ["world", "--model", str(tiny_pipeline_folder), "--steps", "1", "--limit", "1", "--only", "insert,t2v"]
    assert main([*arguments, "--size", "48x32", "--output", str(tmp_path / "wide")]) == 0
    report = json.loads((tmp_path / "wide" / "world.json").read_text())
    assert report["settings"]["size"] == "48x32" and {row["resolution"] for row in report["rows"]} == {"48x32"}
    for picture in ("images/insert_standard_0000_0.png", "images/t2v_standard_0000_3.png"):
        assert Image.open(tmp_path / "wide" / picture).size == (48, 32)
    assert main([*arguments, "--output", str(tmp_path / "usual")]) == 0
    assert json.loads((tmp_path / "usual" / "settings.json").read_text())["size"] == "64x64"
    assert main(["compare", str(tmp_path / "wide"), str(tmp_path / "usual")]) == 2
    assert "48x32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["wrld", "--baseline", "copy"], "did you mean 'world'"),
        (["world", "--baseline", "cpy"], "did you mean 'copy'"),
        (["world", "--baseline", "copy", "--only", "recolour"], "did you mean 'recolor'"),
        (["world", "--baseline", "copy", "--limit", "0"], "at least 1"),
        (["world", "--baseline", "copy", "--limit", "many"], "--limit"),
        (["world", "--model", "no-such-model"], "no-such-model"),
        (["world", "--baseline", "copy", "--size", "big"], "WxH in pixels"),
        (["world", "--baseline", "copy", "--size", "64x4"], "at least 8x8"),
        (["world", "--baseline", "copy", "--size", "4096x64"], "sides must be 1 to 2048"),
        (["world"], "--model or --baseline"),
        (["world", "--baseline", "copy", "--steps", "3", "--threads", "0"], "--threads"),
    ],
)
def test_bad_input(changes, message, tmp_path, capsys):
    assert status_of(main, [*changes, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
