"""The public benchmarks from their data sets' formats to the summary, with tiny networks."""

from __future__ import annotations

import copy
import io
import json
import shutil
from fnmatch import fnmatch
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from benchmark_folders import FOLDERS, magicbrush_dev, pie_bench_hub
from conftest import status_of
from evaluation_data import clip_folder, dino_folder, dinov2_folder, picture
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_editor import save_editor
from transformers import AutoTokenizer

from unireal.evaluation import models
from unireal.evaluation.__main__ import main
from unireal.evaluation.benchmarks import PUBLIC, sources
from unireal.evaluation.benchmarks.base import chosen, identity
from unireal.evaluation.benchmarks.dreambench import read_list
from unireal.evaluation.benchmarks.pie import FULL
from unireal.evaluation.generate import complete, generate
from unireal.evaluation.measures import fidelity
from unireal.evaluation.measures.base import Metric, PerItem
from unireal.evaluation.results import Item, ItemResult, RunFolder, save_picture
from unireal.evaluation.score import Scorer
from unireal.model.lora import add_lora, save_lora
from unireal.tasks import TASKS
from unireal.taxonomy import CATEGORIES, EDIT_TYPES
from unireal.transforms import load_image


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Name -> the benchmark's folder, made when first asked for; tests must not change it."""
    root, made = tmp_path_factory.mktemp("data"), {}

    def folder(name):
        if name not in made:
            made[name] = FOLDERS[name](root / name.replace("+", "-plus"))
        return made[name]

    return folder


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    clip, dino = clip_folder(root / "clip"), dino_folder(root / "dino")
    return {
        **{"clip": clip, "direction": clip_folder(root / "direction", seed=3), "pick": clip},
        **{"dino": dino, "dinov2": dinov2_folder(root / "dinov2"), "lpips": "squeeze-random"},
    }


@pytest.fixture(scope="module")
def evaluate(data, backbones):
    """Calls the command line on a benchmark's folder with tiny backbones; returns the exit status."""

    def call(name, output, *options):
        asked = () if "--generate-only" in options else PUBLIC[name].backbones
        roles = [f"--backbone={role}={backbones[role]}" for role in asked]
        return main([name, "--data", str(data(name)), "--output", str(output), *roles, *map(str, options)])

    return call


@pytest.fixture(scope="module")
def pix2pix(tmp_path_factory, backbones):
    """A tiny InstructPix2Pix pipeline with random weights, as a folder."""
    return save_editor(tmp_path_factory.mktemp("pix2pix"), AutoTokenizer.from_pretrained(backbones["clip"]))


def rows(output, **wanted):
    return [r for r in RunFolder(output).summary() if all(getattr(r, k) == v for k, v in wanted.items())]


def value(output, metric, **wanted):
    (row,) = rows(output, metric=metric, **{"group": "all", "filter": "none", "system": "model"} | wanted)
    return row.value


# Readers


@pytest.mark.parametrize("name", PUBLIC)
def test_every_benchmark_reads_its_format(name, data):
    items = PUBLIC[name].items(data(name))
    assert set(FOLDERS) == set(PUBLIC) and len({item.id for item in items}) == len(items)
    for item in items:
        assert item.instruction and item.task in TASKS
        assert item.edit_type is None or item.edit_type in EDIT_TYPES
        assert item.category in CATEGORIES.get(name, {item.category: None})
        for load in (*item.sources, *item.references, *([item.truth] if item.truth else [])):
            shown = load()
            assert shown.dtype == np.uint8 and shown.ndim == 3


def test_emu_edit_finds_the_known_faults(data):
    items = PUBLIC["emu_edit"].items(data("emu_edit"))
    assert [item.faults for item in items[:3]] == [(), ("equal captions",), ("placeholder caption",)]
    assert np.array_equal(items[4].inputs[0](), picture((40, 48), seed=4))  # from the second file
    assert len(PUBLIC["emu_edit"].items(data("emu_edit"), "validation")) == 1


def test_magicbrush_in_both_settings_and_from_the_hub(data, tmp_path):
    single, several = (PUBLIC[name].items(data(name)) for name in ("magicbrush", "magicbrush_multi"))
    assert [item.after for item in single] == [None] * 3 and all(item.scored for item in single)
    assert [item.after for item in several] == [None, "139306_1", None]
    assert [item.scored for item in several] == [False, True, True]
    second = single[1]
    assert np.array_equal(second.inputs[0](), picture((40, 40), seed=1))  # the truth of the first turn
    assert second.texts == {"source": "picture 1 of a room", "target": "picture 2 of a room", "local": "thing 2"}
    assert several[1].texts["source"] == "picture 0 of a room"
    mask = second.arrays["mask"]()
    assert mask[5:20, 5:20].all() and mask.sum() == 15 * 15
    assert second.aliases == ("139306/139306_inde_2",) and several[1].aliases == ("139306/139306_iter_2",)
    dev = PUBLIC["magicbrush"].items(magicbrush_dev(tmp_path), "dev")
    assert [item.id for item in dev] == ["7_1", "7_2"] and not dev[0].texts


def test_dreambench_asks_each_class_its_prompts_without_the_token(data):
    items = PUBLIC["dreambench"].items(data("dreambench"), "x1")
    assert [item.texts["target"] for item in items if item.id.startswith("dog2")] == ["a dog wearing a red hat"]
    assert {len(item.references) for item in items} == {2} and len(items) == 5
    assert next(i for i in items if "plushie" in i.id).instruction == "a stuffed animal from IMG1 in the jungle"
    _, prompts = read_list(data("dreambench") / "dataset" / "prompts_and_classes.txt")
    assert [len(lines) for lines in prompts.values()] == [2, 1]


def test_pie_bench_of_both_sources(data, tmp_path):
    items = PUBLIC["pie_bench"].items(data("pie_bench"))
    assert items[1].texts == {"source": "a cat in a room", "target": "a dog in a room"}
    assert [item.faults for item in items] == [(), (), (FULL,)]
    assert items[1].edit_type == "object replacement"
    hub = PUBLIC["pie_bench"].items(pie_bench_hub(tmp_path))
    assert [item.category for item in hub] == ["1_change_object_80", "9_change_style_80"]
    assert hub[0].arrays["mask"]()[10, :100].all() and hub[0].instruction == "a dog"


def test_imgedits_further_suites(data):
    uge, turns = (PUBLIC[name].items(data(name)) for name in ("imgedit_uge", "imgedit_multi"))
    assert [(item.id, item.aliases) for item in uge] == [("1", ("1",)), ("19", ("19",))]
    assert np.abs(uge[1].inputs[0]().astype(int) - picture((40, 56), seed=1)).mean() < 12  # JPEG
    assert [item.category for item in turns].count("content_memory") == 3 and len(turns) == 7
    assert [item.after for item in turns[:4]] == [None, turns[0].id, turns[1].id, None]
    assert turns[2].id == "content_memory_000066341_3" and turns[2].instruction == "Edit 3 of content_memory."
    assert all(item.scored for item in turns)


def test_gedit_by_language_and_intersection(data):
    english, chinese = (PUBLIC["gedit"].items(data("gedit"), split) for split in ("en", "cn"))
    assert len(english) == 4 and len(chinese) == 2 and chinese[0].instruction == "加一只狗"
    assert [item.faults == () for item in english] == [True, True, False, False]


def test_editeval_pairs_prompts_and_numbered_pictures(data):
    items = PUBLIC["editeval"].items(data("editeval"))
    assert [item.id for item in items] == ["object_addition_1", "object_addition_2", "object_removel_1"]
    assert items[2].edit_type == "object removal" and items[1].texts["target"] == "a lawn with a dog"


def test_tgve_takes_frames_and_video_files(data):
    items = PUBLIC["tgve"].items(data("tgve"))
    assert [item.category for item in items] == ["style", "object", "background", "multiple"] * 2
    assert {item.frames for item in items} == {4}
    decoded = items[4].video[2]().astype(int)
    assert np.abs(decoded - picture((48, 48), seed=22)).mean() < 12  # the codec is lossy


def test_depth_in_metres_inside_the_crop(data):
    nyu = PUBLIC["nyu_depth"].items(data("nyu_depth"))[0]
    depth, valid = nyu.arrays["depth"](), nyu.arrays["valid"]()
    assert depth[200, 300] == pytest.approx(1 + 0.004 * 200 + 0.003 * 300)
    assert not valid[44].any() and not valid[:, 40].any() and not valid[50, 50] and valid[470, 600]
    diode = PUBLIC["diode"].items(data("diode"))
    assert [item.category for item in diode] == ["indoors", "outdoor"]
    assert np.array_equal(diode[0].arrays["valid"](), diode[0].arrays["depth"]() < 15)


def test_a_list_of_files_names_the_test_set(data, tmp_path):
    root = shutil.copytree(data("nyu_depth"), tmp_path / "nyu")
    line = "test/kitchen_0004/rgb_0002.png test/kitchen_0004/depth_0002.png test/kitchen_0004/filled_0002.png"
    (root / "filename_list_test.txt").write_text(line + "\n")
    assert [item.id for item in PUBLIC["nyu_depth"].items(root)] == ["test-kitchen_0004-0002"]


def test_masks_of_referring_segmentation(data, tmp_path):
    items = PUBLIC["refcoco"].items(data("refcoco"))
    assert [item.instruction for item in items] == ["the left thing", "the left thing", "thing on the left"]
    mask = items[0].arrays["mask"]()
    assert mask[5:25, 5:30].all() and mask.sum() == 20 * 25  # as REFER counts: the outline does not
    reason = PUBLIC["reasonseg"].items(data("reasonseg"))[0]
    assert reason.instruction == "something to sit on – a chair" and reason.category == "sentence"
    truth, ignored = reason.arrays["mask"](), reason.arrays["ignore"]()
    assert truth[12, 12] and not truth[17, 22] and ignored[17, 22] and not (truth & ignored).any() and not truth[2, 55]
    (tmp_path / "refs(unc).p").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="pickled"):
        PUBLIC["refcoco"].items(tmp_path)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_outlines_of_coco_are_those_of_the_stored_picture(orientation, tmp_path):
    path = FOLDERS["refcoco"](tmp_path) / "data/val-00000-of-00001.parquet"
    plain, table = PUBLIC["refcoco"].items(tmp_path)[0], parquet.read_table(path)
    expected, mask = plain.inputs[0](), plain.arrays["mask"]()
    exif, turned = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(expected).save(turned, "PNG", exif=exif)
    images = [{"bytes": turned.getvalue(), "path": None}] * len(table)
    image = pyarrow.array(images, table.schema.field("image").type)
    (tmp_path / "turned").mkdir()
    parquet.write_table(
        table.set_column(table.schema.get_field_index("image"), "image", image), tmp_path / "turned" / path.name
    )
    tagged = PUBLIC["refcoco"].items(tmp_path / "turned")[0]
    np.testing.assert_array_equal(tagged.inputs[0](), expected)
    np.testing.assert_array_equal(tagged.arrays["mask"](), mask)


def test_inpainting_shows_the_model_a_hole(data):
    inside, outside = (PUBLIC["brushbench"].items(data("brushbench"), split)[0] for split in ("inside", "outside"))
    assert inside.arrays["mask"]()[100:150].all() and inside.arrays["mask"]().sum() == 512 * 50
    assert not inside.inputs[0]()[100:150].any() and np.array_equal(inside.inputs[0]()[150:], inside.truth()[150:])
    assert (inside.arrays["mask"]() ^ outside.arrays["mask"]()).all()


def test_run_lengths_against_a_loop():
    assert sources.run_lengths([1, 2, 5, 9], (2, 4)).tolist() == [[0, 1, 1, 0], [0, 1, 1, 1]]
    assert sources.run_lengths([1, 2], (1, 4), first=1).tolist() == [[1, 1, 0, 0]]
    with pytest.raises(ValueError, match="pairs"):
        sources.run_lengths([1], (2, 2))


def test_a_limit_is_spread_evenly_and_keeps_what_comes_before():
    items = [Item(f"i{n}", "edit", "x", scored=n % 2 == 1, after=f"i{n - 1}" if n % 2 else None) for n in range(8)]
    assert [item.id for item in chosen(items, 2)] == ["i0", "i1", "i4", "i5"]
    assert chosen(items, 99) == items and chosen(items, None) == items
    with pytest.raises(ValueError, match="at least 1"):
        chosen(items, 0)


# From the folder to the summary


@pytest.mark.parametrize("name", [n for n in PUBLIC if n not in ("refcoco+", "refcocog")])
def test_a_copy_scores_as_the_copy_baseline_and_rows_say_everything(name, evaluate, tmp_path, capsys):
    skipped = ("--skip", "LPIPS") if name == "pie_bench" else ()  # slow, and in brushbench
    assert evaluate(name, tmp_path, "--baseline", "copy", *skipped) == 0
    found = rows(tmp_path)
    assert found and (tmp_path / "summary.md").read_text() in capsys.readouterr().out
    model = [row for row in found if row.system == "model"]
    copies = {(r.metric, r.group, r.filter): r for r in found if r.system == "copy"}
    for row in model:
        beside = copies[row.metric, row.group, row.filter]
        assert (row.value, row.n, row.failures) == (beside.value, beside.n, beside.failures), row
        assert row.failures == 0 and row.reference in ("source", "truth", "none") and row.resolution
        assert row.backbone != "none" or row.metric.split()[0] in (
            *("L1", "L2", "PSNR", "SSIM", "MSE", "gIoU", "cIoU", "AbsRel", "delta1"),
        )
    assert {row.filter for row in found} == ({"none"} | ({f"without {', '.join(PUBLIC[name].faults)}"} - {"without "}))
    for line in RunFolder(tmp_path).items():
        assert line.failure is None and (tmp_path / line.output).is_file() and line.conditions[0] == "text"
        assert all((tmp_path / path).is_file() for path in line.inputs) and set(line.scores) == set(
            line.baselines["copy"]
        )


def test_a_copy_is_perfect_against_the_source_and_no_edit_at_all(evaluate, tmp_path):
    assert evaluate("emu_edit", tmp_path, "--baseline", "copy") == 0
    assert value(tmp_path, "L1") == 0 and value(tmp_path, "CLIPim") == pytest.approx(1, abs=1e-5)
    assert value(tmp_path, "DINO") == pytest.approx(1, abs=1e-5) and value(tmp_path, "CLIPdir") == pytest.approx(0)
    raw = rows(tmp_path, metric="CLIPout", system="model", group="all")
    assert [(row.filter, row.n) for row in raw] == [("none", 6), ("without equal captions, placeholder caption", 2)]


def test_undefined_is_not_counted(evaluate, tmp_path):
    assert evaluate("pie_bench", tmp_path, "--baseline", "copy", "--only", "unedited,structure") == 0
    (row,) = rows(tmp_path, metric="SSIM unedited", system="model", group="all", filter="none")
    assert (row.n, row.failures, row.value) == (2, 0, pytest.approx(1, abs=1e-5))  # of the third everything is edited
    (row,) = rows(tmp_path, metric="structure distance", system="model", group="all", filter="none")
    assert (row.n, row.value) == (3, 0.0)
    assert rows(tmp_path, metric="PSNR unedited", system="model", group="all")[0].value is None  # infinite


def test_pictures_of_something_else_are_scored(data, evaluate, tmp_path):
    """MagicBrush's own names, one JPEG, one of another size; the rest is missing and counts as failed."""
    theirs = tmp_path / "theirs"
    items = PUBLIC["magicbrush"].items(data("magicbrush"))
    (theirs / "139306").mkdir(parents=True)
    Image.fromarray(items[0].truth()).save(theirs / "139306" / "139306_1.png")
    Image.fromarray(items[1].truth()).resize((80, 80)).save(theirs / "139306" / "139306_inde_2.jpg", quality=95)
    run = tmp_path / "run"
    assert evaluate("magicbrush", run, "--images", theirs) == 0
    lines = {line.id: line for line in RunFolder(run).items()}
    assert lines["139306_1"].scores["L1"] == 0 and 0 < lines["139306_2"].scores["L1"] < 0.1
    assert "has no picture" in lines["242679_1"].failure and lines["242679_1"].output is None
    (row,) = rows(run, metric="L1", system="model", filter="none")
    assert (row.n, row.failures) == (2, 1)
    (copied,) = rows(run, metric="L1", system="copy", filter="none")
    assert (copied.n, copied.failures) == (3, 0)
    cells = next(line.split(" | ") for line in (run / "summary.md").read_text().splitlines() if line[:5] == "| L1 ")
    assert cells[3:5] == ["2", "1"] and cells[7] == f"{copied.value:.4f} (n 3)"  # as the copy's are other items
    assert evaluate("magicbrush", run, "--score-only", "--only", "L1") == 0  # the pictures are in the run now
    assert rows(run, metric="L1", system="model", filter="none") == [row]


def test_pictures_that_changed_are_read_anew(data, evaluate, tmp_path):
    theirs, run = tmp_path / "theirs", tmp_path / "run"
    theirs.mkdir()
    items = PUBLIC["imgedit"].items(data("imgedit"))
    for item in items:
        Image.fromarray(item.inputs[0]()).save(theirs / f"{item.id}.png")
    assert evaluate("imgedit", run, "--images", theirs, "--only", "L1") == 0
    assert value(run, "L1") == 0
    Image.fromarray(255 - items[0].inputs[0]()).save(theirs / f"{items[0].id}.png")
    (theirs / f"{items[1].id}.png").unlink()
    assert evaluate("imgedit", run, "--images", theirs, "--only", "L1") == 0
    (row,) = rows(run, metric="L1", system="model", group="all")
    assert row.value > 0.1 and (row.n, row.failures) == (1, 1)
    assert evaluate("imgedit", run, "--images", run / "images") == 2  # reading anew would remove them
    assert len(pictures_of(run)) == 1


def test_pictures_of_something_else_lie_there_as_they_are_scored(data, evaluate, tmp_path):
    theirs, run = tmp_path / "theirs", tmp_path / "run"
    theirs.mkdir()
    first, second = PUBLIC["imgedit"].items(data("imgedit"))
    Image.fromarray(np.full((8, 8, 4), (255, 0, 0, 0), np.uint8)).save(theirs / f"{first.id}.png")
    Image.fromarray(np.full((8, 8), 100 * 257, np.uint16)).save(theirs / f"{second.id}.png")
    assert evaluate("imgedit", run, "--images", theirs, "--only", "L1") == 0
    shown = [Image.open(RunFolder(run).image(item.id)) for item in (first, second)]
    assert [(image.mode, np.unique(image).tolist()) for image in shown] == [("RGB", [255]), ("RGB", [100])]


def test_what_makes_no_picture_does_not_claim_the_folder(data, evaluate, tmp_path, capsys):
    """A wrong folder of pictures, or a score before there is one, and then the right command."""
    theirs, run = tmp_path / "theirs", tmp_path / "run"
    theirs.mkdir()
    assert evaluate("imgedit", run, "--score-only") == 2
    assert evaluate("imgedit", run, "--images", theirs) == 2
    assert "has no picture of any item" in capsys.readouterr().err
    assert evaluate("dreambench", run, "--model", "unireal-tiny", "--guidance", "-1", "--generate-only") == 2
    assert not run.exists()
    assert evaluate("imgedit", run, "--baseline", "copy", "--generate-only") == 0
    (theirs / "673.png").write_bytes(b"no picture")
    assert evaluate("imgedit", tmp_path / "broken", "--images", theirs) == 2
    assert "can be used; item 1082: " in capsys.readouterr().err


def test_pictures_that_somebody_put_into_a_run(data, evaluate, tmp_path):
    for item in PUBLIC["imgedit"].items(data("imgedit")):
        path = RunFolder(tmp_path).image(item.id)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(item.inputs[0]()).save(path)
    assert evaluate("imgedit", tmp_path, "--score-only", "--only", "L1") == 0
    assert value(tmp_path, "L1") == 0 and RunFolder(tmp_path).settings()["benchmark"] == "imgedit"


def test_a_broken_picture_is_a_failure_and_no_score(data, evaluate, tmp_path):
    assert evaluate("imgedit", tmp_path, "--baseline", "copy", "--generate-only") == 0
    assert not (tmp_path / "summary.json").exists()
    assert [(line.scores, line.failure) for line in RunFolder(tmp_path).items()] == [({}, None)] * 2  # for a judge
    (tmp_path / "images" / "673_0.png").write_bytes(b"no picture")
    assert evaluate("imgedit", tmp_path, "--score-only") == 0
    lines = {line.id: line for line in RunFolder(tmp_path).items()}
    assert "cannot be read" in lines["673"].failure and set(lines["673"].scores.values()) == {None}
    assert {(row.n, row.failures) for row in rows(tmp_path, system="model", group="all")} == {(1, 1)}


def test_depth_from_arrays_keeps_its_precision(data, evaluate, tmp_path):
    theirs = tmp_path / "theirs"
    for item in PUBLIC["nyu_depth"].items(data("nyu_depth")):
        path = theirs / f"{item.aliases[0]}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, item.arrays["depth"]() * 0.2 + 3)
    assert evaluate("nyu_depth", tmp_path / "run", "--images", theirs) == 0
    assert value(tmp_path / "run", "AbsRel (depth)") == pytest.approx(0, abs=1e-7)
    assert value(tmp_path / "run", "delta1 (depth)") == 1 and value(tmp_path / "run", "AbsRel (disparity)") > 0.01


def test_macro_is_the_mean_of_the_categories(evaluate, tmp_path):
    assert evaluate("emu_edit", tmp_path, "--baseline", "copy", "--only", "CLIPout", "--limit", "5") == 0
    found = {row.group: row for row in rows(tmp_path, metric="CLIPout", system="model", filter="none")}
    per_type = [found[name].value for name in ("add", "remove", "local")]
    assert found["macro"].value == pytest.approx(np.mean(per_type))
    counts = [found[name].n for name in ("add", "remove", "local")]
    assert sum(counts) == 5 and found["all"].value == pytest.approx(np.average(per_type, weights=counts))


def test_threads_change_nothing(data, backbones, tmp_path):
    from unireal.evaluation.benchmarks.base import Chosen, Networks

    benchmark = PUBLIC["emu_edit"]
    items = benchmark.items(data("emu_edit"))
    generate(items, models.Copy(), RunFolder(tmp_path), {})
    for k, item in enumerate(items):
        Image.fromarray(picture((40, 48), seed=50 + k)).save(RunFolder(tmp_path).image(item.id))
    measures = Chosen(benchmark).build(Networks({role: str(name) for role, name in backbones.items()}))
    scored = [
        [scores for _, scores in Scorer(measures, RunFolder(tmp_path), batch, workers).results(items)]
        for batch, workers in ((1, 0), (4, 3))
    ]
    for one, other in zip(*scored, strict=True):
        assert one["model"] == pytest.approx(other["model"], abs=1e-5)
        assert one["model"]["CLIPdir"] != one["copy"]["CLIPdir"]


def test_memory_holds_few_videos_whatever_their_number(tmp_path):
    """Before the first of 40 videos is scored, hardly more than it have been loaded."""
    run, loaded, frames = RunFolder(tmp_path), set(), 32

    def video(name):
        def load():
            loaded.add(name)
            return np.zeros((8, 8, 3), np.uint8)

        return (load,) * frames

    items = [Item(f"v{i}", "video_edit", "x", video=video(i)) for i in range(40)]
    for item in items:
        for k in range(frames):
            save_picture(run.image(item.id, k), np.zeros((8, 8, 3), np.uint8))
    results = Scorer([], run, workers=2).results(items)
    line, _ = next(results)
    assert line.failure is None and line.frames == frames and len(loaded) <= 4
    assert [line.id for line, _ in results] == [item.id for item in items[1:]]


# Generation


def pictures_of(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def test_our_pipeline_edits_inserts_fills_and_segments(evaluate, tiny_pipeline_folder, tmp_path):
    for name in ("emu_edit", "dreambench", "brushbench", "refcoco"):
        output = tmp_path / name
        options = ("--model", tiny_pipeline_folder, "--steps", 1, "--limit", 1, "--skip", "LPIPS")
        assert evaluate(name, output, *(options if name == "brushbench" else options[:-2])) == 0
        (line,) = RunFolder(output).items()
        assert line.failure is None and all(v is not None for v in line.scores.values())
        if name == "brushbench":
            assert line.scores["PSNR unmasked"] > 40  # what was given comes back


def test_a_diffusers_pipeline_is_a_model(evaluate, pix2pix, tmp_path):
    options = ("--model", pix2pix, "--steps", 2, "--guidance", 2, "--image-guidance", 1.2)
    assert evaluate("imgedit", tmp_path / "a", *options) == 0
    assert evaluate("imgedit", tmp_path / "b", *options, "--generate-only") == 0
    assert pictures_of(tmp_path / "a") == pictures_of(tmp_path / "b")
    settings = RunFolder(tmp_path / "a").settings()
    assert settings["pipeline"] == "StableDiffusionInstructPix2PixPipeline" and settings["num_inference_steps"] == 2
    assert value(tmp_path / "a", "L1") > 0
    assert evaluate("ditto", tmp_path / "video", *options) == 0  # frame by frame
    (line,) = RunFolder(tmp_path / "video").items()
    assert line.frames == 4 and len(pictures_of(tmp_path / "video")) == 4


def test_the_seed_reaches_a_diffusers_pipeline(pix2pix):
    model = models.load_model(models.Source(str(pix2pix)), num_inference_steps=1)
    one, again, other = (model(Item("a", "edit", "x"), [picture()], seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_a_diffusers_pipeline_is_not_asked_about_img1(pix2pix):
    """A word that our models alone have."""
    model = models.load_model(models.Source(str(pix2pix)), num_inference_steps=1, guidance_scale=5)
    asked = "a dog from IMG1 on a rug", "a dog on a rug", "a dog on a rag"
    named, plain, other = (model(Item("a", "customize", text), [picture()], 0)[0] for text in asked)
    assert np.array_equal(named, plain) and not np.array_equal(plain, other)


def test_every_item_has_noise_of_its_own(data, tmp_path):
    seeds: list[int] = []

    class Notes:
        settings: dict = {}

        def __call__(self, item, inputs, seed):
            seeds.append(seed)
            return list(inputs[:1])

    items = PUBLIC["emu_edit"].items(data("emu_edit"))
    for seed in (0, 1):
        generate(items, Notes(), RunFolder(tmp_path / str(seed)), {}, seed)
    assert len(set(seeds)) == len(seeds) == 2 * len(items)


def test_what_a_diffusers_pipeline_does_not_make_is_a_failure(pix2pix):
    """Neither a black picture of its safety checker nor a traceback, if it needs more than it is given."""
    model = models.load_model(models.Source(str(pix2pix)))
    black, item = Image.new("RGB", (8, 8)), Item("a", "edit", "x")
    model.pipeline = lambda **given: SimpleNamespace(images=[black], nsfw_content_detected=[True])
    with pytest.raises(ValueError, match="the safety checker of function blackened the picture"):
        model(item, [np.asarray(black)], 0)
    model.pipeline = lambda prompt, image, generator, control_image: None
    with pytest.raises(ValueError, match="cannot edit from a prompt and an image alone"):
        model(item, [np.asarray(black)], 0)
    model.pipeline = lambda **given: SimpleNamespace(images=[black], nsfw_content_detected=[False])
    assert model(item, [np.asarray(black)], 0)[0].shape == (8, 8, 3)


@pytest.mark.parametrize(("name", "metrics"), [("magicbrush_multi", "L1,CLIP-I"), ("imgedit_multi", "L1,CLIPim")])
def test_killed_and_resumed_equals_uninterrupted(
    name, metrics, data, evaluate, tiny_pipeline_folder, tmp_path, monkeypatch
):
    """Where it is killed, the next turn builds on what was made before."""
    options = ("--model", tiny_pipeline_folder, "--steps", 1, "--only", metrics)
    assert evaluate(name, tmp_path / "whole", *options) == 0
    real, calls = models.UniReal.__call__, []

    def killed(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(models.UniReal, "__call__", killed)
        assert evaluate(name, tmp_path / "resumed", *options) == 130
    assert len(pictures_of(tmp_path / "resumed")) == 2
    with monkeypatch.context() as patch:
        patch.setattr(
            models.UniReal, "__call__", lambda self, *arguments: calls.append(arguments) or real(self, *arguments)
        )
        assert evaluate(name, tmp_path / "resumed", *options) == 0
    assert len(calls) - 3 == len(pictures_of(tmp_path / "whole")) - 2  # what was there is not made again
    assert pictures_of(tmp_path / "resumed") == pictures_of(tmp_path / "whole")
    for file in ("summary.json", "items.jsonl", "settings.json"):
        assert (tmp_path / "resumed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_limit_does_not_change_a_picture(evaluate, tiny_pipeline_folder, tmp_path):
    options = ("--model", tiny_pipeline_folder, "--steps", 1, "--generate-only")
    assert evaluate("imgedit", tmp_path, *options, "--limit", 1) == 0
    before = pictures_of(tmp_path)
    assert evaluate("imgedit", tmp_path, *options) == 0
    after = pictures_of(tmp_path)
    assert len(before) == 1 and len(after) == 2 and before.items() <= after.items()


def test_later_turns_build_on_the_models_own_output(data, tmp_path):
    seen = {}

    class Paints:
        settings: dict = {}

        def __call__(self, item, inputs, seed):
            seen[item.id] = inputs[0]
            return [np.full((40, 40, 3), len(seen), np.uint8)]

    generate(PUBLIC["magicbrush_multi"].items(data("magicbrush_multi")), Paints(), RunFolder(tmp_path), {})
    assert (seen["139306_2"] == 1).all() and np.array_equal(seen["139306_1"], picture((40, 40), seed=0))


def test_a_turn_that_fails_ends_its_session_and_is_tried_again(data, evaluate, tmp_path):
    class Fails:
        settings: dict = {}
        failing = ("content_memory_000066341_2",)

        def __call__(self, item, inputs, seed):
            if item.id in self.failing:
                raise ValueError("no memory")
            return [inputs[0] // 2]

    run, model, items = RunFolder(tmp_path), Fails(), PUBLIC["imgedit_multi"].items(data("imgedit_multi"))
    settings = {"benchmark": "imgedit_multi", "split": "test", "data set": identity(items)}
    generate(items, model, run, settings)
    assert evaluate("imgedit_multi", tmp_path, "--score-only", "--only", "L1") == 0
    lines = {line.id: line for line in run.items()}
    first, second, third = (lines[f"content_memory_000066341_{turn}"] for turn in (1, 2, 3))
    assert second.failure == "no memory" and "on which it builds, has no picture" in third.failure
    assert (first.before, second.before) == (None, "images/content_memory_000066341_1_0.png")
    (row,) = rows(tmp_path, metric="L1", system="model", group="content_memory")
    assert (row.n, row.failures) == (1, 2)
    model.failing = ()
    generate(items, model, run, settings)
    last = np.asarray(Image.open(run.image(third.id)))
    assert np.array_equal(last, items[0].inputs[0]() // 2 // 2 // 2)


def test_what_a_model_cannot_do_is_a_failure_with_its_reason(data, evaluate, tmp_path):
    class Refuses:
        settings: dict = {}

        def __call__(self, item, inputs, seed):
            if item.category == "style":
                raise ValueError("no styles here")
            return list(inputs)

    run, items = RunFolder(tmp_path), PUBLIC["imgedit"].items(data("imgedit"))
    generate(items, Refuses(), run, {"benchmark": "imgedit", "split": "test", "data set": identity(items)})
    assert evaluate("imgedit", tmp_path, "--score-only", "--only", "L1") == 0
    lines = {line.id: line for line in run.items()}
    assert lines["673"].failure == "no styles here" and lines["673"].scores == {"L1": None, "L2": None}
    assert lines["673"].baselines["copy"]["L1"] == 0 and lines["1082"].scores["L1"] == 0


@pytest.mark.parametrize("way", ["ours", "a folder of frames", "numbered"])
def test_a_video_of_one_frame_has_all_scores_but_consistency(way, backbones, tiny_pipeline_folder, tmp_path):
    video, theirs = tmp_path / "data" / "one", tmp_path / "theirs"
    video.mkdir(parents=True)
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(video / "0.png")
    (tmp_path / "data" / "test.csv").write_text("video,prompt,vace_video\nmade/one.mp4,Make it red.,one\n")
    target = theirs / {"a folder of frames": "made/one/x.png", "numbered": "0000_0.png"}.get(way, "none/x.png")
    target.parent.mkdir(parents=True)
    shutil.copy(video / "0.png", target)
    made = ("--model", tiny_pipeline_folder, "--steps", 1) if way == "ours" else ("--images", theirs)
    options = ("--data", tmp_path / "data", "--output", tmp_path / "run", "--backbone", f"clip={backbones['clip']}")
    assert main(["ditto", *map(str, (*options, *made))]) == 0
    (line,) = RunFolder(tmp_path / "run").items()
    assert line.failure is None and line.scores["CLIP-T"] is not None
    assert line.scores["CLIP-F consecutive"] is line.scores["CLIP-F all pairs"] is None
    assert all((row.n, row.failures) == (0, 0) for row in rows(tmp_path / "run", metric="CLIP-F consecutive"))


@pytest.mark.parametrize("fails", ["caption", "measure"])
def test_what_fails_for_one_item_is_no_score_and_spoils_no_other(fails, tmp_path):
    """Of a batch of two, one lacks a caption, or cannot be measured."""
    run, shade = RunFolder(tmp_path), lambda: np.full((8, 8, 3), 10, np.uint8)
    items = [
        Item(name, "edit", "x", inputs=(shade,), texts={} if name == "bad" else {"target": "y"})
        for name in ("bad", "good")
    ]
    for item in items:
        save_picture(run.image(item.id), shade())

    def compute(case):
        if case.item.id == "bad":
            raise ValueError("it cannot be measured")
        return {"m": 3.0}

    measure = PerItem((Metric("m"),), compute, texts=("target",) if fails == "caption" else ())
    lines = [line for line, _ in Scorer([measure], run, workers=0).results(items)]
    assert [line.scores for line in lines] == [{"m": None}, {"m": 3.0}]
    reason = {"caption": "it has no target caption", "measure": "it cannot be measured"}[fails]
    assert [line.failure for line in lines] == [reason, None]


def test_a_video_that_was_killed_while_it_was_written_is_made_again(tmp_path, monkeypatch):
    frames = [np.full((8, 8, 3), shade, np.uint8) for shade in (10, 20, 30)]
    item = Item("v", "video_edit", "x", video=tuple(lambda frame=frame: frame for frame in frames))
    run, written = RunFolder(tmp_path), []

    def killed(path, pixels):
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt
        return save_picture(path, pixels)

    with monkeypatch.context() as patch:
        patch.setattr("unireal.evaluation.generate.save_picture", killed)
        with pytest.raises(KeyboardInterrupt):
            generate([item], models.Copy(), run, {})
    assert not complete(item, run)
    generate([item], models.Copy(), run, {})
    assert [int(load_image(run.image("v", k)).max()) for k in range(3)] == [10, 20, 30]


def test_scoring_decodes_a_picture_once(tmp_path):
    """Inputs and truth are kept in the run and measured; a second input and a truth are pictures of their own."""
    run, calls = RunFolder(tmp_path), []

    def load(name, shade):
        return lambda: calls.append(name) or np.full((8, 8, 3), shade, np.uint8)

    inputs = load("first", 10), load("second", 20)
    item = Item("a", "insert", "x", inputs=inputs, truth=load("truth", 30))
    save_picture(run.image("a"), np.full((8, 8, 3), 40, np.uint8))
    measures = [fidelity.distances("source"), fidelity.distances("truth", " truth")]
    ((line, _),) = Scorer(measures, run, workers=0).results([item])
    assert line.failure is None and sorted(calls) == ["first", "second", "truth"]
    shades = [int(load_image(tmp_path / path).max()) for path in (*line.inputs, line.truth)]
    assert shades == [10, 20, 30]


def test_half_a_character_is_a_failure_of_its_item(tmp_path, capsys):
    data = FOLDERS["imgedit"](tmp_path / "data")
    (path,) = data.rglob("basic_edit.json")
    entries = json.loads(path.read_text())
    broken, good = entries
    entries[broken]["prompt"] = "Make it \ud83d green."
    path.write_text(json.dumps(entries))
    options = ["imgedit", "--data", str(data), "--baseline", "copy", "--output", str(tmp_path / "run")]
    assert main([*options, "--only", "L1"]) == 0
    lines = {line.id: line for line in RunFolder(tmp_path / "run").items()}
    assert "half a character" in lines[broken].failure and lines[good].failure is None
    assert lines[broken].instruction == "Make it \ud83d green." and (tmp_path / "run" / "index.html").exists()
    (row,) = rows(tmp_path / "run", metric="L1", group="all", system="model")
    assert (row.n, row.failures) == (1, 1)


def test_videos_of_our_pipeline_are_asked_as_videos():
    clip = tuple(lambda k=k: picture(seed=k) for k in range(5))
    item = Item("v", "video_edit", "Make it green.", video=clip)
    given = models.UniReal.arguments(item, [load() for load in clip])
    assert list(given) == ["video"] and len(given["video"]) == 5


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emu_edt", "--baseline", "copy"], "did you mean 'emu_edit'"),
        (["emu_edit"], "--model"),
        (["emu_edit", "--model", "a", "--baseline", "copy"], "not clear"),
        (["emu_edit", "--baseline", "cpy"], "unknown baseline 'cpy'; did you mean 'copy'"),
        (["emu_edit", "--baseline", "copy", "--split", "tst"], "did you mean 'test'"),
        (["emu_edit", "--baseline", "copy", "--only", "CLIPdr"], "did you mean 'CLIPdir'"),
        (["emu_edit", "--baseline", "copy", "--limit", "0"], "at least 1"),
        (["emu_edit", "--baseline", "copy", "--workers", "-1"], "--workers"),
        (["emu_edit", "--baseline", "copy", "--backbone", "clap=x"], "did you mean 'clip'"),
        (
            ["emu_edit", "--baseline", "copy", "--backbone", "clip=no/such-network", "--only", "CLIPim"],
            "no/such-network",
        ),
        (["emu_edit", "--baseline", "copy", "--data", "nowhere"], "'nowhere' is not a folder"),
        (["emu_edit", "--images", "nowhere"], "is not a folder"),
        (["emu_edit", "--score-only"], "generate them first"),
        (["emu_edit", "--score-only", "--baseline", "copy"], "not clear"),
        (["emu_edit", "--generate-only", "--images", "."], "--generate-only"),
        (["emu_edit", "--model", "no-such-model"], "no-such-model"),
        (["pie_bench", "--baseline", "copy"], "mapping_file.json"),
        (["imgedit", "--baseline", "copy"], "basic_edit.json"),
        (["tgve", "--baseline", "copy"], "LOVEU"),
        (["dreambench", "--baseline", "copy"], "prompts_and_classes.txt"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, data, tmp_path, capsys):
    given = ["--data", str(data("emu_edit"))] if "--data" not in arguments else []
    assert status_of(main, [*arguments, *given, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and error.startswith("error: ")


def test_a_data_set_that_cannot_be_fetched_says_how_to_get_it(tmp_path, capsys):
    assert main(["emu_edit", "--baseline", "copy", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "cannot be fetched" in error and "--data DIR" in error and error.count("\n") == 1
    assert main(["magicbrush", "--baseline", "copy", "--output", str(tmp_path)]) == 2
    assert "no data set was given" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_no_more_is_fetched_than_is_read(name, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: asked.append(options) or tmp_path)
    if PUBLIC[name].files:
        assert PUBLIC[name].folder("some/where") == tmp_path
        assert asked[0]["repo_type"] == "dataset" and asked[0]["allow_patterns"] == list(PUBLIC[name].files)
    else:  # sysuyy/ImgEdit and QingyanBai/Ditto-1M have terabytes that are for training
        with pytest.raises(ValueError, match="'some/where' is not a folder; give --data DIR"):
            PUBLIC[name].folder("some/where")
        assert not asked


@pytest.mark.parametrize(
    ("name", "needed", "others"),
    [
        ("magicbrush", "data/dev-00000-of-00004-1a2b.parquet", ("data/train-00000-of-00051-1a2b.parquet", "README.md")),
        ("dreambench", "dataset/prompts_and_classes.txt", ("README.md",)),
        ("pie_bench", "1_change_object_80/V1-00000-of-00001.parquet", ("README.md",)),
    ],
)
def test_what_is_fetched_of_the_hubs_data_sets(name, needed, others):
    kept = [path for path in (needed, *others) if any(fnmatch(path, pattern) for pattern in PUBLIC[name].files)]
    assert kept == [needed]


def test_a_folder_of_another_run_is_refused(evaluate, tiny_pipeline_folder, tmp_path, capsys):
    assert evaluate("imgedit", tmp_path, "--baseline", "copy", "--generate-only") == 0
    assert evaluate("imgedit", tmp_path, "--model", tiny_pipeline_folder) == 2
    assert "other settings" in capsys.readouterr().err
    assert evaluate("editeval", tmp_path, "--baseline", "copy") == 2


def test_pictures_of_another_data_set_are_not_taken_for_this_ones(tmp_path, capsys):
    """Items of own videos are numbered, so that two data sets have the same ids."""
    root, arguments = FOLDERS["ditto"](tmp_path / "data"), ["--baseline", "copy", "--generate-only"]
    call = ["ditto", "--data", str(root), "--output", str(tmp_path / "run"), *arguments]
    assert main(call) == 0 and main([*call, "--limit", "1"]) == 0
    path = next(root.glob("*.csv"))
    text = path.read_text()
    (item,) = PUBLIC["ditto"].items(root)
    path.write_text(text.replace(item.instruction, "Something else."))
    assert main(call) == 2
    assert "holds a run of other settings (data set" in capsys.readouterr().err


def test_a_run_that_is_interrupted_says_how_to_go_on(data, tmp_path, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(models.Copy, "__call__", interrupt)
    arguments = ["--data", str(data("imgedit")), "--baseline", "copy", "--output", str(tmp_path / "run")]
    assert main(["imgedit", *arguments, "--generate-only"]) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err


def test_a_model_that_was_trained_on_is_another_model(evaluate, tiny_pipeline_folder, tmp_path, capsys):
    """Its pictures must not be taken for those of the weights that lie there now."""
    model = shutil.copytree(tiny_pipeline_folder, tmp_path / "model")
    options = ("--model", model, "--steps", 1, "--limit", 1, "--generate-only")
    assert evaluate("imgedit", tmp_path / "run", *options) == 0
    assert evaluate("imgedit", tmp_path / "run", *options) == 0
    path = next((model / "transformer").glob("*.safetensors"))
    weights = load_file(path)
    name = min(weights)
    save_file(weights | {name: weights[name] + 1}, path, metadata={"format": "pt"})
    capsys.readouterr()
    assert evaluate("imgedit", tmp_path / "run", *options) == 2
    assert "other settings (weights" in capsys.readouterr().err


def test_what_a_model_samples_with_by_default_is_recorded(tiny_pipeline_folder):
    model = models.load_model(models.Source(str(tiny_pipeline_folder)), guidance_scale=3.0, num_inference_steps=None)
    steps, image = (model.pipeline.config[f"default_{name}"] for name in ("steps", "image_guidance"))
    asked = {"num_inference_steps": steps, "guidance_scale": 3.0, "image_guidance_scale": image}
    assert model.options == asked and model.settings.items() >= asked.items()


def test_an_adapter_and_a_dtype_are_part_of_the_model(evaluate, tiny_pipeline_folder, tiny_pipeline, tmp_path, capsys):
    transformer = copy.deepcopy(tiny_pipeline.transformer)
    add_lora(transformer, rank=2)
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter.data, 0.3)
    save_lora(transformer, tmp_path / "lora")
    options = ("--model", tiny_pipeline_folder, "--steps", 1, "--limit", 1, "--generate-only")
    ways = {"plain": (), "bf16": ("--dtype", "bfloat16"), "lora": ("--lora", tmp_path / "lora")}
    for name, way in ways.items():
        assert evaluate("imgedit", tmp_path / name, *options, *way) == 0
    assert len({next(iter(pictures_of(tmp_path / name).values())) for name in ways}) == 3
    assert RunFolder(tmp_path / "bf16").settings()["dtype"] == "bfloat16"
    assert RunFolder(tmp_path / "lora").settings()["lora"] == str(tmp_path / "lora")
    capsys.readouterr()
    assert evaluate("imgedit", tmp_path / "plain", *options, *ways["lora"]) == 2
    assert "other settings (lora" in capsys.readouterr().err
    assert evaluate("imgedit", tmp_path / "lora", *options) == 2  # nor does a run go on without what it began with
    assert "other settings (lora" in capsys.readouterr().err
    assert evaluate("imgedit", tmp_path / "plain", "--model", tiny_pipeline_folder, *options[4:]) == 2
    assert "other settings (num_inference_steps 1)" in capsys.readouterr().err
    assert evaluate("imgedit", tmp_path / "plain", "--score-only", "--only", "L1", "--limit", 1) == 0
    assert evaluate("imgedit", tmp_path / "plain", *options) == 0
    capsys.readouterr()
    assert evaluate("imgedit", tmp_path / "none", *options, "--lora", tmp_path / "nowhere") == 2
    assert "cannot be put on" in capsys.readouterr().err
    assert evaluate("imgedit", tmp_path / "copy", "--baseline", "copy", "--lora", tmp_path / "lora") == 2
    assert "--lora is for what a --model makes" in capsys.readouterr().err


def test_a_pipeline_that_cannot_edit_is_refused(pix2pix, tmp_path):
    with pytest.raises(ValueError, match="takes no strength"):
        models.load_model(models.Source(str(pix2pix)), strength=0.5)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no pipeline"):
        models.load_model(models.Source(str(tmp_path)))


def test_a_run_folder_survives_the_round_trip(tmp_path):
    run = RunFolder(tmp_path)
    line = ItemResult("a", "edit", "x", scores={"L1": float("nan"), "CLIPdir": 0.25})
    run.write_items([line])
    assert run.items()[0].scores == {"L1": None, "CLIPdir": 0.25}
    texts = ["a\u2028b", "c\x85d\x0ce", "f\r\ng"]  # all of them ends of a line to some
    run.write_items([ItemResult(str(i), "edit", text) for i, text in enumerate(texts)])
    assert [item.instruction for item in run.items()] == texts
    (tmp_path / "items.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"items\.jsonl:1"):
        run.items()
    (tmp_path / "items.jsonl").write_text(json.dumps({"id": "a"}))
    with pytest.raises(ValueError, match="no ItemResult"):
        run.items()
    with pytest.raises(ValueError, match="file name"):
        Item("a/b", "edit", "x")
