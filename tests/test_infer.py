"""infer.py: every bad input ends with status 2, one line on stderr and nothing written; what good input gives."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from warnings import catch_warnings

import numpy as np
import pytest
import torch
from PIL import Image

from unireal.arguments import failed
from unireal.tasks import TASKS

ROOT = Path(__file__).parents[1]


def _files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.fixture
def rejected(infer, tmp_path):
    """Asserts that a call is bad input and returns its one line."""

    def call(*arguments, **options) -> str:
        before = _files(tmp_path)
        outcome = infer(*arguments, **options)
        assert outcome.status == 2, outcome
        assert outcome.err.count("\n") == 1 and outcome.err.startswith("infer.py: "), outcome.err
        assert "Traceback" not in outcome.err and outcome.out == ""
        assert _files(tmp_path) == before
        return outcome.err

    return call


@pytest.fixture
def mask(tmp_path):
    def write(name: str, size=(24, 16), white=(4, 2, 12, 10)) -> Path:
        image = Image.new("L", size)
        if white:
            image.paste(255, white)
        image.save(tmp_path / name)
        return tmp_path / name

    return write


# Bad input


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("edti --canvas in.png --prompt x --output o.png", "did you mean 'edit'?"),
        ("zzz --output o.png", "choose from: t2i, edit"),
        ("--output o.png", "no task given"),
        ("--canvas in.png edit --prompt x --output o.png", "name it before the options: t2i, edit"),
        ("depth in.png --output o.png", "follows an option, such as --canvas PATH"),
        ("t2v --prompt x --output o.png", "is to be a video; its name must end in one of .mp4"),
        ("t2v --prompt x --output o.mp4 --accelerate spotedit --spot-mask m.png", "makes a video; leave it out"),
        ("edit --prompt x --output o.png", "needs 1 --canvas, got 0; give 1 more"),
        ("edit --canvas in.png in.png --prompt x --output o.png", "needs 1 --canvas, got 2; give 1 fewer"),
        ("edit --canvas in.png --canvas in.png --prompt x --output o.png", "needs 1 --canvas, got 2"),
        ("edit --canvas in.png --asset in.png --prompt x --output o.png", "takes no --asset"),
        ("t2i --canvas in.png --prompt x --output o.png", "takes no --canvas; it takes no pictures"),
        ("edit --canvas in.png --mask in.png --prompt x --output o.png", "tasks that do: inpaint, insert"),
        ("edit --canvas in.png --expand 1,1,1,1 --prompt x --output o.png", "takes no --expand"),
        ("edit --canvas in.png --output o.png", "needs a prompt, for example"),
        ("tryon --canvas in.png --prompt x --output o.png", "needs 1 --asset"),
        ("inpaint --canvas in.png --output o.png", "needs 1 --mask"),
        (
            "customize --asset in.png in.png in.png in.png in.png --prompt x --output o.png",
            "needs 1 to 4 --asset, got 5",
        ),
        ("compose --prompt x --output o.png --canvas " + "in.png " * 9, "needs 0 to 8 --canvas, got 9"),
        ("compose --prompt x --output o.png --num-results 9", "gives 1 to 8 results at once, got 9"),
        (
            "compose --prompt x --output o.png --canvas" + " in.png" * 5 + " --asset" + " in.png" * 4,
            "index table holds 8",
        ),
        ("edit --canvas in.png --prompt x --output o.png --num-results 100000", "gives 1 to 64 results"),
        ("edit --canvas in.png --prompt x --output o.png --num-results 0", "whole number of at least 1"),
        ("edit --canvas nothere.png --prompt x --output o.png", "is not a file"),
        ("edit --canvas folder --prompt x --output o.png", "is not a file"),
        ("edit --canvas in.png --prompt x", "no output given"),
        ("edit --canvas in.png --prompt x --output o.xyz", "must end in one of .png"),
        ("edit --canvas in.png --prompt x --output o", "must end in one of .png"),
        ("edit --canvas in.png --prompt x --output in.png/below/o.png", "is not writable"),
        ("edit --canvas in.png --prompt x --output dir.png", "is a folder"),
        ("edit --canvas in.png --prompt x --output folder/", "is a folder"),
        ("edit --canvas in.png --prompt x --output new/o.png --guidance nan", "guidance must be"),
        ("edit --canvas in.png --prompt x --output o.png --size 0x64", "0x64 pixels"),
        ("edit --canvas in.png --prompt x --output o.png --size -1x5", "give it, as --size=VALUE"),
        ("edit --canvas in.png --prompt x --output o.png --size=-1x5", "-1x5 pixels"),
        ("edit --canvas in.png --prompt x --output o.png --size 99999x99999", "sides must be 1 to 2048"),
        ("edit --canvas in.png --prompt x --output o.png --size 64", "is not WxH"),
        ("edit --canvas in.png --prompt x --output o.png --size --1-x5", "--size"),
        ("edit --canvas in.png --prompt x --output o.png --size ²x5", "is not WxH"),
        ("edit --canvas in.png --promt x --output o.png", "did you mean --prompt?"),
        ("edit --canvas in.png --prompt x --output o.png --num-inference-steps 4", "did you mean --steps?"),
        ("edit --canvas in.png --prompt x --output o.png --guidance_scale 4", "did you mean --guidance?"),
        ("inpaint --input in.png --mask m.png --output o.png", "did you mean --canvas?"),
        ("inpaint --canvas in.png --mask-image m.png --output o.png", "did you mean --mask?"),
        ("edit --canvas in.png --prompt x --output o.png --width 64", "did you mean --size WxH?"),
        ("edit --canvas in.png --prompt x --output o.png --version", "unrecognized arguments: --version; see"),
        ("edit --canvas in.png --prompt \udcff --output o.png", "the prompt is not valid UTF-8 text"),
        (
            "edit --canvas in.png --prompt x --accelerate spotedit --output o.png --spot-mask ./o.png",
            "--spot-mask './o.png' and --output 'o.png' are one file",
        ),
        (
            "compose --canvas in.png --prompt x --num-results 2 --output o.png "
            "--accelerate spotedit --spot-mask o_1.png",
            "are one file; give one another name",
        ),
        ("edit stray --canvas in.png --prompt x --output o.png", "unrecognized arguments"),
        ("edit --canvas in.png --prompt x --output o.png --negative-prompt y", "give a guidance scale above 1"),
        ("edit --canvas in.png --prompt x --output o.png --guidance inf", "guidance must be"),
        ("edit --canvas in.png --prompt x --output o.png --guidance -1", "guidance must be"),
        ("edit --canvas in.png --prompt x --output o.png --image-guidance nan", "image guidance must be"),
        ("edit --canvas in.png --prompt x --output o.png --guidance much", "--guidance"),
        ("edit --canvas in.png --prompt x --output o.png --steps 0", "whole number of at least 1"),
        ("edit --canvas in.png --prompt x --output o.png --steps 1.5", "whole number of at least 1"),
        ("edit --canvas in.png --prompt x --output o.png --seed one", "whole number"),
        ("edit --canvas in.png --prompt x --output o.png --seed 99999999999999999999", "whole number"),
        ("outpaint --canvas in.png --output o.png", "needs --expand L,T,R,B"),
        ("outpaint --canvas in.png --output o.png --expand=-1,0,0,0", ">= 0 pixels"),
        ("outpaint --canvas in.png --output o.png --expand 0,0,0,0", "at least one above 0"),
        ("outpaint --canvas in.png --output o.png --expand 1,2,3", "four numbers"),
        ("outpaint --canvas in.png --output o.png --expand 99999999,0,0,99999999", "at most 2048"),
        ("control --control flow=in.png --prompt x --output o.png", "is not KIND=PATH with a KIND of depth"),
        ("control --control in.png --prompt x --output o.png", "is not KIND=PATH"),
        ("edit --canvas in.png --prompt x --output o.png --context sunny", "unknown context keyword 'sunny'"),
        (
            "edit --canvas in.png --prompt IMG9 --output o.png",
            "names IMG9, but there is 1 input image; give more input images, or name IMG1",
        ),
        ("edit --canvas in.png --prompt RES2 --output o.png", "names RES2, but there is 1 result; give more results"),
        ("t2i --prompt IMG1 --output o.png", "names IMG1, but there are no input images; add them or drop the word"),
        ("edit --canvas in.png --prompt x --output o.png --device warp", "'warp' cannot be used"),
        ("edit --canvas in.png --prompt x --output o.png --device meta", "'meta' cannot be used"),
        ("edit --canvas in.png --prompt x --output o.png --dtype int3", "--dtype"),
    ],
)
def test_bad_arguments(rejected, picture, tmp_path, arguments, expected):
    picture("in.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dir.png").mkdir()
    assert expected in rejected(*arguments.split())


def test_bad_numbers_are_found_before_the_model_is_loaded(rejected, picture):
    picture("in.png")
    for option in ("--guidance nan", "--steps 0", "--context sunny", "--image-guidance -1"):
        call = f"edit --canvas in.png --prompt x --output o.png {option}".split()
        assert "model" not in rejected(*call, model="/nowhere/at/all")


def _bomb(path: Path, side: int) -> None:
    """A PNG that claims to be side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)))


def test_damaged_pictures(rejected, picture, tmp_path):
    whole = picture("in.png", (64, 64)).read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "wrong.png").write_bytes(whole[:60] + b"\0" * 40 + whole[100:])
    picture("in.jpg", (64, 64))
    (tmp_path / "half.jpg").write_bytes((tmp_path / "in.jpg").read_bytes()[:700])
    _bomb(tmp_path / "bomb.png", 9000)
    _bomb(tmp_path / "huge.png", 60000)
    reasons = {"empty.png": "it is empty", "bomb.png": "9000x9000 pixels, more than", "huge.png": "decompression bomb"}
    for name in ("empty.png", "text.png", "half.png", "wrong.png", "half.jpg", "bomb.png", "huge.png"):
        line = rejected("edit", "--canvas", name, "--prompt", "x", "--output", "o.png")
        assert f"canvas '{name}' cannot be read" in line and reasons.get(name, "") in line


def test_bad_masks(rejected, picture, mask, tmp_path):
    picture("in.png")
    mask("black.png", white=None)
    mask("small.png", size=(20, 16))
    call = "inpaint --canvas in.png --output o.png --mask".split()
    assert "black everywhere" in rejected(*call, "black.png")
    for mode in ("LA", "RGBA"):  # paint on a transparent layer
        paint = Image.new(mode, (24, 16))
        paint.paste((255,) * len(mode), (4, 2, 12, 10))
        paint.save(tmp_path / "paint.png")
        assert "mask has transparent pixels" in rejected(*call, "paint.png")
        assert "mask control has transparent" in rejected(*"control --prompt x --output o.png --control".split(),
                                                          "mask=paint.png")  # fmt: skip
    assert "the mask has 20x16 pixels, the canvas 24x16" in rejected(*call, "small.png")


def test_bad_model_folders(rejected, picture, tmp_path, tiny_pipeline_folder):
    picture("in.png")
    call = "edit --canvas in.png --prompt x --output o.png".split()
    told = "neither a folder, a hub id, nor one of: unireal-tiny"
    for missing in ("unireal-huge", "./unireal-huge", picture("a.png")):
        assert told in rejected(*call, model=missing)
    assert "did you mean 'unireal-tiny'?" in rejected(*call, model="unireal-tinny")
    assert "no model_index.json" in rejected(*call, model=tmp_path)
    assert "it holds an adapter: give it as --lora" in rejected(*call, model="unireal-tiny-128")
    with catch_warnings(record=True) as shown:  # which pytest keeps from stderr
        offline = rejected(*call, model="somebody/something")
    assert not shown
    assert "model 'somebody/something' is not here, and the hub does not give it" in offline
    assert "stacktrace" not in offline
    for lost in (
        "model_index.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ):
        folder = tmp_path / lost.replace("/", "-")
        shutil.copytree(tiny_pipeline_folder, folder)
        (folder / lost).unlink()
        line = rejected(*call, model=folder)
        assert lost.split("/")[-1].replace("diffusion_pytorch_model", "*").replace("model.safe", "*.safe") in line
    pickled = tmp_path / "transformer-diffusion_pytorch_model.safetensors"
    torch.save({}, pickled / "transformer" / "diffusion_pytorch_model.bin")
    assert "pickled weights (diffusion_pytorch_model.bin)" in rejected(*call, model=pickled)
    cut = tmp_path / "cut"
    shutil.copytree(tiny_pipeline_folder, cut)
    os.truncate(cut / "transformer" / "diffusion_pytorch_model.safetensors", 1000)
    assert "are damaged" in rejected(*call, model=cut)
    (cut / "model_index.json").write_text("{half")
    assert "is not the index of a pipeline" in rejected(*call, model=cut)


def test_a_package_that_is_not_installed_is_told_with_its_extra(rejected, picture, tmp_path, monkeypatch, capfd):
    monkeypatch.delitem(sys.modules, "unireal.model.lora", raising=False)
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not there
    call = ("edit", "--canvas", picture("a.png"), "--prompt", "x", "--lora", tmp_path, "--output", tmp_path / "b.png")
    assert rejected(*call) == "infer.py: peft is not installed: pip install 'unireal[train]'\n"
    for error, told in (
        (ModuleNotFoundError("", name="cv2"), "opencv-python-headless is not installed: pip install 'unireal[data]'"),
        (ImportError("\nQwen2VLVideoProcessor requires the Torchvision library"), "pip install 'unireal[eval]'"),
        (ImportError("cannot import name 'x'", name="unireal.sample"), "error: cannot import name 'x'"),
    ):
        assert failed(error) == 2
        assert told in capfd.readouterr().err


def test_a_failing_disk_leaves_nothing(infer, picture, tmp_path, monkeypatch):
    picture("in.png")
    saved = []

    def save(self, path, *_, **__):
        Path(path).write_bytes(b"half")
        saved.append(path)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    outcome = infer(*"edit --canvas in.png --prompt x --output new/o.png --num-results 3".split())
    assert outcome.status == 2 and "No space left" in outcome.err and outcome.err.count("\n") == 1
    assert len(saved) == 2 and not list((tmp_path / "new").iterdir())


def _process(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "infer.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def test_a_real_process_with_bad_input_after_loading(picture, tmp_path, tiny_pipeline_folder):
    picture("in.png")
    pictures = ["--canvas", *["in.png"] * 5, "--asset", *["in.png"] * 4]
    done = _process(
        "compose", "--prompt", "x", *pictures, "--output", "o.png", "--model", tiny_pipeline_folder, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "index table holds 8" in done.stderr
    assert _files(tmp_path) == {"in.png"}


# Good input


def test_a_real_process(picture, tmp_path, tiny_pipeline_folder):
    picture("in.png", (37, 51))
    options = ["--canvas", "in.png", "--prompt", "Make the red circle blue.", "--output", "new/o.png", "--json"]
    done = _process("edit", *options, "--model", tiny_pipeline_folder, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    assert report["files"] == ["new/o.png"] and report["steps"] == 2 and report["seconds"] > 0
    assert report["model"] == str(tiny_pipeline_folder)
    assert Image.open(tmp_path / "new/o.png").size == (37, 51)


def test_list_tasks(infer):
    outcome = infer("--list-tasks", model=None)
    assert outcome.status == 0 and all(f"{name} " in outcome.out for name in TASKS)
    table = json.loads(infer("--list-tasks", "--json", model=None).out)
    assert [row["task"] for row in table] == list(TASKS)
    assert infer("--help", model=None).status == 0


@pytest.mark.parametrize("size", [(37, 51), (16, 64), (64, 16), (1, 1), (200, 9), (24, 16)])
def test_output_has_the_canvas_size(infer, picture, tmp_path, size):
    picture("in.png", size)
    assert infer(*"edit --canvas in.png --prompt x --output o.png --steps 1".split()).status == 0
    assert Image.open(tmp_path / "o.png").size == size


def test_size_resizes(infer, picture, tmp_path):
    picture("in.png")
    assert infer(*"edit --canvas in.png --prompt x --output o.png --size 33x20".split()).status == 0
    assert Image.open(tmp_path / "o.png").size == (33, 20)
    assert infer(*"t2i --prompt x --output t.webp --size 17x23".split()).status == 0
    assert Image.open(tmp_path / "t.webp").size == (17, 23)
    assert infer(*"t2i --prompt x --output n.jpg".split()).status == 0
    assert Image.open(tmp_path / "n.jpg").size == (64, 64)


def test_seeds_and_several_results(infer, picture, tmp_path):
    picture("in.png")
    call = "edit --canvas in.png --prompt x --output"
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert infer(*f"{call} {name}.png --seed {seed}".split()).out == f"{name}.png\n"
    a, b, c = ((tmp_path / f"{n}.png").read_bytes() for n in "abc")
    assert a == b != c
    outcome = infer(*f"{call} d/e.png --num-results 3 --json".split())
    assert json.loads(outcome.out)["files"] == ["d/e_1.png", "d/e_2.png", "d/e_3.png"]
    assert len({p.read_bytes() for p in (tmp_path / "d").iterdir()}) == 3
    outcome = infer(*"compose --canvas in.png --prompt RES2 --output f.png --num-results 2".split())
    assert outcome.out == "f_1.png\nf_2.png\n"


def test_inpaint_keeps_what_is_outside_the_mask(infer, picture, mask, tmp_path):
    canvas = np.asarray(Image.open(picture("in.png", (37, 51))))
    inside = np.asarray(Image.open(mask("m.png", (37, 51)))) > 0
    assert infer(*"inpaint --canvas in.png --mask m.png --output o.png".split()).status == 0
    result = np.asarray(Image.open(tmp_path / "o.png"))
    assert (result[~inside] == canvas[~inside]).all() and (result[inside] != canvas[inside]).any()


def test_outpaint_keeps_the_canvas(infer, picture, tmp_path):
    canvas = np.asarray(Image.open(picture("in.png", (24, 17))))
    assert infer(*"outpaint --canvas in.png --expand 3,5,7,0 --output o.png".split()).status == 0
    result = np.asarray(Image.open(tmp_path / "o.png"))
    assert result.shape == (22, 34, 3) and (result[5:, 3:27] == canvas).all()


def test_controls_assets_masks_and_perception(infer, picture, mask, tmp_path):
    picture("in.png"), picture("a.png", (30, 30), 1), picture("b.png", (9, 40), 2), mask("m.png")
    for call in (
        "control --control depth=in.png --prompt x",
        "customize --asset a.png b.png --prompt IMG2",
        "insert --canvas in.png --asset a.png b.png --prompt IMG3",
        "insert --image in.png --asset a.png --mask m.png --prompt IMG3",
        "tryon --canvas in.png --asset a.png --prompt x --guidance 2 --image-guidance 1.5 --negative-prompt y",
        "restore --canvas in.png --context realistic_style".replace("_", " "),
        "compose --control edge=in.png mask=m.png --asset a.png --prompt x",
    ):
        arguments = call.replace("realistic style", "realistic@style").split()
        outcome = infer(*[a.replace("@", " ") for a in arguments], "--output", "o.png", "--steps", 1)
        assert outcome.status == 0, outcome.err
    for task in ("segment --prompt x", "depth"):
        assert infer(*f"{task} --canvas in.png --output o.png".split()).status == 0
        pixels = np.asarray(Image.open(tmp_path / "o.png"))
        assert (pixels == pixels[..., :1]).all() and (task == "depth" or set(np.unique(pixels)) <= {0, 255})


def test_what_an_edit_leaves_alone_is_blurred_by_no_file(infer, picture, mask, tmp_path):
    canvas = np.asarray(Image.open(picture("in.png", (40, 32)))).astype(int)
    outside = np.asarray(Image.open(mask("m.png", (40, 32)))) == 0
    for suffix, most in ((".webp", 0), (".tif", 0), (".bmp", 0), (".jpg", 6)):  # of 255, for random pixels
        assert infer(*f"inpaint --canvas in.png --mask m.png --output o{suffix}".split()).status == 0
        result = np.asarray(Image.open(tmp_path / f"o{suffix}")).astype(int)
        assert np.abs(result - canvas)[outside].mean() <= most


def test_masks_in_all_ways_of_white(infer, picture, tmp_path):
    picture("in.png")
    inside = np.zeros((16, 24), bool)
    inside[2:10, 4:12] = True
    grey = Image.fromarray(inside.astype(np.uint8) * 255)
    deep = Image.fromarray(inside.astype(np.uint16) * 65535)
    ways = [grey, grey.convert("1"), grey.convert("P"), grey.convert("RGB"), grey.convert("RGBA"), deep]
    results = set()
    for way in ways:
        way.save(tmp_path / "m.png")
        assert infer(*"inpaint --canvas in.png --mask m.png --output o.png".split()).status == 0, way.mode
        results.add((tmp_path / "o.png").read_bytes())
    assert len(results) == 1


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_a_picture_that_moves_is_told(infer, picture, tmp_path, suffix):
    frames = [Image.open(picture(f"{i}.bmp", seed=i)) for i in range(3)]
    frames[0].save(tmp_path / f"in.{suffix}", save_all=True, append_images=frames[1:])
    done = infer(*f"edit --canvas in.{suffix} --prompt x --output o.png --json".split())
    warning = "canvas is a picture that moves; only its first frame is used"
    assert done.status == 0 and json.loads(done.out)["warnings"] == [warning] and warning in done.err


def test_names_that_a_terminal_cannot_show(tmp_path, tiny_pipeline_folder, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = _process("t2i", "--prompt", "x", "--output", "ü.png", "--model", tiny_pipeline_folder, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xfc.png\n", "") and (tmp_path / "ü.png").is_file()


def test_an_output_that_nobody_reads_on(tmp_path):
    """A reader that has gone is no error; a full disk is one, told in a line."""
    script = f"{sys.executable} {ROOT / 'infer.py'} --list-tasks"
    done = subprocess.run(["bash", "-c", f"{script} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")
    done = subprocess.run(["bash", "-c", f"{script} > /dev/full"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("infer.py: ") and done.stderr.count("\n") == 1


def test_a_long_prompt_is_told(infer, picture):
    picture("in.png")
    call = ("edit", "--canvas", "in.png", "--prompt", "circle " * 80 + "the end", "--output", "o.png")
    done = infer(*call)
    assert done.status == 0 and done.out == "o.png\n" and done.err.count("\n") == 1
    assert done.err.startswith("infer.py: warning: the prompt has ") and "the model reads 64; cut off:" in done.err
    report = json.loads(infer(*call, "--json").out)
    assert done.err == "".join(f"infer.py: warning: {text}\n" for text in report["warnings"])
    assert json.loads(infer(*call[:4], "red", *call[5:], "--json").out)["warnings"] == []


def test_image_guidance_without_pictures_is_told(infer, picture):
    picture("in.png")
    for call, told in (("t2i --prompt x", 1), ("compose --prompt x", 1), ("compose --prompt x --canvas in.png", 0)):
        report = json.loads(infer(*call.split(), *"--image-guidance 2 --output o.png --json".split()).out)
        assert report["warnings"] == ["--image-guidance 2 does nothing, as no pictures are given"] * told
    assert json.loads(infer(*"t2i --prompt x --image-guidance 1 --output o.png --json".split()).out)["warnings"] == []
