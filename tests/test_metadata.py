"""infer.py --metadata keeps what made a picture or video in its file, and --from-metadata makes it again."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unireal.data.png import encode_png
from unireal.metadata import Recipe, png_infos, video_comment
from unireal.model.lora import add_lora, save_lora
from unireal.request import Request
from unireal.video.files import ENCODERS, VideoFile, VideoWriter

pytest.importorskip("av")


def _write(path: Path, comment: str | None = None, size: tuple[int, int] = (16, 24)) -> Path:
    with VideoWriter(path, comment=comment) as writer:
        for level in (0, 80, 160, 240, 120):
            writer.write(np.full((*size, 3), level, np.uint8))
    return path


def test_a_picture_is_made_again(infer, picture, tmp_path):
    picture("in.png"), picture("asset.png", (9, 9), 1)
    call = "insert --canvas in.png --asset asset.png --prompt IMG2 --seed 5 --num-results 2 --size 30x20 --metadata"
    assert infer(*call.split(), "--output", "a.png").status == 0
    (tmp_path / "in.png").unlink(), (tmp_path / "asset.png").unlink()
    done = infer("--from-metadata", "a_2.png", "--output", "b.png")
    assert done.status == 0 and done.out == "b.png\n", done.err
    with Image.open(tmp_path / "a_2.png") as one, Image.open(tmp_path / "b.png") as other:
        assert one.tobytes() == other.tobytes() and one.size == (30, 20)
    other = infer("--from-metadata", "a_2.png", "--output", "c.png", "--seed", 6)
    assert other.status == 0 and Image.open(tmp_path / "c.png").tobytes() != Image.open(tmp_path / "b.png").tobytes()


def test_boxes_points_and_classes_replace_what_a_file_has_of_them(infer, picture, tmp_path):
    picture("in.png")
    for number, box in enumerate(([1, 1, 9, 9], [3, 5, 20, 14])):
        (tmp_path / f"{number}.json").write_text(json.dumps({"boxes": [{"box": box}]}))
    (tmp_path / "drag.json").write_text(json.dumps({"drags": [{"start": [1, 1], "end": [9, 9]}]}))
    call = "compose --canvas in.png --steps 1"
    assert infer(*call.split(), *"--layout 0.json --class-label cat --metadata --output a.png".split()).status == 0
    for other in ("--layout 1.json --class-label dog", "--drag drag.json --prompt up"):
        assert infer(*call.split(), *other.split(), "--output", "b.png").status == 0
        assert infer("--from-metadata", "a.png", *other.split(), "--output", "c.png").status == 0
        assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_a_result_is_made_again_with_its_own_spot_mask(infer, picture, tmp_path):
    picture("in.png")
    call = "edit --canvas in.png --prompt x --steps 4 --num-results 2 --accelerate spotedit --metadata --output a.png"
    assert infer(*call.split(), "--spot-mask", "m.png").status == 0
    done = infer(*"--from-metadata a_2.png --output b.png --spot-mask n.png".split())
    assert done.out == "b.png\nn.png\n" and (tmp_path / "n.png").read_bytes() == (tmp_path / "m_2.png").read_bytes()


def test_without_the_option_a_picture_tells_nothing(infer, picture, tmp_path):
    picture("in.png")
    assert infer(*"edit --canvas in.png --prompt x --output o.png".split()).status == 0
    with Image.open(tmp_path / "o.png") as image:
        assert not image.info
    told = infer("--from-metadata", "o.png", "--output", "p.png")
    assert told.status == 2 and "does not say what made it" in told.err


@pytest.mark.parametrize("suffix", ENCODERS)
def test_a_new_video_is_made_again(infer, picture, tmp_path, suffix):
    """A picture of 300x200 random pixels is more than the 64 KiB that some comments hold."""
    picture("in.png", (300, 200) if suffix == ".mov" else (24, 16))
    call = "t2v --canvas in.png --prompt up --seed 5 --num-frames 6 --fps 25/2 --size 24x16 --metadata --output"
    assert infer(*call.split(), f"a{suffix}").status == 0
    (tmp_path / "in.png").unlink()
    done = infer("--from-metadata", f"a{suffix}", "--output", "b.mp4", "--json")
    assert done.status == 0 and json.loads(done.out)["files"] == ["b.mp4"], done.err
    made, again = VideoFile(tmp_path / f"a{suffix}"), VideoFile(tmp_path / "b.mp4")
    assert made.rate == again.rate == 12.5 and len(list(again)) == 6
    for one, other in zip(made, again, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 12  # encoders differ
    if suffix == ".mp4":
        assert np.array_equal(list(made), list(again))


def test_an_edited_video_is_made_again_from_the_video(infer, tmp_path):
    _write(tmp_path / "in.mp4")
    call = "video_edit --prompt red --seed 5 --num-frames 4 --video in.mp4 --metadata --output a.mp4"
    assert infer(*call.split()).status == 0
    missing = infer("--from-metadata", "a.mp4", "--output", "b.mp4")
    assert missing.status == 2 and "give it as --video" in missing.err
    assert infer("--from-metadata", "a.mp4", "--video", "in.mp4", "--output", "b.mp4").status == 0
    made, again = (list(VideoFile(tmp_path / name)) for name in ("a.mp4", "b.mp4"))
    assert len(made) == 4 and np.array_equal(made, again)
    assert str(tmp_path) not in VideoFile(tmp_path / "a.mp4").comment  # where things lie is nobody's business


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.mp4", "is not a file"),
        ("plain.mp4", "does not say what made it"),
        ("talk.mkv", "does not say what made it"),
        ("list.mp4", "does not say what made it"),
        ("text.mp4", "cannot be read as a video"),
        ("text.txt", "neither a PNG that can be read nor a video"),
        ("large.mp4", "does not hold its pictures, they were too large; give --canvas"),
    ],
)
def test_files_that_do_not_tell(infer, tmp_path, monkeypatch, name, told):
    monkeypatch.setattr("unireal.metadata.MAX_COMMENT", 10)
    recipe = Recipe(Request("t2v", "up", canvas=[np.zeros((16, 24, 3), np.uint8)]))
    comments = {"plain.mp4": None, "talk.mkv": "A holiday.", "list.mp4": "[1]", "large.mp4": video_comment(recipe)}
    for file, comment in comments.items():
        _write(tmp_path / file, comment)
    (tmp_path / "text.mp4").write_text("no video"), (tmp_path / "text.txt").write_text("no picture")
    done = infer("--from-metadata", name, "--output", "o.mp4", model=None)
    assert done.status == 2 and told in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "o.mp4").exists()


def test_an_adapter_has_to_be_given_again(infer, picture, tmp_path):
    from conftest import debug_components

    parts = debug_components()
    add_lora(parts.transformer, 2)
    save_lora(parts.transformer, tmp_path / "adapter")
    assert infer(*"t2i --prompt red --lora adapter --metadata --output a.png".split()).status == 0
    told = infer("--from-metadata", "a.png", "--output", "b.png")
    assert told.status == 2 and "made with the adapter 'adapter'; give its folder as --lora" in told.err
    assert infer(*"--from-metadata a.png --lora adapter --output b.png".split()).status == 0


def test_where_it_cannot_be_kept(infer, picture, tmp_path):
    picture("in.png")
    done = infer(*"edit --canvas in.png --prompt x --metadata --output o.jpg".split())
    assert done.status == 2 and "name it .png" in done.err and not (tmp_path / "o.jpg").exists()


def test_results_that_a_file_cannot_have(infer, tmp_path):
    recipe = Recipe(Request("t2i", "red"))
    for info in png_infos(recipe, (-1, 5)):
        Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
        done = infer("--from-metadata", "a.png", "--output", "b.png", model=None)
        assert done.status == 2 and done.err.count("\n") == 1 and not (tmp_path / "b.png").exists()
        assert "does not say what made it" in done.err or "result 6 of 1" in done.err


def test_a_polynomial_is_kept_as_numbers(infer, picture, tmp_path):
    """Its file may be away by then, and where it lies is nobody's business."""
    picture("in.png"), (tmp_path / "p.json").write_text('{"polynomial": [3e-05, 2.5, -0.125]}')
    call = f"edit --canvas in.png --prompt x --steps 6 --accelerate teacache:threshold=0.3:polynomial={tmp_path}/p.json"
    assert infer(*f"{call},spotedit --metadata --output a.png".split()).status == 0
    (tmp_path / "p.json").unlink()
    with Image.open(tmp_path / "a.png") as image:
        assert "polynomial=(3e-05, 2.5, -0.125),spotedit" in image.info["unireal"] and str(tmp_path) not in str(
            image.info
        )
    assert infer("--from-metadata", "a.png", "--output", "b.png").status == 0
    assert Image.open(tmp_path / "a.png").tobytes() == Image.open(tmp_path / "b.png").tobytes()


def test_a_file_has_no_other_file_read(infer, tmp_path):
    """Others may have written it."""
    (tmp_path / "p.json").write_text('{"polynomial": [1, 0]}')
    (info,) = png_infos(Recipe(Request("t2i", "red"), accelerate=("teacache:polynomial=(1.0, 0.0)",)))
    info.chunks = [(kind, data.replace(b"(1.0, 0.0)", b"p.json")) for kind, data, *_ in info.chunks]
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    done = infer("--from-metadata", "a.png", "--output", "b.png")
    assert done.status == 2 and "names another file" in done.err and not (tmp_path / "b.png").exists()
    assert infer(*"--from-metadata a.png --output b.png --accelerate teacache".split()).status == 0


def test_a_stored_picture_of_too_many_pixels(infer, tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    (info,) = png_infos(Recipe(Request("edit", "red", canvas=[image])))
    large = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(large, "PNG")
    small, large = (base64.b64encode(data) for data in (encode_png(image)["bytes"], large.getvalue()))
    info.chunks = [(kind, data.replace(small, large)) for kind, data, *_ in info.chunks]
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    done = infer("--from-metadata", "a.png", "--output", "b.png")
    assert done.status == 2 and "picture 1 in 'a.png' is damaged; give --canvas" in done.err
