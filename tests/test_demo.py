"""The demo as its users meet it: a server in this process, called through gradio_client and plain HTTP."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

pytest.importorskip("gradio", reason="the demo needs the extra demo")
from gradio_client import Client, handle_file
from gradio_client.client import Job
from gradio_client.exceptions import AppError
from httpx import Client as Http

from unireal.cli import main as infer_main
from unireal.conditions import Drags, Layout
from unireal.demo import engine as engine_module
from unireal.demo.__main__ import main
from unireal.demo.app import build_app, families
from unireal.demo.controls import _Marking
from unireal.demo.engine import Engine, Outcome, Progress
from unireal.demo.examples import EXAMPLES, examples_of
from unireal.demo.limits import Limits
from unireal.demo.results import overlay
from unireal.demo.server import credentials, served
from unireal.metadata import Recipe, png_infos, save_png, weights_fingerprint
from unireal.request import Request
from unireal.sample import Role
from unireal.tasks import TASKS, Slot, TaskSpec
from unireal.video.files import VideoFile

ROOT = Path(__file__).parent.parent
ROOM = ROOT / "examples" / "room.png"
LONG = {"steps": 200, "width": 160, "height": 160}  # seconds, if nobody stops it
LIMITS = Limits(upload=300_000, pixels=500_000, queue=2)


@pytest.fixture(scope="module")
def engine():
    engine = Engine("unireal-tiny", "cpu", limits=LIMITS)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def address(engine):
    with served(engine) as address:
        yield address


@pytest.fixture(scope="module")
def client(address, tmp_path_factory):
    return Client(address, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def png(array: np.ndarray, path: Path) -> Path:
    Image.fromarray(array).save(path)
    return path


def mask_layer(path: Path, size: tuple[int, int], box: tuple[int, int, int, int]) -> Path:
    """Paint, transparent outside box (left, top, right, bottom); size (H, W)."""
    layer = np.zeros((*size, 4), np.uint8)
    layer[box[1] : box[3], box[0] : box[2]] = 255
    return png(layer, path)


def test_every_task_is_an_endpoint_with_its_frames_as_parameters(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {f"/{name}" for name in TASKS}
    names = [parameter["parameter_name"] for parameter in endpoints["/insert"]["parameters"]]
    assert names[:5] == ["prompt", "canvas", "asset", "asset_2", "asset_3"]
    assert {"context", "seed", "steps", "guidance", "image_guidance", "accelerate", "width", "height"} <= set(names)
    context = next(p for p in endpoints["/depth"]["parameters"] if p["parameter_name"] == "context")
    assert ", ".join(context["parameter_default"]) == TASKS["depth"].context
    assert [r["label"] for r in endpoints["/edit"]["returns"]][:3] == ["result", "files", "parameters"]


def test_a_downloaded_picture_is_made_again_bit_for_bit(client, tmp_path, capsys):
    _, files, report, slider, region, status = client.predict(
        prompt="Make the red circle „grün“.", canvas=handle_file(ROOM), seed=7, steps=3, guidance=1.5,
        negative_prompt="„blau“", num_results=2, accelerate=["taylorseer:interval=2"], api_name="/edit",
    )  # fmt: skip
    assert len(files) == 2 and report["instruction"] == "Make the red circle „grün“." and "done" in status
    assert not np.array_equal(pixels(files[0]), pixels(files[1]))
    assert np.array_equal(pixels(slider[0]), pixels(ROOM)) and np.array_equal(pixels(slider[1]), pixels(files[0]))
    assert pixels(region).shape == pixels(ROOM).shape
    again = tmp_path / "again.png"
    assert infer_main(["--from-metadata", files[1], "--output", str(again), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3
    assert np.array_equal(pixels(again), pixels(files[1]))


def test_options_override_what_a_picture_says(client, tmp_path):
    result, *_ = client.predict(prompt="a red circle", seed=1, api_name="/t2i")
    for seed, same in ((1, True), (2, False)):
        again = tmp_path / f"{seed}.png"
        assert infer_main(["--from-metadata", result, "--output", str(again), "--seed", str(seed)]) == 0
        assert np.array_equal(pixels(again), pixels(result)) == same


def test_painted_pixels_change_and_no_others(client, tmp_path):
    canvas = handle_file(ROOM)
    layer = mask_layer(tmp_path / "paint.png", (64, 64), (8, 8, 40, 40))
    painting = {"background": canvas, "layers": [handle_file(layer)], "composite": None}
    result, _, _, _, region, _ = client.predict(prompt="", canvas=painting, api_name="/inpaint")
    inside = np.zeros((64, 64), bool)
    inside[8:40, 8:40] = True
    changed = (pixels(result) != pixels(ROOM)).any(axis=2)
    assert changed[inside].mean() > 0.5 and not changed[~inside].any()
    red, green, _ = pixels(region).astype(int).transpose(2, 0, 1)
    before = pixels(ROOM).astype(int)
    tinted = red - green > (before[..., 0] - before[..., 1]) // 2 + 40
    assert np.array_equal(tinted, inside)  # the hole that was filled, however little changed in it
    # a layer without transparency is a black and white mask
    layer = png(inside.astype(np.uint8) * 255, tmp_path / "white.png")
    painting["layers"] = [handle_file(layer)]
    assert np.array_equal(pixels(client.predict(canvas=painting, api_name="/inpaint")[0]), pixels(result))


def test_a_file_is_a_canvas_that_nothing_is_painted_on(client):
    canvas, asset = handle_file(ROOM), handle_file(ROOT / "examples" / "asset.png")
    call = {"prompt": "Add the object of IMG2.", "asset": asset, "seed": 1, "api_name": "/insert"}
    painting = {"background": canvas, "layers": [], "composite": None}
    alone, sent = (client.predict(canvas=given, **call)[0] for given in (canvas, painting))
    assert np.array_equal(pixels(alone), pixels(sent))
    with pytest.raises(AppError, match="nothing is painted"):
        client.predict(canvas=canvas, api_name="/inpaint")


def test_marks_become_the_control_frames_of_infer(client, tmp_path):
    """The PNG keeps the frames that the model was given."""
    drags = {"drags": [{"start": [10, 12], "end": [40, 30]}]}
    boxes = {"size": [128, 128], "boxes": [{"box": [10, 20, 60, 90], "color": "blue"}]}
    wanted = {"drag": Drags.read(drags, (64, 64)).draw(pixels(ROOM)), "layout": Layout.read(boxes).draw((64, 64))}
    for kind, marks, picture in (("drag", drags, handle_file(ROOM)), ("layout", boxes, None)):
        result, *_ = client.predict(prompt="a sand room", control=picture, control_kind=kind,
                                    control_marks=json.dumps(marks), api_name="/control")  # fmt: skip
        again = tmp_path / f"{kind}.png"
        assert infer_main(["--from-metadata", result, "--output", str(again)]) == 0
        assert np.array_equal(pixels(again), pixels(result))
        frame = stored_pictures(result)[0]
        assert np.array_equal(frame, wanted[kind])


def stored_pictures(path: str) -> list[np.ndarray]:
    import base64

    with Image.open(path) as image:
        texts = [text for key, text in image.info.items() if key.startswith("unireal picture")]
    return [pixels(io.BytesIO(base64.b64decode(text))) for text in texts]


def test_marks_that_do_not_fit_are_told_beside_the_board():
    import gradio as gr

    with gr.Blocks():
        marking = _Marking(gr.Dropdown(["drag"]), gr.Image(), LIMITS)
    outside = json.dumps({"drags": [{"start": [1, 1], "end": [99, 1]}]})
    for text, told in (("", "Click a point"), ("{", "not JSON"), (outside, "leaves the 64x64 canvas")):
        assert told in marking._drawn("drag", text, str(ROOM))[2]
    click = gr.SelectData(None, {"index": [8, 8], "value": None})
    assert "not JSON" in marking._clicked("drag", "{", str(ROOM), "red", None, click)[3]
    *_, pending, told = marking._clicked("drag", "", str(ROOM), "red", None, click)
    assert pending == (1, 1) and "Click a point" in told


def test_several_frames_and_results(client):
    _, files, report, *_, status = client.predict(
        prompt="Make the red circle green; Predict the mask of the edited region in RES2.", canvas=handle_file(ROOM),
        asset=handle_file(ROOT / "examples" / "asset.png"), control=handle_file(ROOT / "examples" / "depth.png"),
        num_results=2, api_name="/compose",
    )  # fmt: skip
    assert report["frames"] == ["canvas: image, 64x64", "asset: image, 32x32", "control: depth, 64x64"]
    assert len(files) == 2 and "2 results: see Gallery" in status


def test_what_cannot_be_compared_has_no_tab_for_it(engine):
    config = build_app(engine).get_config_file()
    tabs = [part["props"] for part in config["components"] if part["type"] == "tabitem"]
    shown = [tab.get("visible", True) for tab in tabs if tab["label"] == "Before and after"]
    specs = [spec for specs in families().values() for spec in specs]
    assert [spec.name for spec, visible in zip(specs, shown, strict=True) if not visible] == [
        "t2i", "customize", "video_edit", "t2v",
    ]  # fmt: skip
    told = [part["props"].get("value") for part in config["components"] if part["type"] == "markdown"]
    assert "Continue an image beyond its borders." in told and not any("--" in str(text) for text in told)


def test_videos(client, tmp_path):
    av = pytest.importorskip("av")
    result, files, *_ = client.predict(prompt="a red circle", num_frames=6, api_name="/t2v")
    with av.open(result) as video:
        assert sum(1 for _ in video.decode(video=0)) == 6
    edited, *_ = client.predict(prompt="Make it green.", video=handle_file(result), api_name="/video_edit")
    with av.open(edited) as video:
        assert sum(1 for _ in video.decode(video=0)) == 6
    assert files[0].endswith(".mp4")


def test_a_downloaded_video_is_made_again(client, tmp_path):
    _, files, *_ = client.predict(prompt="The red circle moves up.", canvas=handle_file(ROOM), seed=3, num_frames=6,
                                  api_name="/t2v")  # fmt: skip
    again = tmp_path / "again.mp4"
    assert infer_main(["--from-metadata", files[0], "--output", str(again)]) == 0
    made, remade = (list(VideoFile(path)) for path in (files[0], again))
    assert len(made) == 6 and np.array_equal(made, remade)


def test_a_prompt_that_is_too_long_is_told(client):
    prompt = "a red circle " * 30 + "and at last a <b>star</b>"
    _, _, report, *_ = client.predict(prompt=prompt, api_name="/t2i")
    assert len(report["warnings"]) == 1 and "a <b>star</b>" in report["warnings"][0]
    assert "warnings" not in client.predict(prompt="a red circle", api_name="/t2i")[2]


@pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=lambda i: f"{EXAMPLES[i].task}-{i}")
def test_examples_run_on_the_shipped_model(client, number):
    example = EXAMPLES[number]
    row = examples_of(TASKS[example.task])[[e for e in EXAMPLES if e.task == example.task].index(example)]
    given = {name: uploaded(value) for name, value in row.items()}
    result, *_ = client.predict(**given, api_name=f"/{example.task}")
    spec = TASKS[example.task]
    shown = np.stack([frame.image for frame in VideoFile(result).frames()]) if spec.video else pixels(result)
    assert shown.std() > 0 or spec.result_kind == "mask"


def uploaded(value):
    """An example's value as gradio_client takes it."""
    if isinstance(value, tuple):
        layers = [handle_file(part) for part in value[1:] if part is not None]
        return {"background": handle_file(value[0]), "layers": layers, "composite": None}
    return handle_file(value) if str(value).endswith((".png", ".mp4")) else value


@pytest.mark.parametrize(
    ("task", "given", "told"),
    [
        ("edit", {"canvas": ROOM}, "needs a prompt"),
        ("edit", {"prompt": "Make it red."}, "needs 1 canvas"),
        ("edit", {"prompt": "Paste IMG3.", "canvas": ROOM}, "IMG3"),
        ("edit", {"prompt": "Make it red.", "canvas": ROOM, "accelerate": ["spotedti"]}, "spotedit"),
        ("edit", {"prompt": "Make it red.", "canvas": ROOM, "width": 64}, "both width and height"),
        ("edit", {"prompt": "Make it red.", "canvas": ROOM, "steps": 100_000}, "steps: 100000 was given; choose from"),
        ("edit", {"prompt": "Make it red.", "canvas": ROOM, "num_results": 9}, "number of results: 9 was given"),
        ("outpaint", {"canvas": ROOM, "left": -1}, "left, pixels: -1 was given; choose from 0 to 512"),
        ("edit", {"prompt": "a" * 2000, "canvas": ROOM}, "1000"),
        ("edit", {"prompt": "Make it red.", "canvas": ROOM, "width": 300, "height": 64}, "up to 256 on a side"),
        ("outpaint", {"canvas": ROOM}, "at least one above 0"),
        ("control", {"prompt": "a room", "control_kind": "drag", "control_marks": '{"drags": []}'}, "picture"),
        ("control", {"prompt": "a room", "control_kind": "layout", "control_marks": "{"}, "not JSON"),
    ],
)  # fmt: skip
def test_mistakes_are_told(client, task, given, told):
    given = {name: handle_file(value) if isinstance(value, Path) else value for name, value in given.items()}
    with pytest.raises(AppError) as caught:
        client.predict(**given, api_name=f"/{task}")
    assert told in str(caught.value)


def test_a_photograph_is_refused_in_the_words_of_the_page(client, tmp_path):
    path = png(np.zeros((200, 2100, 3), np.uint8), tmp_path / "photograph.png")
    with pytest.raises(AppError, match=r"2100x200 pixels.*up to 256 on a side: set width and height under Advanced"):
        client.predict(prompt="Make it red.", canvas=handle_file(path), api_name="/edit")


def test_visitors_have_no_file_read_by_a_setting(client):
    given = {"prompt": "Make it red.", "canvas": handle_file(ROOM), "steps": 2, "api_name": "/edit"}
    for setting in (
        "polynomial=/etc/hostname",
        "polynomial=setup.cfg",
        "polynomial='setup.cfg'",
        "threshold=" + "-" * 99,
    ):
        with pytest.raises(AppError, match="other than words and numbers; write for example"):
            client.predict(**given, accelerate=[f"teacache:{setting}"])
    usual = ["spotedit:judge=cosine:tau=two-means:dilation=None", "teacache:threshold=2e-1:polynomial=(1, -.5, 0.)"]
    assert client.predict(**given, accelerate=usual)[2]["accelerate"] == ",".join(usual)


def test_where_the_server_keeps_a_video_is_not_told(client):
    with pytest.raises(AppError) as caught:
        client.predict(prompt="Make it red.", video=handle_file(ROOM), api_name="/video_edit")
    assert "video 'room.png' is read as a still picture" in str(caught.value) and "/" not in str(caught.value)


def test_one_name_of_a_list_may_be_given_as_it_is(client):
    given = {"prompt": "Make it red.", "canvas": handle_file(ROOM), "steps": 2}
    report = client.predict(**given, context="synthetic style", accelerate="teacache", api_name="/edit")[2]
    assert (report["context"], report["accelerate"]) == ("synthetic style", "teacache")


def test_a_mask_as_a_picture_has_no_transparent_pixels(client, tmp_path):
    paint = handle_file(mask_layer(tmp_path / "paint.png", (64, 64), (8, 8, 24, 24)))
    with pytest.raises(AppError, match="control has transparent pixels"):
        client.predict(prompt="a room", control=paint, control_kind="mask", api_name="/control")


def test_a_device_that_is_not_there_is_told_on_the_page():
    engine = Engine("unireal-tiny", "warp")
    with pytest.raises(ValueError, match="device 'warp' cannot be used here"):
        engine.description()
    engine.close()


def test_a_stopped_service_leaves_no_uploads(tmp_path):
    command = [sys.executable, "-m", "unireal.demo", "--port", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline().startswith("serving unireal-tiny at http://127.0.0.1:")
        assert list(tmp_path.glob("unireal-demo-*"))
        server.terminate()
        assert server.wait(60) == 0
    assert not list(tmp_path.glob("unireal-demo-*"))


@pytest.mark.parametrize("content", ["text", "cut", "huge", "svg"])
def test_files_that_are_no_pictures_are_refused(client, tmp_path, content):
    room = ROOM.read_bytes()
    path = tmp_path / ("bad.svg" if content == "svg" else "bad.png")
    told = "not a picture"
    if content == "huge":
        Image.new("1", (1000, 1000)).save(path)
        told = "million pixels"
    elif content == "cut":
        path.write_bytes(room[: len(room) // 2])
        told = "damaged"
    else:
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>" if content == "svg" else "hello")
    canvas = handle_file(path)
    for task, value in (("edit", canvas), ("insert", {"background": canvas, "layers": [], "composite": None})):
        with pytest.raises(AppError) as caught:
            client.predict(prompt="Make it red.", canvas=value, api_name=f"/{task}")
        assert told in str(caught.value) and str(tmp_path) not in str(caught.value) and "/" not in str(caught.value)


def test_uploads_are_limited(address):
    with Http(base_url=address) as http:
        good = http.post("/gradio_api/upload", files={"files": ("a.png", b"x" * 1000)})
        large = http.post("/gradio_api/upload", files={"files": ("a.png", b"x" * 400_000)})
    assert good.status_code == 200 and large.status_code == 413


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "README.md"), str(ROOT / "setup.cfg"), "../setup.cfg",
                                  "README.md", "..%2f..%2fetc%2fpasswd"])  # fmt: skip
def test_no_other_file_can_be_read(address, client, path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with Http(base_url=address) as http:
        assert http.get(f"/gradio_api/file={path}").status_code in (403, 404)
        assert http.get(f"/file={path}").status_code in (403, 404)
        given = {"path": path, "meta": {"_type": "gradio.FileData"}}
        config = http.get("/config").json()
        call = next(d for d in config["dependencies"] if d["api_name"] == "restore")
        values = [d["props"].get("value") for d in inputs_of(config, call)]
        values[1] = given
        body = {"data": values, "fn_index": call["id"], "session_hash": "abc"}
        http.post("/gradio_api/queue/join", json=body)
        with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": "abc"}) as stream:
            told = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    last = next(message for message in told if message["msg"] == "process_completed")
    assert not last["success"], last


def inputs_of(config: dict, call: dict) -> list[dict]:
    components = {component["id"]: component for component in config["components"]}
    return [components[i] for i in call["inputs"]]


def test_calls_cannot_skip_the_queue(address):
    with Http(base_url=address) as http:
        call = next(d for d in http.get("/config").json()["dependencies"] if d["api_name"] == "t2i")
        answer = http.post("/gradio_api/run/t2i", json={"data": ["a room"], "fn_index": call["id"]})
    assert answer.status_code in (401, 403, 404)


def test_a_call_can_be_cancelled_and_the_next_one_runs(client):
    job = client.submit(prompt="a red circle", **LONG, api_name="/t2i")
    wait_until(lambda: any("step" in out[-1] for out in job.outputs()))
    job.cancel()
    started = time.perf_counter()
    client.predict(prompt="a red circle", api_name="/t2i")
    assert time.perf_counter() - started < 20  # the cancelled one would take longer


def wait_until(ready, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def test_two_users_at_once_get_what_each_asked_for(address, client, tmp_path):
    other = Client(address, verbose=False, download_files=tmp_path)
    alone = [pixels(client.predict(prompt="a red circle", seed=seed, steps=4, api_name="/t2i")[0]) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(c.predict, prompt="a red circle", seed=seed, steps=4, api_name="/t2i")
                 for c, seed in ((client, 1), (other, 2))]  # fmt: skip
        together = [pixels(call.result(60)[0]) for call in calls]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not np.array_equal(*together)


def refusals(jobs: list[Job]) -> list[str]:
    """What the client was told about jobs that the queue had no room for."""
    ended = [job.exception() for job in jobs if job.done() and not job.cancelled()]
    return [str(error) for error in ended if re.search(r"(?i)queue", str(error))]


def test_the_queue_is_limited(client):
    jobs = [client.submit(prompt="a red circle", **LONG, api_name="/t2i")]
    wait_until(lambda: any("step" in out[-1] for out in jobs[0].outputs()))
    try:
        jobs += [client.submit(prompt="a red circle", api_name="/t2i") for _ in range(LIMITS.queue + 1)]
        wait_until(lambda: any(refusals(jobs[1:])))  # they may arrive in another order
        assert not jobs[0].done()
    finally:
        for job in reversed(jobs):
            with suppress(Exception):
                job.cancel()


def test_only_those_who_may_enter(engine, tmp_path):
    users = tmp_path / "users"
    users.write_text("# who may enter\nann:s3cret\nbob:b:b\n")
    with served(engine, auth=credentials(str(users))) as address, Http(base_url=address) as http:
        assert http.get("/config").status_code == 401
        assert http.post("/gradio_api/upload", files={"files": ("a.png", b"x")}).status_code == 401
        with pytest.raises(Exception, match=r"(?i)login|auth|credential"):
            Client(address, verbose=False, auth=("ann", "wrong"))
        allowed = Client(address, verbose=False, auth=("bob", "b:b"), download_files=tmp_path)
        assert pixels(allowed.predict(prompt="a red circle", api_name="/t2i")[0]).shape == (64, 64, 3)


@pytest.mark.parametrize("text", ["ann", ":x", "ann:", ""])
def test_credentials_are_checked(text):
    with pytest.raises(ValueError, match="USER:PASSWORD"):
        credentials(text)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "no-such-model"], "no-such-model"),
        (["--auth", "ann"], "USER:PASSWORD"),
        (["--port", "99999"], "65535"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--plugin", "nothing.py"], "nothing.py"),
        (["--port", "x"], "invalid int value"),
        (["--dtype", "int8"], "bfloat16"),
    ],
)
def test_the_command_line_tells_mistakes(arguments, told, capsys):
    try:
        status = main(arguments)
    except SystemExit as stop:  # of the command line itself
        status = stop.code
    err = capsys.readouterr().err
    assert status == 2
    assert err.startswith("error: ") and told in err and err.count("\n") == 1


def test_a_port_in_use_is_told(address, capsys):
    assert main(["--port", address.rstrip("/").rsplit(":", 1)[1]]) == 2
    assert "choose another" in capsys.readouterr().err


def test_a_new_task_needs_no_code_here(engine, monkeypatch):
    spec = TaskSpec(
        "sharpen", "sharpen an image", slots=(Slot("canvas", Role.CANVAS), Slot("mask", Role.CONTROL, 0, 1, ("mask",)))
    )
    monkeypatch.setitem(TASKS, spec.name, spec)
    assert spec in families()["Edit"]
    config = build_app(engine).get_config_file()
    call = next(d for d in config["dependencies"] if d["api_name"] == "sharpen")
    assert inputs_of(config, call)[1]["type"] == "imageeditor"


def test_progress_has_previews_that_come_near_the_result(engine, monkeypatch):
    monkeypatch.setattr(engine_module, "PREVIEW", 0)
    monkeypatch.setattr(engine_module, "HEARTBEAT", 60)  # on a busy machine a step may take longer than the usual one
    recipe = Recipe(Request("t2i", "a red circle"), steps=6)
    *told, outcome = list(engine.run(recipe))
    steps = [news for news in told if news.total]
    assert isinstance(outcome, Outcome) and all(isinstance(news, Progress) for news in told)
    assert [news.step for news in steps] == list(range(1, 7))
    result = np.asarray(outcome.images[0]).astype(int)
    errors = [np.abs(news.preview.astype(int) - result).mean() for news in steps if news.preview is not None]
    assert len(errors) == 4 and errors[-1] < errors[0]


def test_a_call_that_takes_too_long_is_stopped():
    engine = Engine("unireal-tiny", "cpu", limits=Limits(seconds=0))
    try:
        with pytest.raises(ValueError, match="fewer steps"):
            list(engine.run(Recipe(Request("t2i", "a red circle"), steps=2)))
    finally:
        engine.close()


def test_the_overlay_shows_the_region():
    picture = np.full((4, 4, 3), 200, np.uint8)
    region = np.zeros((4, 4), bool)
    region[1, 1] = True
    shown = overlay(picture, region).astype(int)
    assert shown[1, 1, 0] - shown[1, 1, 1] > 60 and len({tuple(p) for p in shown[~region]}) == 1


def foreign(path: Path, record: dict | str | None) -> str:
    chunks = PngImagePlugin.PngInfo()
    if record is not None:
        chunks.add_text("unireal", record if isinstance(record, str) else json.dumps(record))
    Image.new("RGB", (4, 4)).save(path, pnginfo=chunks)
    return str(path)


GOOD = {"task": "t2i", "result": 0, "options": {"prompt": "a"}, "pictures": [], "weights": None}


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (None, "does not say what made it"),
        ("{", "does not say what made it"),
        (GOOD | {"options": {"output": "/etc/x"}}, "does not say what made it"),
        (GOOD | {"options": {"plugin": "x.py"}}, "does not say what made it"),
        (GOOD | {"task": "--output=x"}, "does not say what made it"),
        (GOOD | {"task": "paint"}, "unknown task 'paint'"),
        (GOOD | {"options": {"prompt": "a", "model": "unireal-tiny"}}, "other weights"),
        (GOOD | {"task": "edit", "pictures": [{"option": "canvas", "kind": None}]}, "give --canvas"),
        (GOOD | {"pictures": [{"option": "audio", "kind": None}]}, "does not say what made it"),
    ],
)  # fmt: skip
def test_pictures_of_others_are_refused(record, told, tmp_path, capsys):
    path = foreign(tmp_path / "foreign.png", record)
    assert infer_main(["--from-metadata", path, "--output", str(tmp_path / "out.png")]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out.png").exists()


def test_inputs_that_are_too_large_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("unireal.metadata.MAX_STORED", 100)
    recipe = Recipe(Request("edit", "Make it red.", canvas=[pixels(ROOM)]))
    path = save_png(Image.new("RGB", (64, 64)), tmp_path / "a.png", *png_infos(recipe))
    again = ["--from-metadata", str(path), "--output", str(tmp_path / "b.png")]
    assert infer_main(again) == 2 and "give --canvas" in capsys.readouterr().err
    assert infer_main([*again, "--canvas", str(ROOM)]) == 0


def test_a_models_folder_goes_by_its_name(tiny_pipeline_folder, tmp_path):
    recipe = Recipe(Request("t2i", "a"), model=str(tiny_pipeline_folder))
    assert recipe.options()["model"] == "debug"
    assert weights_fingerprint(recipe.model) != weights_fingerprint("unireal-tiny")
    assert weights_fingerprint("someone/their-model") is None
