"""The world benchmark's run folder: every sample's scores, the page, comparisons, and how alike frames are."""

from __future__ import annotations

import json
import math
import re
import statistics
from html import unescape

import numpy as np
import pytest
import torch
from evaluation_data import SMALL, clip_folder, dino_folder, picture
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from data_builders.world.recipes import world_sample
from data_builders.world.stream import TEST_SEEDS
from unireal.evaluation import compare, world
from unireal.evaluation.__main__ import main
from unireal.evaluation.measures.frames import load_frame_encoder
from unireal.evaluation.models import UniReal
from unireal.evaluation.results import Item, RunFolder
from unireal.evaluation.score import asked_frames
from unireal.pipeline import UniRealPipeline
from unireal.tasks import CONTROL_KINDS
from unireal.taxonomy import CONDITION_OF_KIND, conditions_of, controls_of

LIMIT, PICTURES = 8, 2
RECIPES = ("recolor", "segment", "control_depth", "control_pose", "video_edit", "t2v")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("networks") / "clip")


@pytest.fixture(scope="module")
def run(tmp_path_factory, encoder, tiny_pipeline_folder):
    """Folders of a model's run and of the copy baseline's, as the command line writes them."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("model", "copy")}
    common = ["--limit", str(LIMIT), "--only", ",".join(RECIPES), "--pictures", str(PICTURES)]
    common += ["--frame-encoder", str(encoder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "TRAINING_SEEDS", range(4))
        world._mean_truth.cache_clear()
        model = ["--model", str(tiny_pipeline_folder), "--steps", "1"]
        assert main(["world", *model, *common, "--output", str(folders["model"])]) == 0
        assert main(["world", "--baseline", "copy", *common, "--output", str(folders["copy"])]) == 0
    world._mean_truth.cache_clear()
    return folders


def test_a_killed_run_goes_on_and_equals_an_uninterrupted_one(tmp_path, tiny_pipeline_folder, monkeypatch):
    monkeypatch.setattr(world, "TRAINING_SEEDS", range(4))
    world._mean_truth.cache_clear()
    real, calls = UniRealPipeline.generate, []

    def generate(self, samples, **options):
        calls.append(samples[0].task)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return real(self, samples, **options)

    def call(name, *options):
        common = ["world", "--model", str(tiny_pipeline_folder), "--steps", "1", "--limit", "2", "--pictures", "1"]
        calls.clear()
        return main([*common, "--only", "depth,video_edit,t2v", *options, "--output", str(tmp_path / name)])

    monkeypatch.setattr(UniRealPipeline, "generate", generate)
    stop_at = 0
    assert call("whole") == 0
    assert calls == ["depth", "video_edit", "edit", "t2v"]  # frame by frame as well
    stop_at = 4
    assert call("resumed") == 130
    stop_at = 0
    assert call("resumed") == 0 and calls == ["t2v"]
    whole, resumed = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "whole", tmp_path / "resumed")
    )
    assert whole == resumed
    stop_at = 3
    assert call("other") == 130
    stop_at = 0
    assert call("other", "--seed", "1") == 0
    assert calls == ["depth", "video_edit", "edit", "t2v"]  # what another seed made is of no use
    world._mean_truth.cache_clear()


def _rows(folder):
    rows = json.loads((folder / "world.json").read_text())["rows"]
    return {(row["recipe"], row["subset"], row["metric"]): row for row in rows}


def _standard(folder, recipe):
    return [item for item in RunFolder(folder).items() if item.category == recipe]


def test_scores_of_the_samples_give_the_rows(run):
    items, rows = RunFolder(run["model"]).items(), _rows(run["model"])
    assert len({item.id for item in items}) == len(items)
    assert [item.category for item in items[:LIMIT]] == ["recolor"] * LIMIT
    assert {item.category for item in items} >= {"recolor, photographs", "segment, unseen pairs"}
    for recipe, metric in (("recolor", "changed PSNR"), ("segment", "gIoU"), ("t2v", "frame similarity")):
        scores = [item.scores[metric] for item in _standard(run["model"], recipe)]
        assert statistics.fmean(scores) == pytest.approx(rows[recipe, "standard", metric]["mean"])
        means = [item.baselines["mean"][metric] for item in _standard(run["model"], recipe)]
        assert statistics.fmean(means) == pytest.approx(rows[recipe, "standard", metric]["baselines"]["mean"])


def test_what_is_pooled_can_be_pooled_again(run):
    rows = _rows(run["model"])
    segment, video = (_standard(run["model"], recipe) for recipe in ("segment", "video_edit"))
    inside, union = (sum(item.scores[name] for item in segment) for name in ("intersection", "union"))
    assert inside / union == pytest.approx(rows["segment", "standard", "cIoU"]["mean"])
    error = statistics.fmean(item.scores["temporal error"] for item in video)
    assert 10 * math.log10(255**2 / error) == pytest.approx(rows["video_edit", "standard", "temporal PSNR"]["mean"])
    alone = statistics.fmean(item.baselines["per frame"]["temporal error"] for item in video)
    expected = rows["video_edit", "standard", "temporal PSNR"]["baselines"]["per frame"]
    assert 10 * math.log10(255**2 / alone) == pytest.approx(expected)


def test_the_summary_says_what_its_numbers_depend_on(run, encoder):
    rows = {(row.group, row.metric, row.system): row for row in RunFolder(run["model"]).summary()}
    changed = rows["recolor", "changed PSNR", "model"]
    assert (changed.n, changed.unit, changed.reference, changed.resolution) == (LIMIT, "dB", "truth", "64x64")
    alike = rows["t2v", "frame similarity", "oracle"]
    assert (alike.backbone, alike.resolution) == (str(encoder), "32x32 centre crop")
    assert rows["video_edit", "temporal error", "per frame"].better == "lower"
    assert rows["segment, unseen pairs", "gIoU", "random object"].n == LIMIT // 2


def _cards(folder):
    text = (folder / "index.html").read_text()
    for card in text.split('<div class="item"')[1:]:
        names = dict(re.findall(r'src="([^"]+)" alt="([^"]+)"', card))
        yield re.search('id="([^"]+)"', card)[1], names, json.loads(unescape(re.search('data-tags="([^"]+)"', card)[1]))


def test_the_page_shows_some_scenes_of_every_recipe(run):
    cards = {name: (pictures, tags) for name, pictures, tags in _cards(run["model"])}
    assert sum(name.startswith("recolor_standard") for name in cards) == PICTURES
    assert "recolor_photographs_0000" in cards and len(cards) < len(RunFolder(run["model"]).items())
    assert all((run["model"] / path).is_file() for pictures, _ in cards.values() for path in pictures)
    pictures, tags = cards["recolor_standard_0001"]
    assert list(pictures.values()) == ["input 1", "truth", "output", "copy"]
    assert tags["category"] == ["recolor"] and tags["type"] == ["color change"]
    sample = world_sample("recolor", TEST_SEEDS + 1)
    shown = [np.asarray(Image.open(run["model"] / path)) for path in pictures]
    assert np.array_equal(shown[0], sample.inputs[0].image) and np.array_equal(shown[1], sample.results[0].image)
    assert np.array_equal(shown[0], shown[3]) and not np.array_equal(shown[0], shown[2])
    video = list(cards["video_edit_standard_0000"][0].values())
    for name in ("input 4", "truth", "truth 4", "output frame 1", "output frame 4", "copy 4", "per frame 4"):
        assert name in video
    text = (run["model"] / "index.html").read_text()
    assert f"{len(cards)} are shown below" in text and text.count("<svg") > 3


def test_videos_are_tagged_with_what_is_done_to_them(run):
    edits = {item.id: item.edit_type for item in _standard(run["model"], "video_edit")}
    types = {"recolor": "color change", "retexture": "texture change", "repaint_room": "background change"}
    types |= {"remove": "object removal", "add": "object addition", "substitute": "object replacement"}
    for number, edit_type in enumerate(edits.values()):
        assert edit_type == types[world_sample("video_edit", TEST_SEEDS + number).source["edit"]]


def test_control_frames_are_told_apart(run):
    tags = {item.category: (item.controls, item.conditions) for item in RunFolder(run["model"]).items()}
    assert tags["control_depth"] == (["depth"], ["text"])  # which the survey does not list
    assert tags["control_pose"] == (["pose"], ["text", "pose"])
    assert tags["recolor"] == ([], ["text"])
    table = (run["model"] / "breakdown.md").read_text().split("## Control frames")[1]
    value = statistics.fmean(item.scores["full PSNR"] for item in _standard(run["model"], "control_depth"))
    assert f"| full PSNR | depth | model | {value:.4g} |" in table and "| full PSNR | pose | copy |" in table
    filters = {kind for *_, tag in _cards(run["model"]) for kind in tag["control"]}
    assert filters == {"depth", "pose"}


def test_every_kind_of_control_frame_has_its_place_in_the_taxonomy():
    assert tuple(sorted(CONDITION_OF_KIND)) == tuple(sorted(CONTROL_KINDS))
    for kind in CONTROL_KINDS:
        recipe = f"control_{kind}"
        frames = world_sample(recipe, TEST_SEEDS).inputs
        assert controls_of(frames) == (kind,)
        assert conditions_of(frames) == ("text", *filter(None, [CONDITION_OF_KIND[kind]]))


@pytest.mark.parametrize("kind", CONTROL_KINDS)
def test_a_benchmarks_item_says_of_what_kind_its_control_frame_is(kind):
    pixels = picture((8, 8))
    item = Item("a", "control", "A room.", inputs=(lambda: pixels,), controls=(kind,))
    assert controls_of(asked_frames(item)) == (kind,)
    ((given, image),) = UniReal.arguments(item, [pixels])["control"]
    assert given == kind and image is pixels


def test_two_runs_are_compared(run, tmp_path, capsys):
    folders = [str(run["model"]), str(run["copy"])]
    assert compare.main([*folders, "--by", "category", "--resamples", "500", "--output", str(tmp_path)]) == 0
    rows = {(row["metric"], row["group"]): row for row in json.loads((tmp_path / "compare.json").read_text())["rows"]}
    world_rows = _rows(run["model"])
    found = rows["changed PSNR", "recolor"]
    assert found["a"] == pytest.approx(world_rows["recolor", "standard", "changed PSNR"]["mean"])
    assert found["b"] == pytest.approx(world_rows["recolor", "standard", "changed PSNR"]["baselines"]["copy"])
    assert (found["n"], found["better"]) == (LIMIT, "higher") and found["low"] <= found["difference"] <= found["high"]
    assert rows["temporal error", "video_edit"]["better"] == "lower"
    assert ("gIoU", "recolor") not in rows  # what it is not measured of is no group
    assert rows["gIoU", "all"]["n"] == rows["gIoU", "all"]["neither"] + len(
        [item for item in RunFolder(run["model"]).items() if "gIoU" in item.scores]
    )
    assert compare.main([*folders, "--by", "control", "--metric", "full PSNR", "--resamples", "500"]) == 0
    assert "| full PSNR | depth |" in capsys.readouterr().out


# How alike frames are


def _by_hand(folder, frames):
    """100 mean cosine of consecutive frames, by transformers alone."""
    model, processor = CLIPModel.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        inputs = processor([Image.fromarray(frame) for frame in frames], return_tensors="pt")
        embedded = model.get_image_features(**inputs).pooler_output
    return 100 * torch.cosine_similarity(embedded[1:], embedded[:-1]).mean().item()


def test_frame_similarity_against_transformers(run, encoder):
    rows = _rows(run["model"])
    assert {recipe for recipe, _, metric in rows if metric == "frame similarity"} == {"video_edit", "t2v"}
    samples = [world_sample("video_edit", TEST_SEEDS + number) for number in range(LIMIT)]
    row = rows["video_edit", "standard", "frame similarity"]
    for name, kind in (("oracle", "results"), ("copy", "inputs")):
        frames = [[frame.image for frame in getattr(sample, kind)] for sample in samples]
        expected = statistics.fmean(_by_hand(encoder, each) for each in frames)
        assert row["baselines"][name] == pytest.approx(expected, abs=1e-3)
    assert -100 <= row["baselines"]["per frame"] <= 100 and row["baselines"]["per frame"] != row["mean"]
    settings = json.loads((run["model"] / "world.json").read_text())["settings"]
    assert settings["frame encoder"] == str(encoder)


def test_half_a_clip_and_dino_see_frames_too(encoder, tmp_path):
    frames = [picture((64, 64), seed) for seed in range(3)]
    vision = {f"vision_model.{k}": v for k, v in CLIPModel.from_pretrained(encoder).vision_model.state_dict().items()}
    half = CLIPVisionModelWithProjection(CLIPVisionConfig(**SMALL, image_size=32, patch_size=8, projection_dim=24))
    whole = CLIPModel.from_pretrained(encoder)
    half.load_state_dict(vision | {"visual_projection.weight": whole.visual_projection.weight})
    half.save_pretrained(tmp_path / "half")
    expected = load_frame_encoder(str(encoder)).similarity(frames)
    assert load_frame_encoder(str(tmp_path / "half")).similarity(frames) == pytest.approx(expected, abs=1e-4)
    assert not (tmp_path / "half" / "tokenizer_config.json").exists()
    dino = load_frame_encoder(str(dino_folder(tmp_path / "dino")))
    assert dino.similarity(frames[:1] * 3) == pytest.approx(100, abs=1e-3)
    assert dino.similarity(frames) < 99


def test_without_an_encoder_there_is_no_frame_similarity(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "TRAINING_SEEDS", range(2))
    world._mean_truth.cache_clear()
    report = world.World(limit=1, only=("t2v",)).run_baseline("copy")
    world._mean_truth.cache_clear()
    assert "frame similarity" not in {row.metric for row in report.rows} and "frame encoder" not in report.settings


@pytest.mark.parametrize("kind", ["missing", "text"])
def test_what_sees_no_pictures_is_no_frame_encoder(kind, encoder, tmp_path, capsys):
    folder = tmp_path / kind
    if kind == "text":
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "t5"}')
    arguments = ["--baseline", "copy", "--output", str(tmp_path / "out"), "--frame-encoder", str(folder)]
    assert main(["world", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and str(folder) in error
    assert not (tmp_path / "out").exists()
