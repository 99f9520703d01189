"""Public data sets in the layout that users have them in, read into records, with bad items among the good ones."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data_builders.__main__ import main
from data_builders.public_sets.items import inside, load_picture, load_region
from data_builders.public_sets.refcoco import polygon_mask, run_length_mask
from data_builders.public_sets.registry import READERS
from data_builders.world.export import write_video
from data_builders.world.recipes import world_sample
from data_builders.world.video import WorldVideo
from unireal.data.records import ParquetSamples
from unireal.sample import Role

SIZE = (40, 48)


@pytest.fixture(scope="module")
def edit():
    """A picture, the edited picture, and where they differ."""
    sample = world_sample("recolor", 3, SIZE)
    return sample.inputs[0].image, sample.results[0].image, sample.mask


def encoded(image: np.ndarray, kind: str = "PNG") -> dict:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return {"bytes": buffer.getvalue(), "path": None}


def write_parquet(path: Path, rows: list[dict]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def read(name: str, folder: Path) -> tuple[list, dict[str, str]]:
    bad: dict[str, str] = {}
    return list(READERS[name].samples(folder, bad.__setitem__)), bad


def save(path: Path, image: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


# --- edits


def test_instructpix2pix_parquet(tmp_path, edit):
    before, after, _ = edit
    row = {
        **{"original_prompt": "a room", "original_image": encoded(before), "edit_prompt": "make it  blue"},
        **{"edited_prompt": "a blue room", "edited_image": encoded(after)},
    }
    broken = row | {"edited_image": {"bytes": row["edited_image"]["bytes"][:60], "path": None}}
    other_size = row | {"edited_image": encoded(after[:-8])}
    write_parquet(tmp_path / "data/train-0.parquet", [row, broken, row | {"edit_prompt": " "}, other_size])
    (tmp_path / "data/train-1.parquet").write_bytes(b"PAR1 and then nothing")
    samples, bad = read("instructpix2pix", tmp_path)
    (sample,) = samples
    assert (sample.task, sample.instruction) == ("edit", "make it blue")
    assert sample.context == "synthetic style, static scenario"
    assert np.array_equal(sample.inputs[0].image, before) and np.array_equal(sample.results[0].image, after)
    assert sample.source["item"] == "data/train-0.parquet:0" and sample.source["caption_after"] == "a blue room"
    assert list(bad) == [*(f"data/train-0.parquet:{row}" for row in (1, 2, 3)), "data/train-1.parquet"]
    reasons = list(bad.values())
    assert "edited_image cannot be read" in reasons[0] and "edit_prompt holds no text" in reasons[1]
    assert "canvas" in reasons[2] and "cannot be read as Parquet" in reasons[3]


def test_instructpix2pix_folders(tmp_path, edit):
    before, after, _ = edit
    for name, seeds in (("0000001", (10, 11)), ("0000002", (12,))):
        for seed in seeds:
            save(tmp_path / name / f"{seed}_0.jpg", before)
            save(tmp_path / name / f"{seed}_1.jpg", after)
        (tmp_path / name / "prompt.json").write_text(json.dumps({"input": "a", "edit": "do it", "output": "b"}))
    (tmp_path / "0000002/12_1.jpg").unlink()
    seeds = [["0000001", ["10", 11]], ["0000002", [12]], ["0000003", [1]], "what", ["../up", [1]]]
    (tmp_path / "seeds.json").write_text(json.dumps(seeds))
    samples, bad = read("instructpix2pix", tmp_path)
    assert [s.source["item"] for s in samples] == ["0000001/10", "0000001/11"]
    assert [s.instruction for s in samples] == ["do it", "do it"]
    assert np.abs(samples[0].results[0].image.astype(int) - after).mean() < 12
    assert "12_1.jpg' is missing" in bad["0000002/12"] and "cannot be read as JSON" in bad["0000003/1"]
    assert "what" in bad["seeds.json:3"] and "not the path of a file within" in bad["../up/1"]


def test_ultraedit_regions(tmp_path, edit):
    before, after, mask = edit
    regions = [mask, np.ones_like(mask), None]
    rows = [
        {
            **{"source_image": encoded(before), "edited_image": encoded(after), "edit_prompt": "recolor it"},
            "mask_image": None if m is None else encoded(m.astype(np.uint8) * 255, "JPEG"),
        }
        for m in regions
    ]
    write_parquet(tmp_path / "data/RegionBase-0.parquet", rows)
    samples, bad = read("ultraedit", tmp_path)
    assert not bad and len(samples) == 3
    assert (samples[0].mask == mask).mean() > 0.95
    assert samples[1].mask is None and samples[2].mask is None


def test_magicbrush_masks(tmp_path, edit):
    before, after, mask = edit
    base = {
        "img_id": "242679",
        "source_img": encoded(before),
        "target_img": encoded(after),
        "instruction": "Recolor it.",
    }
    brushed = np.where(mask[..., None], np.uint8(255), before)
    alpha = np.dstack([before, np.where(mask, 0, 255).astype(np.uint8)])
    rows = [base | {"turn_index": turn, "mask_img": encoded(m)} for turn, m in ((1, brushed), (2, alpha))]
    rows.append(base | {"turn_index": 3, "mask_img": encoded(brushed[:20])})
    write_parquet(tmp_path / "data/train-0.parquet", rows)
    samples, bad = read("magicbrush", tmp_path)
    assert [s.source["turn"] for s in samples] == [1, 2]
    assert all(np.array_equal(s.mask, mask) for s in samples)
    assert samples[0].context == "realistic style, static scenario"
    assert list(bad) == ["data/train-0.parquet:2"] and "they should be equal" in bad["data/train-0.parquet:2"]


# --- referring segmentation


def test_refcoco_parquet(tmp_path, edit):
    image = edit[0]
    polygon = [5.0, 6.0, 25.0, 6.0, 25.0, 30.0, 5.0, 30.0]
    row = {
        **{
            "question_id": "1",
            "image": encoded(image, "JPEG"),
            "question": "what?",
            "iscrowd": 0,
            "file_name": "a.jpg",
        },
        **{
            "answer": ["the circle ", "red one.", "the circle"],
            "segmentation": polygon,
            "bbox": [5.0, 6.0, 20.0, 24.0],
        },
    }
    rows = [row, row | {"bbox": [5.0, 6.0, 40.0, 24.0]}, row | {"segmentation": [1.0, 2.0]}, row | {"answer": []}]
    write_parquet(tmp_path / "data/train-0.parquet", [*rows, row | {"bbox": None}])
    samples, bad = read("refcoco", tmp_path)
    assert [s.instruction for s in samples] == ["Segment the circle.", "Segment red one."]
    assert samples[0].task == "segment" and samples[0].results[0].kind == "mask"
    mask = samples[0].results[0].image[..., 0] == 255
    assert mask[6:30, 5:25].all() and mask.sum() == 24 * 20
    reasons = list(bad.values())
    assert len(reasons) == 4 and "only a part" in reasons[0] and "3 or more points" in reasons[1]
    assert "no expression" in reasons[2] and "a box is" in reasons[3]


@pytest.mark.parametrize(
    "name",
    [
        "data/dev-00000-of-00004.parquet",
        "default/testA/0000.parquet",
        "val2014.parquet",
        "default/partial-dev/0.parquet",
    ],
)
def test_splits_that_evaluation_measures_are_not_trained_on(tmp_path, edit, name):
    before, after, _ = edit
    row = {"original_image": encoded(before), "edited_image": encoded(after), "edit_prompt": "Make it red."}
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", [row])
    write_parquet(tmp_path / "data/testimony.parquet", [row])
    write_parquet(tmp_path / name, [row, row])
    samples, bad = read("instructpix2pix", tmp_path)
    assert len(samples) == 2 and list(bad) == [name] and "which evaluation measures" in bad[name]


def test_refcoco_json(tmp_path, edit):
    image = edit[0]
    save(tmp_path / "train2014/COCO_train2014_000000000009.jpg", image)
    counts = [40 * 10, 40 * 5, 40 * 33]
    photo = {"height": 40, "width": 48}
    instances = {
        "images": [
            photo | {"id": 9, "file_name": "COCO_train2014_000000000009.jpg"},
            photo | {"id": 8, "file_name": "b"},
        ],
        "annotations": [
            {"id": 1, "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12], [20, 20, 30, 20, 30, 30]]},
            {"id": 2, "segmentation": {"counts": counts, "size": [40, 48]}},
            {"id": 3, "segmentation": {"counts": "abc", "size": [40, 48]}},
        ],
    }
    refs = [
        {"split": "train", "image_id": 9, "ann_id": 1, "sentences": [{"sent": "left one"}, {"sent": "big one"}]},
        {"split": "val", "image_id": 6, "ann_id": 1, "sentences": [{"sent": "for tests"}]},
        {"split": "train", "image_id": 9, "ann_id": [1, 2], "sentences": [{"sent": "both"}]},
        {"split": "train", "image_id": 9, "ann_id": [-1], "sentences": [{"sent": "the elephant"}]},
        {"split": "train", "image_id": 9, "ann_id": 3, "sentences": [{"sent": "packed"}]},
        {"split": "train", "image_id": 8, "ann_id": 1, "sentences": [{"sent": "no photo"}]},
        {"split": "train", "image_id": 7, "ann_id": 1, "sentences": [{"sent": "unknown"}]},
        "what",
    ]
    folder = tmp_path / "refcoco"
    folder.mkdir()
    (folder / "refs(unc).json").write_text(json.dumps(refs))
    with pytest.raises(ValueError, match=r"no instances\.json"):
        read("refcoco", tmp_path)
    (folder / "instances.json").write_text(json.dumps(instances))
    samples, bad = read("refcoco", tmp_path)
    assert [s.instruction[8:-1] for s in samples] == ["left one", "big one", "both", "the elephant"]
    masks = [s.results[0].image[..., 0] == 255 for s in samples]
    assert masks[0][5, 5] and masks[0][22, 28] and not masks[0][5, 11 + 5]
    assert masks[2][:, 10:15].all() and masks[2][5, 5] and not masks[3].any()
    assert [where.rpartition(":")[2] for where in bad] == ["4", "5", "6", "7"]
    for word, reason in zip(("pycoco", "missing", "7", "what"), bad.values(), strict=True):
        assert word in reason


def test_photos_of_another_sets_test_split_are_not_trained_on(tmp_path, edit):
    """RefCOCOg's training split has photos of RefCOCO's test splits, and ids count for one set alone."""
    photos = [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 48} for n in (1, 2)]
    for photo in photos:
        save(tmp_path / "train2014" / photo["file_name"], edit[0])
    instances = {"images": photos, "annotations": [{"id": 1, "segmentation": [[2, 2, 12, 2, 12, 12]]}]}
    swapped = instances | {"images": [photo | {"id": 3 - photo["id"]} for photo in photos]}
    entry = {"ann_id": 1, "sentences": [{"sent": "left"}]}
    sets = {
        "refcoco/refs(unc).json": ([entry | {"split": "testA", "image_id": 1}], instances),
        "refcocog/refs(umd).json": ([entry | {"split": "train", "image_id": n} for n in (1, 2)], swapped),
    }
    for name, (entries, told) in sets.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(entries))
        (tmp_path / name).with_name("instances.json").write_text(json.dumps(told))
    (sample,), bad = read("refcoco", tmp_path)
    assert sample.source["image"] == "2.jpg"
    assert list(bad) == ["refcocog/refs(umd).json:1"]
    assert "1.jpg is of split 'testA' of refcoco/refs(unc).json too" in bad["refcocog/refs(umd).json:1"]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_coordinates_of_coco_are_those_of_the_stored_photo(tmp_path, edit, orientation):
    exif, image = Image.Exif(), edit[0]
    exif[0x0112] = orientation
    entries = refcoco_files(tmp_path, image)
    save(tmp_path / "train2014/1.jpg", image, exif=exif)
    (tmp_path / "refs(unc).json").write_text(json.dumps(entries))
    (tagged, plain), bad = read("refcoco", tmp_path)
    assert not bad
    np.testing.assert_array_equal(tagged.inputs[0].image, plain.inputs[0].image)
    np.testing.assert_array_equal(tagged.results[0].image, plain.results[0].image)
    (tmp_path / "rows").mkdir()
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "PNG", exif=exif)
    row = {"image": {"bytes": stored.getvalue(), "path": None}, "answer": ["left"]}
    outline = {"segmentation": [2, 2, 12, 2, 12, 12], "bbox": [2, 2, 10, 10]}
    write_parquet(tmp_path / "rows/train.parquet", [row | outline])
    (sample,), bad = read("refcoco", tmp_path / "rows")
    assert not bad
    np.testing.assert_array_equal(sample.inputs[0].image, image)


def test_refcoco_pickles_are_not_read(tmp_path):
    (tmp_path / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(ValueError, match="is a pickle; if you trust it: python"):
        read("refcoco", tmp_path)


def test_masks_of_polygons_are_what_lies_inside():
    assert np.array_equal(polygon_mask([[2, 3, 8, 3, 8, 9, 2, 9]], (12, 10))[3:9, 2:8], np.ones((6, 6), bool))
    assert polygon_mask([[2, 3, 8, 3, 8, 9, 2, 9]], (12, 10)).sum() == 36
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    disk = np.stack([20.3 + 25 * np.cos(angles), 17.6 + 9 * np.sin(angles)], axis=1)  # beyond the picture's sides
    fine = Image.new("1", (40 * 16, 30 * 16))
    ImageDraw.Draw(fine).polygon([tuple(point) for point in disk * 16 - 0.5], fill=1)
    covered = np.asarray(fine).reshape(30, 16, 40, 16).mean(axis=(1, 3))
    mask = polygon_mask([disk.ravel().tolist()], (30, 40))
    assert mask[covered > 0.9].all() and not mask[covered < 0.1].any()
    assert mask.sum() == pytest.approx(covered.sum(), rel=0.02)


def test_coco_masks_of_both_kinds_agree():
    size = (12, 16)
    square = polygon_mask([[3, 2, 9, 2, 9, 7, 3, 7]], size)
    flat = square.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    assert np.array_equal(run_length_mask({"counts": counts}, size), square)
    with pytest.raises(ValueError, match="run lengths of 5 pixels"):
        run_length_mask({"counts": [2, 3]}, size)


# --- the other sets


def test_viton_hd(tmp_path, edit):
    person, garment, mask = edit
    train = tmp_path / "train"
    for name in ("00000_00", "00001_00", "00002_00"):
        save(train / f"image/{name}.jpg", person, quality=95)
        save(train / f"cloth/{name}.jpg", garment)
        save(train / f"agnostic-v3.2/{name}.jpg", np.where(mask[..., None], np.uint8(127), person), quality=95)
    samples, bad = read("viton-hd", tmp_path)
    assert len(samples) == 3 and not bad
    assert np.abs(samples[0].inputs[0].image[mask].astype(int) - 127).mean() < 25
    for name in ("00000_00", "00001_00"):
        save(train / f"agnostic-mask/{name}_mask.png", mask.astype(np.uint8) * 255)
    (tmp_path / "train_pairs.txt").write_text("00000_00.jpg 00000_00.jpg\n00002_00.jpg 00001_00.jpg\n")
    samples, bad = read("viton-hd", tmp_path)
    (sample,) = samples
    assert [f.role for f in sample.inputs] == [Role.CANVAS, Role.ASSET] and np.array_equal(sample.mask, mask)
    assert (sample.inputs[0].image[mask] == 127).all()
    assert np.array_equal(sample.inputs[0].image[~mask], sample.results[0].image[~mask])
    assert sample.instruction == "Dress the person of IMG1 in the garment of IMG2."
    assert list(bad) == ["image/00002_00.jpg"] and "00002_00_mask.png' is missing" in bad["image/00002_00.jpg"]


def test_x2i2_roles_follow_the_task_type(tmp_path, edit):
    before, after, _ = edit
    save(tmp_path / "images/video_icedit/a.png", before)
    save(tmp_path / "images/video_icedit/b.png", after)
    line = {"task_type": "edit", "instruction": "Do it.", "input_images": ["a.png"], "output_image": "b.png"}
    both = {
        "input_images": ["a.png", "b.png"],
        "instruction": "Put <img><|image_2|></img> into <img><|image_1|></img>.",
    }
    lines = [
        line,
        line | both | {"task_type": "video_icedit"},
        line | {"task_type": "video_icgen"},
        line | {"task_type": "t2i", "input_images": None},
        line | {"task_type": "riddle"},
        line | {"input_images": ["../../../etc/passwd"]},
        line | {"output_image": "c.png"},
        line | {"instruction": "Like IMG3."},
        [1],
    ]
    path = tmp_path / "jsons/video_icedit/video_icedit.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([*map(json.dumps, lines), "{broken"]) + "\n")
    samples, bad = read("x2i2", tmp_path)
    assert [s.task for s in samples] == ["edit", "insert", "customize", "t2i"]
    assert [[f.role.value for f in s.inputs] for s in samples] == [["canvas"], ["canvas", "asset"], ["asset"], []]
    assert samples[1].instruction == "Put IMG2 into IMG1."
    assert [int(where.rpartition(":")[2]) for where in bad] == [4, 5, 6, 7, 8, 9]
    words = ("riddle", "within the set", "c.png' is missing", "IMG3", "object", "no JSON")
    for word, reason in zip(words, bad.values(), strict=True):
        assert word in reason


def test_ditto_pairs_of_videos(tmp_path):
    videos = [WorldVideo(seed, (32, 32), 12) for seed in (1, 2)]
    for folder, video in zip(("source", "local"), videos, strict=True):
        write_video(video, tmp_path / "videos" / folder, "0001")
    write_video(WorldVideo(3, (32, 32), 4), tmp_path / "videos/local", "short")
    (tmp_path / "videos/local/broken.mkv").write_bytes(b"no video")
    good = {"source_path": "source/0001.mkv", "instruction": "Make it so.", "edited_path": "local/0001.mkv"}
    rows = [good, *(good | {"edited_path": f"local/{n}.mkv"} for n in ("short", "broken", "gone")), 7]
    (tmp_path / "training_metadata").mkdir()
    (tmp_path / "training_metadata/local.json").write_text(json.dumps(rows))
    back = {"source_path": good["edited_path"], "instruction": "Undo it.", "edited_path": good["source_path"]}
    (tmp_path / "training_metadata/sim2real.json").write_text(json.dumps([back]))
    (tmp_path / "training_metadata/style.json").write_text("{")
    samples, bad = read("ditto-1m", tmp_path)
    sample, reverse = samples
    assert sample.context == "synthetic style, dynamic scenario"
    assert reverse.context == "realistic style, dynamic scenario"
    assert np.array_equal(np.stack([f.image for f in reverse.results]), videos[0].frames[:7])
    assert (sample.task, len(sample.inputs), len(sample.results)) == ("video_edit", 8, 7)
    assert np.array_equal(np.stack([f.image for f in sample.inputs[:7]]), videos[0].frames[:7])
    assert np.array_equal(np.stack([f.image for f in sample.results]), videos[1].frames[:7])
    assert sample.inputs[7].role == Role.ASSET and np.array_equal(sample.inputs[7].image, videos[1].frames[0])
    assert [w.rpartition("/")[2] for w in bad] == [*(f"local.json:{n}" for n in (1, 2, 3, 4)), "style.json"]
    words = ("fewer than 7 frames", "cannot be opened", "missing", "object", "JSON")
    for word, reason in zip(words, bad.values(), strict=True):
        assert word in reason


@pytest.mark.parametrize("name", READERS)
def test_a_folder_of_something_else_is_told(tmp_path, name):
    with pytest.raises(ValueError, match="is not a folder"):
        read(name, tmp_path / "nothing")
    (tmp_path / "hello.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"holds|has no folder"):
        read(name, tmp_path)
    write_parquet(tmp_path / "other.parquet", [{"a": 1}])
    with pytest.raises(ValueError, match=r"holds|has no folder"):
        read(name, tmp_path)


def test_pictures_are_upright_and_without_transparency(tmp_path):
    image = np.zeros((6, 10, 3), np.uint8)
    image[:, :5] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    assert load_picture(tmp_path / "turned.png", "p").shape == (10, 6, 3)
    clear = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (load_picture(tmp_path / "clear.png", "p") == 255).all()
    assert load_region(tmp_path / "clear.png", "m").all()
    deep = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.abs(load_picture(tmp_path / "deep.png", "p")[..., 0] - deep / 257).max() <= 1  # 16 bits, not all white
    Image.fromarray(np.zeros((4, 6), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match="p has 32 bits"):
        load_picture(tmp_path / "float.tiff", "p")
    drawn = Image.new("L", (6, 4))
    ImageDraw.Draw(drawn).rectangle((1, 1, 2, 2), fill=255)
    drawn.save(tmp_path / "mask.png")
    assert load_region(tmp_path / "mask.png", "m").sum() == 4
    with pytest.raises(ValueError, match="within the set"):
        inside(tmp_path, "/etc/passwd")


# --- what may be wrong in many ways


def other_values(tree, path=()):
    """(where, value in its place) for every place in the first entry of a list, so that the second stays as it is."""
    for value in (None, True, -7, 2.5, "x", "", [], [None], {}, {"sent": 3}):
        yield path, value
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from other_values(tree[key], (*path, key))


def with_value(tree, path, value):
    if not path:
        return value
    copy = tree.copy()
    copy[path[0]] = with_value(tree[path[0]], path[1:], value)
    return copy


def refcoco_files(folder: Path, image: np.ndarray) -> list:
    """All files but the one with the entries, which are returned; so do the next."""
    save(folder / "train2014/1.jpg", image)
    save(folder / "train2014/2.jpg", image)
    size = {"height": SIZE[0], "width": SIZE[1]}
    shape = {"segmentation": [[2, 2, 12, 2, 12, 12]]}
    photos = [size | {"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)]
    instances = {"images": photos, "annotations": [shape | {"id": number} for number in (1, 2)]}
    (folder / "instances.json").write_text(json.dumps(instances))
    words = ("the first", "the second")
    return [
        {"split": "train", "image_id": number, "ann_id": number, "sentences": [{"sent": word}]}
        for number, word in enumerate(words, start=1)
    ]


def pix2pix_files(folder: Path, image: np.ndarray) -> list:
    for name in ("a", "b"):
        for number in (0, 1):
            save(folder / f"{name}/1_{number}.jpg", image)
        (folder / f"{name}/prompt.json").write_text(json.dumps({"edit": f"the {'first' if name == 'a' else 'second'}"}))
    return [["a", [1]], ["b", [1]]]


def x2i2_files(folder: Path, image: np.ndarray) -> list:
    save(folder / "images/a.png", image)
    line = {"task_type": "edit", "input_images": ["a.png"], "output_image": "a.png"}
    return [line | {"instruction": f"The {word}."} for word in ("first", "second")]


def ditto_files(folder: Path, image: np.ndarray) -> list:
    write_video(WorldVideo(1, (16, 16), 8), folder / "videos", "a")
    row = {"source_path": "a.mkv", "edited_path": "a.mkv"}
    return [row | {"instruction": f"The {word}."} for word in ("first", "second")]


@pytest.mark.parametrize(
    ("name", "make", "path"),
    [
        ("refcoco", refcoco_files, "refs(unc).json"),
        ("instructpix2pix", pix2pix_files, "seeds.json"),
        ("x2i2", x2i2_files, "a.jsonl"),
        ("ditto-1m", ditto_files, "training_metadata/a.json"),
    ],
)
def test_an_annotation_with_anything_in_it_costs_its_item_alone(tmp_path, edit, name, make, path):
    first, second = make(tmp_path, edit[0])
    (tmp_path / path).parent.mkdir(exist_ok=True)

    def outcome(entry) -> tuple[list[str], dict[str, str]]:
        lines = [json.dumps(entry), json.dumps(second)]
        (tmp_path / path).write_text("\n".join(lines) if path.endswith("l") else f"[{', '.join(lines)}]")
        samples, bad = read(name, tmp_path)
        return [sample.instruction.lower() for sample in samples], bad

    assert len(outcome(first)[0]) == 2 and not outcome(first)[1]
    wrong = 0
    for place, value in other_values(first):
        made, bad = outcome(with_value(first, place, value))
        assert sum("the second" in words for words in made) == 1, (place, value)
        assert all(reason.strip() for reason in bad.values())
        wrong += bool(bad)
    assert wrong > 20


@pytest.mark.parametrize("part", ["images", "annotations"])
def test_an_instance_with_anything_in_it_costs_its_expressions_alone(tmp_path, edit, part):
    (tmp_path / "refs(unc).json").write_text(json.dumps(refcoco_files(tmp_path, edit[0])))
    instances = json.loads((tmp_path / "instances.json").read_text())
    for place, value in other_values(instances[part][0]):
        if not place or place == ("id",):
            continue  # then the whole file is not in COCO's format, or the entry is of another picture
        first = with_value(instances[part][0], place, value)
        (tmp_path / "instances.json").write_text(json.dumps(instances | {part: [first, instances[part][1]]}))
        samples, bad = read("refcoco", tmp_path)
        assert samples[-1].instruction == "Segment the second." and len(samples) + len(bad) == 2, (place, value)


@pytest.mark.parametrize("column", ["bbox", "segmentation", "answer", "image"])
def test_a_column_without_values_costs_its_row_alone(tmp_path, edit, column):
    sound = {
        **{"image": encoded(edit[0]), "answer": ["the circle"], "segmentation": [5.0, 6.0, 25.0, 6.0, 25.0, 30.0]},
        "bbox": [5.0, 6.0, 20.0, 24.0],
    }
    empty = {"bytes": None, "path": None} if column == "image" else [None] * 6
    write_parquet(tmp_path / "a.parquet", [sound, sound | {column: empty}, sound | {column: None}, sound])
    samples, bad = read("refcoco", tmp_path)
    assert [sample.source["item"] for sample in samples] == ["a.parquet:0", "a.parquet:3"]
    assert list(bad) == ["a.parquet:1", "a.parquet:2"]


@pytest.mark.parametrize("content", [None, 3, "x", {}, {"a": 1}, [[]], [None], "{broken", b"\xff\xfe\x00"])
@pytest.mark.parametrize(
    ("name", "make", "path"),
    [
        ("refcoco", refcoco_files, "refs(unc).json"),
        ("refcoco", refcoco_files, "instances.json"),
        ("instructpix2pix", pix2pix_files, "seeds.json"),
        ("instructpix2pix", pix2pix_files, "a/prompt.json"),
        ("x2i2", x2i2_files, "a.jsonl"),
        ("ditto-1m", ditto_files, "training_metadata/a.json"),
    ],
)
def test_a_file_of_annotations_may_hold_anything(tmp_path, edit, capsys, name, make, path, content):
    """Then no record comes of it, and one line tells so."""
    entries = make(tmp_path, edit[0])
    if path in ("instances.json", "a/prompt.json"):
        (tmp_path / ("refs(unc).json" if name == "refcoco" else "seeds.json")).write_text(json.dumps(entries[:1]))
    (tmp_path / path).parent.mkdir(exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode() if content == "{broken" else None
    (tmp_path / path).write_bytes(json.dumps(content).encode() if data is None else data)
    command = ["import", "--format", name, "--source", str(tmp_path), "--output", str(tmp_path.parent / "records")]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1


def damaged_pictures(image: np.ndarray) -> dict[str, bytes]:
    """Name to the bytes of a picture file that is broken; all that can be read have names with "fine"."""

    def file(kind: str, picture: Image.Image | None = None, **options) -> bytes:
        buffer = io.BytesIO()
        (picture or Image.fromarray(image)).save(buffer, kind, **options)
        return buffer.getvalue()

    kinds = {"JPEG": file("JPEG"), "PNG": file("PNG"), "WEBP": file("WEBP", lossless=True), "TIFF": file("TIFF")}
    found = {f"fine {kind}": data for kind, data in kinds.items()}
    found |= {
        f"{kind} cut to {share}": data[: int(len(data) * share)]
        for kind, data in kinds.items()
        for share in (0.0, 0.01, 0.1, 0.3, 0.6)
    }
    found |= {f"{kind} without its head": data[len(data) // 3 :] for kind, data in kinds.items()}
    found |= {"words": b"<html>404</html>", "zeros": bytes(1000), "a video's head": b"\0\0\0\x20ftypisom" + bytes(99)}
    size = struct.pack(">II", 60000, 60000)  # a small file that says it is a picture of 3.6 thousand million pixels
    header = b"IHDR" + size + b"\x08\x02\0\0\0"
    found["bomb"] = kinds["PNG"][:12] + header + struct.pack(">I", zlib.crc32(header)) + kinds["PNG"][33:]
    grey = Image.fromarray(image).convert("L")
    found |= {"fine grey": file("PNG", grey), "fine palette": file("GIF")}
    found["fine CMYK"] = file("JPEG", grey.convert("CMYK"))
    found["fine 16 bits"] = file("PNG", Image.fromarray(image[..., 0].astype(np.uint16) * 257))
    return found


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_broken_pictures_are_listed_and_the_others_made(tmp_path, edit, capsys):
    image = edit[0]
    source, output = tmp_path / "source", tmp_path / "records"
    pictures = damaged_pictures(image)
    for number, data in enumerate(pictures.values()):
        save(source / f"{number}/1_0.jpg", image)
        (source / f"{number}/1_1.jpg").write_bytes(data)
        (source / f"{number}/prompt.json").write_text(json.dumps({"edit": "do it"}))
    links = {"loop": "1_1.jpg", "nowhere": "gone.jpg", "folder": ".", "pipe": None}
    for name, target in links.items():
        save(source / f"{name}/1_0.jpg", image)
        (source / f"{name}/prompt.json").write_text(json.dumps({"edit": "do it"}))
        path = source / f"{name}/1_1.jpg"
        os.mkfifo(path) if target is None else os.symlink(target, path)
    names = [*map(str, range(len(pictures))), *links]
    seeds = json.dumps([[name, [1]] for name in names])
    (source / "seeds.json").write_text(seeds, encoding="utf-8-sig")  # with a mark, as Windows writes it
    assert main(["import", "--format", "instructpix2pix", "--source", str(source), "--output", str(output)]) == 0
    made = {sample.source["item"] for sample in ParquetSamples(output)}
    failures = {told["item"]: told["reason"] for told in map(json.loads, (output / "failures.jsonl").open())}
    assert made | set(failures) == {f"{name}/1" for name in names} and not made & set(failures)
    fine = {f"{number}/1" for number, name in enumerate(pictures) if name.startswith("fine")}
    assert fine <= made and len(failures) > 20
    assert all(reason.strip() and "\n" not in reason for reason in failures.values())
    bomb = failures[f"{list(pictures).index('bomb')}/1"]
    assert "cannot be read as a picture" in bomb and "missing" in failures["loop/1"] and "missing" in failures["pipe/1"]


# --- the command


@pytest.fixture
def magicbrush(tmp_path, edit) -> Path:
    before, after, mask = edit
    row = {
        **{"img_id": "1", "turn_index": 1, "source_img": encoded(before), "target_img": encoded(after)},
        **{"mask_img": encoded(np.where(mask[..., None], np.uint8(255), before)), "instruction": "Recolor it."},
    }
    folder = tmp_path / "MagicBrush"
    write_parquet(folder / "data/train-0.parquet", [row, row | {"instruction": ""}, row, row])
    return folder


def test_import_writes_records(tmp_path, magicbrush, capsys):
    output = tmp_path / "records"
    command = ["import", "--format", "magicbrush", "--source", str(magicbrush), "--output", str(output)]
    assert main(command) == 0
    assert "3 records of magicbrush in 1 shards, 1 items left out" in capsys.readouterr().out
    samples = ParquetSamples(output)
    assert [samples[i].source["item"] for i in range(3)] == [f"data/train-0.parquet:{row}" for row in (0, 2, 3)]
    (failure,) = map(json.loads, (output / "failures.jsonl").read_text().splitlines())
    assert failure == {"item": "data/train-0.parquet:1", "reason": "instruction holds no text, but ''"}
    assert main(command) == 2 and "not empty" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--limit", "2"]) == 0
    assert len(ParquetSamples(output)) == 2


def test_import_tells_what_is_wrong(tmp_path, magicbrush, capsys):
    output = tmp_path / "records"

    def said(*words: str) -> str:
        assert main(["import", "--output", str(output), *words]) == 2
        return capsys.readouterr().err

    source = ("--source", str(magicbrush))
    assert "did you mean 'magicbrush'?" in said("--format", "magicbrsh", *source)
    assert "data/train-0.parquet:1: instruction holds no text" in said("--format", "magicbrush", *source, "--strict")
    assert "wanted are columns source_image" in said("--format", "ultraedit", *source)
    assert "--limit is at least 1" in said("--format", "magicbrush", *source, "--limit", "0")
    output = magicbrush / "records"
    assert "lies within --source" in said("--format", "magicbrush", *source)
    assert not output.exists() or not list(output.glob("*.parquet"))
