"""Data sets that are damaged, incomplete or in another form: what is wrong is said, and nothing is guessed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from benchmark_folders import FOLDERS, magicbrush_dev, save_hub
from evaluation_data import clip_folder, dino_folder, picture
from PIL import Image
from video_files import turn_by_metadata, write_video

from unireal.evaluation.__main__ import main
from unireal.evaluation.benchmarks import PUBLIC
from unireal.evaluation.benchmarks.videos import video_frames
from unireal.evaluation.results import RunFolder


def _entries(**changes):
    """Changes every entry of the folder's first JSON file: a value, or None to take the key away."""

    def change(root):
        path = next(root.glob("*.json"))
        entries = json.loads(path.read_text())
        for entry in entries.values():
            entry.update(changes)
            for key in [key for key, value in changes.items() if value is None]:
                del entry[key]
        path.write_text(json.dumps(entries))

    return change


def _value(key, value):
    """Changes a value of the first entry of the folder's first JSON file."""

    def change(root):
        path = next(root.glob("*.json"))
        entries = json.loads(path.read_text())
        next(iter(entries.values()))[key] = value
        path.write_text(json.dumps(entries))

    return change


def _null(column):
    """Takes the first row's value of a column away."""

    def change(root):
        for path in root.rglob("*.parquet"):
            table = parquet.read_table(path)
            number, kind = table.column_names.index(column), table.schema.field(column)
            values = pyarrow.array([None, *table.column(column).to_pylist()[1:]], kind.type)
            parquet.write_table(table.set_column(number, kind, values), path)

    return change


def _text(name, content):
    return lambda root: next(root.rglob(name)).write_text(content)


def _lost(name):
    return lambda root: shutil.rmtree(next(root.rglob(name)))


def _multi(content):
    return _text("content_memory/annotation.json", content)


def _without(column):
    def change(root):
        for path in root.rglob("*.parquet"):
            parquet.write_table(parquet.read_table(path).drop_columns([column]), path)

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pie_bench", _entries(image_path=None), "entry '000000000000', lacks image_path; it has original_prompt"),
        ("pie_bench", _entries(editing_type_id="12"), "has editing_type_id '12'; expected 0 to 9"),
        ("pie_bench", _entries(mask=[1]), "starts and lengths come in pairs"),
        ("pie_bench", _text("mapping_file.json", "[1]"), "is not a JSON object of objects"),
        ("imgedit", _entries(prompt=None), "entry '1082', lacks prompt"),
        ("imgedit_uge", _text("UGE_edit.json", '{"1": {"id": "a.jpg"}}'), "entry '1', lacks prompt; it has id"),
        ("imgedit_multi", _multi('{"1": {"id": "a.jpg", "turn1": "x"}}'), "annotation.json, line 1, lacks id, turn1"),
        ("imgedit_multi", _multi('{"id": "a", "turn1": "x", "turn3": "y"}'), "has turn1, turn3; expected turn1, turn2"),
        ("imgedit_multi", _multi('{"id": "a.jpg", "turn1": null}'), "line 1, has an id or turn that is no text"),
        ("imgedit_multi", _multi('\n{"id": "a.jpg",'), "annotation.json, line 2, is not JSON"),
        ("imgedit_multi", _lost("version_backtrace"), "holds no version_backtrace/annotation.json; give the folder"),
        ("brushbench", _entries(inpainting_mask="a b"), "no list of whole numbers: 'a b'"),
        ("brushbench", _entries(caption=None), "lacks caption"),
        ("magicbrush", _text("edit_sessions.json", '{"1": {}}'), "is not a JSON object of lists"),
        ("magicbrush", _text("edit_sessions.json", '{"1": [{"input": "a"}]}'), "session 1, lacks output, instruction"),
        ("magicbrush", _text("global_descriptions.json", "[]"), "is not a JSON object of objects"),
        ("reasonseg", _text("*.json", "{"), "chair_01.json cannot be read as JSON"),
        ("reasonseg", _text("*.json", '{"text": ["a"], "shapes": [{"label": "target"}]}'), "a shape, lacks points"),
        ("reasonseg", _text("*.json", '{"text": [], "shapes": []}'), "has no text"),
        ("reasonseg", _text("*.json", '{"text": "a chair", "shapes": []}'), "has no texts, in a list"),
        ("reasonseg", _text("*.json", '{"text": ["a"], "shapes": null}'), "has shapes that are no list"),
        ("pie_bench", _value("editing_prompt", None), "entry '000000000000', has editing_prompt None; expected a text"),
        ("imgedit", _value("id", None), "entry '1082', has id None; expected a text"),
        ("imgedit", _value("prompt", ["a"]), "entry '1082', has prompt ['a']; expected a text"),
        ("brushbench", _value("image", 3), "has image 3; expected a text"),
        (
            "magicbrush",
            _text("edit_sessions.json", '{"1": [{"input": "a", "output": "b", "instruction": null}]}'),
            "session 1, has instruction None; expected a text",
        ),
        ("emu_edit", _null("instruction"), "row 0, has instruction None; expected a text"),
        ("gedit", _null("key"), "row 0, has key None; expected a text"),
        ("tgve", _text("*.csv", "a,b\n1,2\n"), "lacks Video name, Our GT caption; it has a, b"),
        ("ditto", _text("*.csv", "prompt\nx\n"), "lacks vace_video; it has prompt"),
        ("editeval", _text("*.xlsx", "x"), "cannot be read as an Excel sheet"),
        ("emu_edit", _without("output_caption"), "lacks output_caption; it has idx, image"),
        ("emu_edit", _without("image"), "lacks image; it has idx"),
        ("gedit", _without("instruction_language"), "lacks instruction_language"),
        ("refcoco", _without("segmentation"), "lacks segmentation"),
    ],
)
def test_a_damaged_data_set_is_named(name, change, message, tmp_path, capsys):
    root = FOLDERS[name](tmp_path / "data")
    change(root)
    arguments = ["--data", str(root), "--baseline", "copy", "--output", str(tmp_path / "run"), "--generate-only"]
    assert main([name, *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and str(root) in error and message in error
    assert not (tmp_path / "run").exists()


def test_a_row_without_a_caption_has_no_score_of_it(tmp_path):
    root = FOLDERS["emu_edit"](tmp_path)
    _null("output_caption")(root)
    items = PUBLIC["emu_edit"].items(root)
    assert set(items[0].texts) == {"source"} and set(items[1].texts) == {"source", "target"}
    assert items[0].faults == ()


def test_an_id_that_comes_twice_is_named(tmp_path):
    root = FOLDERS["brushbench"](tmp_path)
    path = root / "mapping_file.json"
    (entry,) = json.loads(path.read_text()).values()
    path.write_text(json.dumps({"a/b": entry, "a b": entry}))
    with pytest.raises(ValueError, match="1 ids of more than one item, such as 'a-b'"):
        PUBLIC["brushbench"].items(root)


def test_suffixes_in_capitals(tmp_path):
    root = FOLDERS["editeval"](tmp_path)
    expected = PUBLIC["editeval"].items(root)[0].inputs[0]()
    (path,) = (p for p in (root / "Dataset" / "object_addition").iterdir() if p.stem == "1")
    path.rename(path.with_suffix(path.suffix.upper()))
    assert (PUBLIC["editeval"].items(root)[0].inputs[0]() == expected).all()


def test_magicbrushs_dev_set_has_masks_and_its_turns_in_order(tmp_path):
    """The hub's masks are copies of the source that are transparent, or white, where the edit is."""
    source, clear = picture((40, 40), seed=1), np.full((40, 40, 4), 255, np.uint8)
    source[:5] = 255  # white that is not marked
    clear[..., :3], clear[5:20, 5:20, 3] = source, 0
    white = source.copy()
    white[5:20, 5:20] = 255
    common = {"img_id": "7", "source_img": source, "target_img": picture((40, 40)), "instruction": "x"}
    rows = [common | {"turn_index": 2, "mask_img": clear}, common | {"turn_index": 1, "mask_img": white}]
    save_hub(tmp_path / "data" / "dev-00000-of-00001.parquet", rows, ("source_img", "mask_img", "target_img"))
    items = PUBLIC["magicbrush_multi"].items(tmp_path, "dev")
    assert [item.id for item in items] == ["7_1", "7_2"] and [item.after for item in items] == [None, "7_1"]
    for item in items:
        mask = item.arrays["mask"]()
        assert mask[5:20, 5:20].all() and mask.sum() == 15 * 15


def test_the_unpacked_test_set_is_no_dev_set(tmp_path):
    with pytest.raises(ValueError, match="is the test set"):
        PUBLIC["magicbrush"].items(FOLDERS["magicbrush"](tmp_path), "dev")


def test_metrics_without_captions_are_named(tmp_path, capsys):
    """The dev set has no captions, and a summary that lacks metrics says so."""
    root, dino = magicbrush_dev(tmp_path / "data"), dino_folder(tmp_path / "dino")
    clip = clip_folder(tmp_path / "clip")
    common = ["magicbrush", "--data", str(root), "--split", "dev", "--baseline", "copy", f"--backbone=clip={clip}"]
    options = ["--only", "L1,DINO,CLIP-T", f"--backbone=dino={dino}", "--output", str(tmp_path / "run")]
    assert main([*common, *options]) == 0
    out = capsys.readouterr().out
    assert "no item has captions for it: CLIP-T" in out and "| DINO |" in out
    assert {row.metric for row in RunFolder(tmp_path / "run").summary()} == {"L1", "L2", "DINO"}
    assert main([*common, "--only", "CLIP-T", "--output", str(tmp_path / "run")]) == 2
    assert "no item of magicbrush has the captions for CLIP-T" in capsys.readouterr().err


def test_a_run_of_which_nothing_can_be_scored_says_why(tmp_path, capsys):
    root = FOLDERS["nyu_depth"](tmp_path / "data")
    for path in root.rglob("depth_*.png"):
        path.unlink()
    assert main(["nyu_depth", "--data", str(root), "--baseline", "copy", "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "nothing could be scored; item test-kitchen_0004-0001" in error and "depth_0001.png" in error


def test_tgves_sheet_may_be_an_excel_file(tmp_path):
    """Its own script reads one."""
    import openpyxl

    expected = PUBLIC["tgve"].items(FOLDERS["tgve"](tmp_path))
    path = next(tmp_path.glob("*.csv"))
    book = openpyxl.Workbook()
    with path.open(newline="") as file:
        for line in csv.reader(file):
            book.active.append([cell or None for cell in line])
    book.save(tmp_path / "LOVEU-TGVE_2023_data.xlsx")
    path.unlink()
    items = PUBLIC["tgve"].items(tmp_path)
    assert [(item.id, item.texts) for item in items] == [(item.id, item.texts) for item in expected]


def test_editevals_sheet_may_begin_with_the_first_class(tmp_path):
    """In one of its versions the first class is the heading of the column of classes."""
    import openpyxl

    root = FOLDERS["editeval"](tmp_path)
    expected = [(item.id, item.texts) for item in PUBLIC["editeval"].items(root)]
    path = next(root.rglob("*.xlsx"))
    book = openpyxl.load_workbook(path)
    book.active["A1"], book.active["A2"] = "Object Addition", None
    book.save(path)
    assert [(item.id, item.texts) for item in PUBLIC["editeval"].items(root)] == expected


def test_an_object_without_an_outline_has_no_score(tmp_path):
    root = FOLDERS["refcoco"](tmp_path / "data")
    path = next(root.rglob("*.parquet"))
    rows = parquet.read_table(path)
    column = rows.column_names.index("segmentation")
    outlines = [[], rows["segmentation"][1].as_py()]
    table = rows.set_column(column, rows.schema.field(column), [outlines])
    parquet.write_table(table, path)
    assert main(["refcoco", "--data", str(root), "--baseline", "copy", "--output", str(tmp_path / "run")]) == 0
    (row,) = [r for r in RunFolder(tmp_path / "run").summary() if r.metric == "gIoU" and r.system == "model"]
    assert (row.n, row.failures) == (2, 1)
    assert "no outline" in RunFolder(tmp_path / "run").items()[0].failure


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_videos_of_something_else_come_as_files_or_folders(suffix, tmp_path):
    root, theirs = FOLDERS["tgve"](tmp_path / "data"), tmp_path / "theirs"
    clip = clip_folder(tmp_path / "clip")
    item = PUBLIC["tgve"].items(root)[-1]
    place = theirs / item.aliases[0]
    place.parent.mkdir(parents=True)
    if suffix:
        shutil.copy(root / "youtube_480p" / "480p_videos" / "swans.mp4", place.with_suffix(suffix))
    else:
        place.mkdir()
        for k in range(4):
            Image.fromarray(picture((48, 48), seed=20 + k)).save(place / f"{k:03d}.png")
    arguments = ["--data", str(root), "--images", str(theirs), "--output", str(tmp_path / "run"), "--only", "CLIP"]
    assert main(["tgve", *arguments, f"--backbone=clip={clip}"]) == 0
    lines = {line.id: line for line in RunFolder(tmp_path / "run").items()}
    assert lines[item.id].frames == 4 and lines[item.id].scores["CLIP-T"] is not None
    assert sum(line.failure is not None for line in lines.values()) == 7
    frame = np.asarray(Image.open(RunFolder(tmp_path / "run").image(item.id, 2))).astype(int)
    assert np.abs(frame - picture((48, 48), seed=22)).mean() < 12  # the codec is lossy


SHADES = [np.full((48, 64, 3), 20 * k, np.uint8) for k in range(12)]


def test_videos_are_read_as_infer_reads_them(tmp_path, monkeypatch):
    """Upright, and under names with colons."""
    monkeypatch.chdir(tmp_path)
    (frame, *rest) = video_frames(turn_by_metadata(write_video(tmp_path / "turned.mp4", SHADES), 90))
    assert len(rest) == 11 and frame().shape == (64, 48, 3)
    for suffix, codec in ((".mp4", ()), (".mkv", ()), (".gif", ("gif", "rgb8"))):
        shutil.copy(write_video(tmp_path / f"a{suffix}", SHADES, *codec), f"a:b{suffix}")
        frames = [load() for load in video_frames(Path(f"a:b{suffix}"))]
        assert len(frames) == 12 and abs(frames[7].mean() - 140) < 12
    (frame,) = video_frames(write_video(Path("one.mp4"), SHADES[:1]))
    assert frame().shape == (48, 64, 3)


def test_frames_of_a_folder_come_by_their_numbers(tmp_path):
    """Also where these have no zeros in front; by the letters alone, 10 would come before 2."""
    for number in (*range(0, 22, 2), 100):
        Image.new("RGB", (4, 4), (number,) * 3).save(tmp_path / f"shot2_frame{number}.png")
    assert [load()[0, 0, 0] for load in video_frames(tmp_path)] == [*range(0, 22, 2), 100]


def test_a_trimmed_video_has_the_frames_that_it_shows(tmp_path):
    """Those before its beginning are in the file, as phones and copies without encoding leave them."""
    import av

    whole, path = write_video(tmp_path / "whole.mp4", SHADES, g="12", bf="2"), tmp_path / "trimmed.mp4"
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(whole)) as source, av.open(str(path), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                start = int(5 / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, stream
                target.mux(packet)
    frames = [load() for load in video_frames(path)]
    assert len(frames) == 7 and abs(int(frames[0].mean()) - 100) < 10


def test_a_cut_video_is_a_failure_that_names_it(tmp_path):
    """Its header tells of more frames than are there."""
    root = FOLDERS["ditto"](tmp_path / "data")
    video = write_video(root / "whole.avi", SHADES, "mpeg4")
    (root / "cut.avi").write_bytes(video.read_bytes()[: video.stat().st_size * 9 // 10])
    with pytest.raises(ValueError, match=r"cut.avi' ends after \d+ frames, but its header tells of more"):
        video_frames(root / "cut.avi")[11]()
    with (root / "test.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["videos/local/0002.mp4", "Make it a drawing.", "cut.avi"])
    arguments = ["--data", str(root), "--output", str(tmp_path / "run"), "--baseline", "copy", "--generate-only"]
    assert main(["ditto", *arguments]) == 0
    (failure,) = json.loads((tmp_path / "run" / "failures.json").read_text()).values()
    assert "cut.avi' ends after" in failure and not (tmp_path / "run" / "images" / "0001_0.png").exists()
