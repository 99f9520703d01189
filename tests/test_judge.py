"""Judging by a vision-language model: a local server that misbehaves in every known way, and a tiny local model."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import re
import shutil
import statistics
import threading
import time
import zlib
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from benchmark_folders import FOLDERS
from conftest import status_of
from PIL import Image
from safetensors.torch import load_file, save_file

from data_builders.world.recipes import world_sample
from unireal.evaluation import html, world
from unireal.evaluation.__main__ import main
from unireal.evaluation.benchmarks import PUBLIC
from unireal.evaluation.judge import cli
from unireal.evaluation.judge.endpoint import Endpoint
from unireal.evaluation.judge.protocols import PROTOCOLS
from unireal.evaluation.judge.replies import Budget, JudgeError, Kept, Reply, read_ratings
from unireal.evaluation.judge.scoring import judge_items
from unireal.evaluation.results import ItemResult, RunFolder

CATEGORIES = ("subject-add", "subject-add", "subject-add", "color_alter", "color_alter", "motion_change")
RECIPES = ("add", "add", "add", "recolor", "recolor", "move")
EDIT_TYPES = ("object addition",) * 3 + ("color change",) * 2 + ("object action and pose change",)
MODEL = "judge-2025-01-01"


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """Six edits of the world; the outputs are the truth, the last one is missing."""
    folder, items = RunFolder(tmp_path / "run"), []
    for number, (recipe, category, kind) in enumerate(zip(RECIPES, CATEGORIES, EDIT_TYPES, strict=True)):
        sample, name = world_sample(recipe, number), f"item{number}"
        source, output = folder.input(name), folder.image(name)
        for path, frame in ((source, sample.inputs[0]), (output, sample.results[0])):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame.image).save(path)
        last = number == len(RECIPES) - 1
        items.append(
            ItemResult(
                name, "edit", sample.instruction, category, kind, [source.relative_to(folder.path).as_posix()],
                output=None if last else output.relative_to(folder.path).as_posix(),
                failure="the model ran out of memory" if last else None,
            )
        )  # fmt: skip
    folder.write_items(items)
    folder.write_settings({"benchmark": "gedit"})
    return folder


class Server(ThreadingHTTPServer):
    """Answers POST with what `answer(body, number of the request)` gives: (status, headers, body); None hangs up."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict] = []
        self.answer = lambda body, number: ok(rate(body))
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body | {"path": self.path})
            number = len(self.server.requests)
        answer = self.server.answer(body, number)
        if answer is None:
            self.connection.close()
            return
        status, headers, payload = answer
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client gave up waiting
            self.wfile.write(payload)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ok(text, finish="stop", refusal=None, model=MODEL, tokens=100):
    message = {"role": "assistant", "content": text, "refusal": refusal}
    content = {
        "id": "1", "object": "chat.completion", "created": 0, "model": model,
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": tokens - 10, "completion_tokens": 10, "total_tokens": tokens},
    }  # fmt: skip
    return 200, {}, json.dumps(content).encode()


def error(status, message="no", code=None, **headers):
    content = {"error": {"message": message, "code": code, "type": "x", "param": None}}
    return status, {k.replace("_", "-"): v for k, v in headers.items()}, json.dumps(content).encode()


def parts(body):
    """Text and pictures of a request."""
    content = body["messages"][0]["content"]
    pictures = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    text = "".join(part["text"] for part in content if part["type"] == "text")
    return text, [base64.b64decode(url.partition(",")[2]) for url in pictures]


def rating(text, pictures, name):
    """A number that depends on what was asked, between 1 and 5."""
    return 1 + zlib.crc32(b"".join([text.encode(), *pictures, name.encode()])) % 5


def rate(body):
    """A well-behaved reply."""
    text, pictures = parts(body)
    names = re.findall(r'"([^"]+)": <number>', text)
    return "It looks so.\n```json\n" + json.dumps({name: rating(text, pictures, name) for name in names}) + "\n```"


def judge(run, server, capsys, *options, protocol="gedit", status=0):
    """Status and output of the command line; few retries and short waits."""
    fixed = ("--model", MODEL, "--base-url", server.url, "--backoff", "0.01", "--retries", "2")
    arguments = [str(run.path), "--protocol", protocol, *fixed, *map(str, options)]
    found = cli.main(arguments)
    out, err = capsys.readouterr()
    assert found == status, out + err
    return out if status != 2 else err


def row(run, metric, group="all", system="model"):
    (found,) = (r for r in run.summary() if (r.metric, r.group, r.system) == (metric, group, system))
    return found


# What is asked and what is made of it


def test_gedit_scores_against_an_independent_computation(run, server, capsys):
    judge(run, server, capsys, "--no-copy")
    given = {}
    for body in server.requests:
        assert body["model"] == MODEL and body["temperature"] == 0 and body["path"] == "/v1/chat/completions"
        text, pictures = parts(body)
        names = re.findall(r'"([^"]+)": <number>', text)
        item = next(i for i in run.items() if json.dumps(i.instruction) in text or len(pictures) == 1)
        if len(pictures) == 1:
            item = next(i for i in run.items() if i.output and _same(run.path / i.output, pictures[0]))
        given[item.id, len(pictures)] = min(rating(text, pictures, name) for name in names)
    items = run.items()[:-1]
    expected = {i.id: math.sqrt(given[i.id, 2] * given[i.id, 1]) for i in items}
    assert {i.id: i.scores["gedit O"] for i in items} == pytest.approx(expected)
    micro = statistics.fmean(expected.values())
    groups = [[expected[i.id] for i in items if i.category == c] for c in ("subject-add", "color_alter")]
    macro = statistics.fmean(map(statistics.fmean, groups))
    assert row(run, "gedit O").value == pytest.approx(micro)
    assert row(run, "gedit O", "macro").value == pytest.approx(macro)
    assert micro != pytest.approx(macro)
    assert [row(run, "gedit O").n, row(run, "gedit O").failures] == [5, 1]
    assert (row(run, "gedit O").backbone, row(run, "gedit O").reference) == (MODEL, "source")
    assert row(run, "gedit O", "motion_change").value is None


def _same(path, file):
    """JPEG only comes close."""
    image, other = (np.asarray(Image.open(p).convert("RGB"), int) for p in (path, io.BytesIO(file)))
    return image.shape == other.shape and np.abs(image - other).mean() < 6


def test_pictures_are_sent_in_order_and_the_output_at_the_sources_size(run, server, capsys):
    item = run.items()[0]
    Image.open(run.path / item.output).resize((32, 32)).save(run.path / item.output)
    judge(run, server, capsys, "--no-copy")
    asked = next(b for b in server.requests if json.dumps(item.instruction) in parts(b)[0] and len(parts(b)[1]) == 2)
    files = parts(asked)[1]
    assert [Image.open(io.BytesIO(file)).format for file in files] == ["JPEG", "JPEG"]
    assert [Image.open(io.BytesIO(file)).size for file in files] == [(64, 64), (64, 64)]
    assert _same(run.path / item.inputs[0], files[0])


def test_imgedit_asks_by_the_kind_of_edit_and_takes_the_mean(run, server, capsys):
    server.answer = lambda body, number: ok(json.dumps(dict(zip(names_of(body), (5, 4, 3), strict=True))))
    judge(run, server, capsys, "--no-copy", protocol="imgedit")
    assert [item.scores["imgedit score"] for item in run.items()] == [4.0] * 5 + [None]
    add, adjust = (next(b for b in server.requests if word in parts(b)[0]) for word in ("new object", "new attribute"))
    assert names_of(add) != names_of(adjust) and len(names_of(add)) == 3
    assert "1 (worst) to 5 (best)" in parts(add)[0]


def names_of(body):
    return re.findall(r'"([^"]+)": <number>', parts(body)[0])


def test_editeval_weighs_and_reports_the_deviation(run, server, capsys):
    ratings = [(10, 5, 5, 1), (8, 8, 8, 8), (1, 1, 1, 1), (10, 10, 10, 10), (2, 3, 4, 5)]
    texts = {json.dumps(item.instruction): r for item, r in zip(run.items()[:5], ratings, strict=True)}

    def answer(body, number):
        mine = next(r for text, r in texts.items() if text in parts(body)[0])
        return ok(json.dumps(dict(zip(names_of(body), mine, strict=True))))

    server.answer = answer
    judge(run, server, capsys, "--no-copy", protocol="editeval")
    expected = [0.4 * a + 0.3 * p + 0.2 * q + 0.1 * r for a, p, q, r in ratings]
    assert [item.scores["editeval LMM"] for item in run.items()[:5]] == pytest.approx(expected)
    assert row(run, "editeval LMM").value == pytest.approx(statistics.fmean(expected))
    assert row(run, "editeval LMM deviation").value == pytest.approx(statistics.stdev(expected))


def test_uge_asks_for_one_number(run, server, capsys):
    server.answer = lambda body, number: ok('Some of it. {"score": 2}' if number % 2 else '{"score": 6}')
    printed = judge(run, server, capsys, "--no-copy", "--workers", 1, protocol="imgedit_uge")
    assert [item.scores["imgedit_uge score"] for item in run.items()] == [2.0, *[2.0] * 4, None]
    assert {tuple(names_of(body)) for body in server.requests} == {("score",)}
    assert row(run, "imgedit_uge score").unit == "1..5" and len(server.requests) == 9  # 6 is asked again
    assert "1 no output" in printed and "must not be higher than 3" in parts(server.requests[0])[0]


def video(run, name, before, after, **given):
    """An edited video in the run: its frames are grey, the source's of value k, the output's of 100 + k."""
    for path, count, value in ((run.input, before, 0), (run.image, after, 100)):
        for k in range(count):
            path(name, k).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (value + k,) * 3).save(path(name, k))
    inputs = [f"inputs/{name}_{k}.png" for k in range(before)]
    return ItemResult(
        name, "video_edit", f"Edit {name}.", inputs=inputs, output=f"images/{name}_0.png", frames=after, **given
    )


def shades(files):
    return [round(np.asarray(Image.open(io.BytesIO(file))).mean()) for file in files]


def test_ditto_looks_at_frames_of_both_videos(tmp_path, server, capsys):
    run = RunFolder(tmp_path)
    items = [
        video(run, "long", 15, 15),
        video(run, "short", 3, 3),
        video(run, "faster", 9, 5),  # something else made fewer frames of it
        video(run, "asset", 4, 3, conditions=["text", "reference image"]),  # of which the last input is no frame
        video(run, "still", 1, 1),
    ]
    run.write_items(items)
    server.answer = lambda body, number: ok(json.dumps(dict(zip(names_of(body), (9, 6, 3), strict=True))))
    printed = judge(run, server, capsys, protocol="ditto")
    seen = {}
    for body in server.requests:
        text, files = parts(body)
        name = re.search(r"Edit (\w+)", text)[1]
        half = shades(files)[: len(files) // 2]
        seen[name, "copy" if half == shades(files)[len(half) :] else "model"] = shades(files)
    assert seen["long", "model"] == [*range(0, 15, 2), *range(100, 115, 2)]
    assert seen["short", "model"] == [0, 1, 2, 100, 101, 102] and seen["short", "copy"] == [0, 1, 2] * 2
    assert seen["faster", "model"] == [0, 2, 4, 6, 8, 100, 101, 102, 103, 104]
    assert seen["asset", "model"] == [0, 1, 2, 100, 101, 102]
    assert "ditto rates edited videos, not task 'video_edit' with 1 pictures before" in printed
    assert [item.scores["ditto VLM"] for item in run.items()] == [6.0] * 4 + [None]
    assert run.items()[0].scores["ditto aesthetic quality"] == 3.0
    assert [row(run, "ditto VLM").n, row(run, "ditto VLM").failures] == [4, 1]
    server.answer = lambda body, number: ok("It is fine, I would say 8 of 10.")
    judge(run, server, capsys, "--replies", tmp_path / "other", protocol="ditto", status=1)
    assert row(run, "ditto VLM").value is None and row(run, "ditto VLM").failures == 5


def test_a_lost_frame_is_a_failure(tmp_path, server, capsys):
    run = RunFolder(tmp_path)
    run.write_items([video(run, "a", 3, 3), video(run, "b", 3, 3)])
    run.image("a", 2).unlink()
    assert "a picture cannot be read" in judge(run, server, capsys, "--no-copy", protocol="ditto")
    assert [row(run, "ditto VLM").n, row(run, "ditto VLM").failures] == [1, 1]


def test_a_later_turn_is_judged_from_where_it_started(tmp_path, server, capsys):
    run, data, theirs = RunFolder(tmp_path / "run"), FOLDERS["imgedit_multi"](tmp_path / "data"), tmp_path / "theirs"
    theirs.mkdir()
    for item, shade in zip(PUBLIC["imgedit_multi"].items(data), range(10, 80, 10), strict=True):
        if shade != 60:  # one turn is missing: neither it nor the next one can be judged
            Image.new("RGB", (48, 40), (shade,) * 3).save(theirs / f"{item.id}.png")
    arguments = ["--data", str(data), "--images", str(theirs), "--only", "L1", "--output", str(run.path)]
    assert main(["imgedit_multi", *arguments]) == 0
    assert "before this turn" in (run.path / "index.html").read_text()
    judge(run, server, capsys, "--no-copy", protocol="imgedit_uge")
    seen = {}
    for body in server.requests:
        text, files = parts(body)
        seen[re.search(r"Edit (\d of \w+)", text)[1]] = shades(files)
    assert seen["2 of content_memory"] == [10, 20] and seen["3 of content_memory"] == [20, 30]
    assert seen["1 of content_memory"][1] == 10 and seen["1 of content_memory"][0] > 80  # the picture of the data set
    assert seen["2 of content_understand"] == [40, 50]
    found = row(run, "imgedit_uge score", "version_backtrace")
    assert (found.n, found.failures) == (0, 2) and row(run, "imgedit_uge score").n == 5


def test_the_unedited_input_is_judged_as_a_baseline(run, server, capsys):
    judge(run, server, capsys)
    assert row(run, "gedit O", system="copy").n == 6
    copied = run.items()[5]
    assert copied.baselines["copy"]["gedit O"] is not None and copied.scores["gedit O"] is None
    judge(run, server, capsys)
    assert len([r for r in run.summary() if r.metric == "gedit O" and r.group == "all"]) == 2  # replaced, not added


def test_another_judge_leaves_nothing_of_the_first(run, server, capsys):
    """Neither scores of the copy, if that is not judged again, nor of items that are not."""
    judge(run, server, capsys)
    items = run.items()
    items[0].output = None  # as of a world run that keeps fewer pictures
    run.write_items(items)
    judge(run, server, capsys, "--no-copy")
    lines = run.items()
    assert all(not line.baselines["copy"] for line in lines)
    assert not lines[0].scores and lines[1].scores["gedit O"] is not None


def test_means_are_in_a_table_of_their_own(run, server, capsys):
    judge(run, server, capsys)
    lines = (run.path / "judge-gedit.md").read_text().splitlines()
    assert lines[0] == "# Judged by gedit's protocol" and f"answered by {MODEL}" in lines[2]
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| gedit ")]
    assert len(cells) == sum(r.system == "model" and r.metric.startswith("gedit ") for r in run.summary())
    found = {(metric, group): (n, failures, value, copy) for metric, group, _, n, failures, value, _, copy, *_ in cells}
    for group in ("all", "macro", "color_alter"):
        model, copied = (row(run, "gedit O", group, system) for system in ("model", "copy"))
        other = f" (n {copied.n})" * (copied.n != model.n)
        expected = (str(model.n), str(model.failures), f"{model.value:.4f}", f"{copied.value:.4f}{other}")
        assert found["gedit O", group] == expected


def test_a_judge_sees_what_metrics_see(run, server, capsys):
    """Transparent pixels are white and 16 bits are scaled; Pillow's own conversion shows other pictures."""
    first, second = run.items()[:2]
    clear = np.zeros((64, 64, 4), np.uint8)
    clear[:, 32:] = (200, 0, 0, 255)
    Image.fromarray(clear).save(run.path / first.output)
    Image.fromarray(np.full((64, 64), 100 * 257, np.uint16)).save(run.path / second.output)
    judge(run, server, capsys, "--workers", "1", "--no-copy", protocol="imgedit")
    shown = [np.asarray(Image.open(io.BytesIO(parts(body)[1][1]))) for body in server.requests[:2]]
    assert (shown[0][:, :32] == 255).all() and (shown[0][:, 32:] == (200, 0, 0)).all()
    assert (shown[1] == 100).all()


def test_an_interrupted_run_does_not_wait_for_retries(run, server):
    server.answer = lambda body, number: error(429, retry_after="60")

    def interrupt():
        while not server.requests:
            time.sleep(0.01)
        raise KeyboardInterrupt

    started = time.perf_counter()
    items = [replace(run.items()[0], output=None), *run.items()[1:]]  # the first is a verdict at once
    with pytest.raises(KeyboardInterrupt):
        judge_items(run, items, PROTOCOLS["gedit"], Kept(endpoint(server), run.path / "replies"), progress=interrupt)
    assert time.perf_counter() - started < 20


def test_items_with_known_faults_are_in_rows_of_their_own(run, server, capsys):
    items = run.items()
    items[0].faults = ["not in the intersection set"]
    run.write_items(items)
    judge(run, server, capsys, "--no-copy")
    rows = [r for r in run.summary() if r.metric == "gedit O" and r.group == "all"]
    assert [(r.filter, r.n) for r in rows] == [("none", 5), ("without not in the intersection set", 4)]
    assert rows[1].value == pytest.approx(statistics.fmean(i.scores["gedit O"] for i in run.items()[1:5]))


def test_every_protocol_names_its_scores():
    for protocol in PROTOCOLS.values():
        frames = ["inputs/a_0.png", "inputs/a_1.png"]
        item = ItemResult("a", "video_edit", 'say "hi"', "add", "object addition", frames, frames=2)
        questions = protocol.questions(item)
        ratings = {q.name: {c.name: float(q.scale[1]) for c in q.criteria} for q in questions}
        scores = protocol.combine(ratings)
        assert tuple(scores) == protocol.scores and set(scores.values()) == {float(protocol.scale[1])}
        assert set(protocol.combine(dict.fromkeys(ratings)).values()) == {None}
        assert all((r'"say \"hi\""' in q.text(item.instruction)) == ("source" in q.pictures) for q in questions)


# Strict reading

QUESTION = PROTOCOLS["gedit"].questions(ItemResult("a", "edit", "x"))[0]
GOOD = {"editing success": 7, "minimal change": 9.5}


@pytest.mark.parametrize("before", ["", "Well.\n", "```json\n", "{so} "])
@pytest.mark.parametrize("after", ["", "\n```\n", " That is all."])
def test_good_replies(before, after):
    text = before + json.dumps(GOOD, indent=2) + after
    assert read_ratings(Reply(text, "m"), QUESTION) == {"editing success": 7.0, "minimal change": 9.5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 JSON objects"),
        ("I'm sorry, but I can't help with that.", "0 JSON objects"),
        ("editing success: 7\nminimal change: 9", "0 JSON objects"),
        ('{"editing success": 7, "minimal change": 9', "0 JSON objects"),
        ('{"editing success": 7, "minimal change": 9,}', "0 JSON objects"),
        (json.dumps(GOOD) + json.dumps(GOOD | {"minimal change": 1}), "2 JSON objects"),
        ('{"editing success": 7}', "rates editing success, not"),
        ("{}", "rates nothing"),
        (json.dumps(GOOD | {"overall": 9}), "rates editing success, minimal change, overall"),
        ('{"editing success": 7, "minimal change": 9, "minimal change": 2}', "minimal change, minimal change"),
        (json.dumps(GOOD | {"minimal change": 11}), "is 11, not a number from 0 to 10"),
        (json.dumps(GOOD | {"minimal change": -1}), "is -1"),
        (json.dumps(GOOD | {"minimal change": "9"}), 'is "9"'),
        (json.dumps(GOOD | {"minimal change": True}), "is true"),
        (json.dumps(GOOD | {"minimal change": None}), "is null"),
        (json.dumps(GOOD | {"minimal change": [9]}), "is [9]"),
        ('{"editing success": 7, "minimal change": NaN}', "is NaN"),
        ('{"editing success": 7, "minimal change": 9/10}', "0 JSON objects"),
    ],
)
def test_unreadable_replies_are_failures(text, reason):
    with pytest.raises(JudgeError, match=re.escape(reason)) as caught:
        read_ratings(Reply(text, "m"), QUESTION)
    assert caught.value.kind == "unreadable"


# A server that misbehaves


def endpoint(server, **options):
    return Endpoint(MODEL, server.url, **{"backoff": 0.01, "retries": 3, "timeout": 5.0} | options)


PICTURE = b"\x89PNG..."
BAD_ONCE = {
    "429": lambda: error(429, "slow down", retry_after="0"),
    "429 without a time": lambda: error(429, "slow down"),
    "500": lambda: error(500),
    "503": lambda: error(503, retry_after="nonsense"),
    "malformed JSON": lambda: (200, {}, b'{"choices": [{"mess'),
    "HTML": lambda: (200, {"Content-Type": "text/html"}, b"<html>busy</html>"),
    "an error with status 200": lambda: (200, {}, b'{"error": {"message": "overloaded"}}'),
    "no choices": lambda: (200, {}, b'{"choices": []}'),
    "hang-up": lambda: None,
}


@pytest.mark.parametrize("name", BAD_ONCE)
def test_passing_trouble_is_retried(name, server):
    server.answer = lambda body, number: BAD_ONCE[name]() if number < 3 else ok("fine")
    budget = Budget()
    reply = endpoint(server, budget=budget).ask("x", [PICTURE])
    assert (reply.text, reply.model, reply.tokens, reply.stopped) == ("fine", MODEL, 100, "end")
    assert len(server.requests) == budget.calls == 3 and budget.tokens == 100


@pytest.mark.parametrize("name", BAD_ONCE)
def test_lasting_trouble_is_a_failure_after_all_retries(name, server):
    server.answer = lambda body, number: BAD_ONCE[name]()
    with pytest.raises(JudgeError, match="no answer after 3 tries") as caught:
        endpoint(server, retries=2).ask("x", [PICTURE])
    assert caught.value.kind == "unreachable" and len(server.requests) == 3


def test_a_slow_server_times_out(server):
    release = threading.Event()
    server.answer = lambda body, number: ok("late" if release.wait(5) else "never") if number == 1 else ok("quick")
    started = time.perf_counter()
    assert endpoint(server, timeout=0.3).ask("x", [PICTURE]).text == "quick"
    assert 0.3 <= time.perf_counter() - started < 4
    release.set()


def test_the_wait_is_what_the_server_asks_for_or_doubles(server):
    times = []
    server.answer = lambda body, number: times.append(time.perf_counter()) or error(500)
    with pytest.raises(JudgeError):
        endpoint(server, backoff=0.1, retries=2).ask("x", [PICTURE])
    waits = np.diff(times)
    assert 0.05 <= waits[0] < 0.19 and 0.1 <= waits[1] < 0.35
    times.clear()
    server.answer = lambda body, number: times.append(time.perf_counter()) or error(429, retry_after="0.2")
    with pytest.raises(JudgeError):
        endpoint(server, backoff=0.001, retries=1).ask("x", [PICTURE])
    assert 0.2 <= np.diff(times)[0] < 0.4


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (ok(None, refusal="I cannot rate this."), "refused"),
        (ok("I", finish="content_filter"), "refused"),
        (error(400, "filtered", code="content_filter"), "refused"),
        (error(400, "picture too large"), "rejected"),
        (error(422, "bad field"), "rejected"),
    ],
)
def test_refusals_are_not_repeated(answer, kind, server):
    server.answer = lambda body, number: answer
    with pytest.raises(JudgeError) as caught:
        read_ratings(endpoint(server).ask("x", [PICTURE]), QUESTION)
    assert caught.value.kind == kind and len(server.requests) == 1


def test_a_server_that_knows_only_max_completion_tokens(server):
    def answer(body, number):
        return error(400, "Unsupported 'max_tokens': use 'max_completion_tokens'") if "max_tokens" in body else ok("x")

    server.answer = answer
    budget = Budget()
    judge = endpoint(server, budget=budget, retries=0, max_reply=77)
    assert [judge.ask("x", [PICTURE]).text for _ in range(2)] == ["x", "x"]
    limits = [{name: body[name] for name in body if name.startswith("max_")} for body in server.requests]
    assert limits == [{"max_tokens": 77}, {"max_completion_tokens": 77}, {"max_completion_tokens": 77}]
    assert budget.calls == 3


REJECTED = [
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
    "Unsupported parameter: 'temperature' is not supported with this model.",
    "`temperature` is deprecated for this model.",
    "invalid temperature: only 1 is allowed for this model",
]


@pytest.mark.parametrize("message", REJECTED)
def test_a_server_that_takes_no_temperature(message, server):
    server.answer = lambda body, number: error(400, message) if "temperature" in body else ok("x")
    budget = Budget()
    judge = endpoint(server, budget=budget, retries=0)
    replies = [judge.ask("x", [PICTURE]) for _ in range(2)]
    assert all(reply.text == "x" and reply.own_temperature for reply in replies)
    assert ["temperature" in body for body in server.requests] == [True, False, False] and budget.calls == 3


def test_a_server_that_takes_neither_old_limit_nor_temperature(server):
    def answer(body, number):
        if "max_tokens" in body:
            return error(400, "Unsupported 'max_tokens': use 'max_completion_tokens'")
        return error(400, REJECTED[0]) if "temperature" in body else ok("x")

    server.answer = answer
    assert endpoint(server, retries=0).ask("x", [PICTURE]).text == "x" and len(server.requests) == 3
    assert server.requests[-1]["max_completion_tokens"] == 1024


def test_replies_at_the_endpoints_own_temperature_are_told_also_when_they_are_kept(run, server, capsys):
    server.answer = lambda body, number: error(400, REJECTED[0]) if "temperature" in body else ok(rate(body))
    told = "the endpoint takes no temperature"
    assert told in judge(run, server, capsys)
    asked = len(server.requests)
    assert told in judge(run, server, capsys) and len(server.requests) == asked
    assert "the endpoint's own" in (run.path / "judge-gedit.md").read_text()
    server.answer = lambda body, number: ok(rate(body))
    assert told not in judge(run, server, capsys, "--replies", run.path / "others")


def test_a_temperature_in_another_complaint_is_kept(server):
    server.answer = lambda body, number: error(400, "bad picture in {'temperature': 0.0}")
    with pytest.raises(JudgeError, match="bad picture"):
        endpoint(server).ask("x", [PICTURE])
    assert len(server.requests) == 1


def test_a_limit_that_is_rejected_for_its_value_is_not_renamed(server):
    server.answer = lambda body, number: error(400, "max_tokens is too large")
    with pytest.raises(JudgeError, match="too large"):
        endpoint(server).ask("x", [PICTURE])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [error(401, "bad key"), error(403), error(404, "no such model"), error(429, "no money", code="insufficient_quota")],
)
def test_what_no_repetition_mends_stops_the_run(answer, run, server, capsys):
    server.answer = lambda body, number: answer
    before = (run.path / "items.jsonl").read_bytes()
    message = judge(run, server, capsys, "--workers", 1, status=2)
    assert f"does not serve '{MODEL}'" in message and message.count("\n") == 1
    assert len(server.requests) <= 2  # one may have started meanwhile
    assert (run.path / "items.jsonl").read_bytes() == before and not (run.path / "summary.json").exists()


def test_failures_are_counted_listed_and_in_no_mean(run, server, capsys):
    first = json.dumps(run.items()[0].instruction)

    def answer(body, number):
        return ok("I'd rather not say.") if first in parts(body)[0] else ok(rate(body))

    server.answer = answer
    printed = judge(run, server, capsys, "--no-copy")
    assert "without a rating: 1 unreadable, 1 no output" in printed
    assert "item0 SC: 0 JSON objects in the reply" in printed and "the model ran out of memory" in printed
    item = run.items()[0]
    assert item.scores["gedit O"] is None and item.scores["gedit SC"] is None and item.scores["gedit PQ"] > 0
    assert (row(run, "gedit O").n, row(run, "gedit O").failures) == (4, 2)
    assert (row(run, "gedit PQ").n, row(run, "gedit PQ").failures) == (5, 1)
    written = json.loads((run.path / "judge-gedit.json").read_text())
    assert written["failures"] == {"unreadable": 1, "no output": 1}
    assert sum(first in parts(body)[0] for body in server.requests) == 2  # asked again once
    assert "item0" in (run.path / "index.html").read_text()


def test_only_what_a_folder_keeps_pictures_of_is_judged(server, tmp_path, monkeypatch, capsys):
    """The world benchmark has thousands of samples and keeps pictures of some; a new picture is no edit."""
    monkeypatch.setattr(world, "TRAINING_SEEDS", range(2))
    options = ["--baseline", "copy", "--limit", "4", "--pictures", "2", "--only", "recolor,t2i"]
    assert main(["world", *options, "--output", str(tmp_path / "world")]) == 0
    folder = RunFolder(tmp_path / "world")
    printed = judge(folder, server, capsys)
    items = folder.items()
    pictured = [item for item in items if item.inputs]
    assert len(pictured) == 2 + 2 + 1 and {item.category.partition(",")[0] for item in pictured} == {"recolor"}
    assert f"not judged: {len(items) - len(pictured)} items of which the folder keeps no picture" in printed
    for system in ("model", "copy"):
        found = row(folder, "gedit O", system=system)
        assert (found.n, found.failures) == (len(pictured), 0)
    assert [item for item in items if "gedit O" in item.scores] == pictured
    folder.write_items(item for item in items if not item.inputs)
    assert "keeps of none of its" in judge(folder, server, capsys, status=2)


def test_half_a_character_is_a_failure_of_its_item(run, server, capsys):
    items = run.items()
    items[0] = replace(items[0], instruction="Make it \ud83d green.")
    run.write_items(items)
    server.answer = lambda body, number: ok(rate(body))
    out = judge(run, server, capsys)
    assert "half a character" in out
    assert (row(run, "gedit O").n, row(run, "gedit O").failures) == (4, 2)  # the other one has no output


def test_the_page_forgets_a_judgement_that_scoring_has_replaced(run, server, capsys):
    judge(run, server, capsys)
    assert "Judged without a rating" in (run.path / "index.html").read_text()
    items = run.items()
    for item in items:
        item.scores, item.baselines = {}, {}
    run.write_items(items)
    html.write(run.path)
    assert "Judged without a rating" not in (run.path / "index.html").read_text()


def test_a_cut_off_reply_is_a_failure(run, server, capsys):
    server.answer = lambda body, number: ok(rate(body), finish="length")
    printed = judge(run, server, capsys, "--no-copy", status=1)
    assert "10 cut off" in printed and row(run, "gedit O").value is None


def test_a_second_try_may_be_readable(run, server, capsys):
    server.answer = lambda body, number: ok(rate(body) if "could not be read" in parts(body)[0] else "seven?")
    judge(run, server, capsys, "--no-copy")
    assert row(run, "gedit O").n == 5 and len(server.requests) == 20


# Replies that are kept, and budgets


def test_no_question_is_paid_for_twice(run, server, capsys):
    judge(run, server, capsys)
    asked, first = len(server.requests), run.items()
    assert asked == 22  # five outputs and six copies, two questions each
    judge(run, server, capsys)
    assert len(server.requests) == asked and run.items() == first
    assert not [p for p in run.path.rglob("*") if p.name.startswith(".")]
    files = list((run.path / "replies").rglob("*.json"))
    assert len(files) == asked
    judge(run, server, capsys, "--max-reply", 99)
    assert len(server.requests) == 2 * asked  # other settings, other replies


def test_equal_questions_at_the_same_time_are_asked_once(server, tmp_path):
    server.answer = lambda body, number: time.sleep(0.05) or ok("fine")
    kept, replies = Kept(endpoint(server), tmp_path), []
    threads = [threading.Thread(target=lambda: replies.append(kept.ask("x", [PICTURE]))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1 and len(replies) == 6


def test_a_damaged_reply_is_reported(run, server, capsys):
    judge(run, server, capsys)
    next((run.path / "replies").rglob("*.json")).write_text("{")
    assert "is damaged; delete it" in judge(run, server, capsys, status=2)


def test_the_budget_of_calls_holds_and_a_later_run_goes_on(run, server, capsys):
    printed = judge(run, server, capsys, "--no-copy", "--max-calls", 3, "--workers", 3)
    assert len(server.requests) == 3 and "3 requests" in printed and "7 budget" in printed
    judge(run, server, capsys, "--no-copy")
    assert len(server.requests) == 10 and row(run, "gedit O").n == 5


def test_repeated_requests_count_for_the_budget(server):
    server.answer = lambda body, number: error(500)
    with pytest.raises(JudgeError, match="the budget of 2 calls is spent") as caught:
        endpoint(server, budget=Budget(max_calls=2)).ask("x", [PICTURE])
    assert caught.value.kind == "budget" and len(server.requests) == 2


def test_the_budget_of_tokens_holds(run, server, capsys):
    printed = judge(run, server, capsys, "--no-copy", "--max-tokens", 250, "--workers", 1)
    assert len(server.requests) == 3 and "300 tokens" in printed  # none starts once 250 are reached


def test_an_endpoint_that_changes_its_model_is_noticed(run, server, capsys):
    server.answer = lambda body, number: ok(rate(body), model=f"judge-{number % 2}")
    printed = judge(run, server, capsys)
    assert "answered by judge-0, judge-1" in printed and "changed between replies" in printed
    assert json.loads((run.path / "judge-gedit.json").read_text())["answered_by"] == ["judge-0", "judge-1"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--protocol", "gedti", "--model", "m"], "did you mean 'gedit'"),
        (["--model", "m"], "--protocol"),
        (["--protocol", "gedit"], "--model"),
        (["--protocol", "gedit", "--model", "m", "--max-calls", "0"], "at least 1"),
        (["--protocol", "gedit", "--model", "m", "--timeout", "0"], "--timeout is above 0"),
        (["--protocol", "gedit", "--model", "m", "--base-url", "localhost:8000/v1"], "does not begin with http:// or"),
        (["--protocol", "gedit", "--model", "nowhere", "--local"], "cannot be loaded"),
        (["--protocol", "gedit", "--model", "m", "--local", "--retries", "3"], "--retries is for an endpoint"),
    ],
)
def test_bad_calls(options, expected, run, capsys):
    assert status_of(cli.main, [str(run.path), *options]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and err.startswith("error: ")


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert cli.main([str(tmp_path), "--protocol", "gedit", "--model", "m", "--base-url", "http://127.0.0.1:9"]) == 2
    assert "holds no items.jsonl" in capsys.readouterr().err


def test_imgedit_has_no_criteria_for_movement(run, server, capsys):
    items = run.items()
    items[0].edit_type, items[0].category = "object movement", ""
    run.write_items(items)
    printed = judge(run, server, capsys, "--no-copy", protocol="imgedit")
    assert "imgedit has no criteria for" in printed and run.items()[0].scores["imgedit score"] is None


# A model in this process


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory):
    """A random Qwen2.5-VL whose tokens are printable characters, as a folder."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    special = ["<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    vocabulary = {token: i for i, token in enumerate([*special, "?!", "\n", *map(chr, range(32, 127))])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="?!"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=special[0], pad_token=special[0], unk_token="?!",
        additional_special_tokens=special[1:],
    )  # fmt: skip
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=sizes), tokenizer, Qwen2VLVideoProcessor(size=sizes), chat_template=template
    )
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters":
        {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    torch.manual_seed(0)
    tokens = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    tokens |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    numbers = {name: vocabulary[token] for name, token in tokens.items()}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **numbers)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = vocabulary["<|im_end|>"]
    folder = tmp_path_factory.mktemp("vlm")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def taught_vlm(tiny_vlm, tmp_path, run):
    """The tiny model, fitted to one reply to the first question about the first item."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(0)
    processor = AutoProcessor.from_pretrained(tiny_vlm)
    model = AutoModelForImageTextToText.from_pretrained(tiny_vlm)
    item = run.items()[0]
    question = PROTOCOLS["gedit"].questions(item)[0]
    pictures = [Image.open(run.path / path).convert("RGB") for path in (item.inputs[0], item.output)]
    content = [{"type": "image", "image": picture} for picture in pictures]
    content.append({"type": "text", "text": question.text(item.instruction)})
    asked = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    reply = processor.tokenizer(json.dumps(GOOD) + "<|im_end|>", return_tensors="pt").input_ids
    given = {
        "input_ids": torch.cat([asked["input_ids"], reply], 1),
        "attention_mask": torch.cat([asked["attention_mask"], torch.ones_like(reply)], 1),
        "mm_token_type_ids": torch.cat([asked["mm_token_type_ids"], torch.zeros_like(reply)], 1),
        "labels": torch.cat([torch.full_like(asked["input_ids"], -100), reply], 1),
    }
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        loss = model(**{**asked, **given}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    model.save_pretrained(tmp_path / "taught")
    processor.save_pretrained(tmp_path / "taught")
    return tmp_path / "taught"


def local(run, folder, capsys, status):
    options = ["--protocol", "gedit", "--model", str(folder), "--local", "--max-reply", "60", "--no-copy"]
    found = cli.main([str(run.path), *options])
    out, err = capsys.readouterr()
    assert found == status, out + err
    return out


def test_a_local_model_that_can_reply(run, taught_vlm, capsys):
    run.write_items(run.items()[:1])
    local(run, taught_vlm, capsys, status=0)
    (item,) = run.items()
    assert item.scores["gedit SC"] == min(GOOD.values())
    verdicts = json.loads((run.path / "judge-gedit.json").read_text())["verdicts"]
    assert verdicts[0]["ratings"] == GOOD and verdicts[0]["model"] == str(taught_vlm)


def test_a_local_model_that_babbles_gives_no_score(run, tiny_vlm, capsys):
    run.write_items(run.items()[:1])
    printed = local(run, tiny_vlm, capsys, status=1)
    assert "4 requests" in printed and run.items()[0].scores == dict.fromkeys(("gedit O", "gedit SC", "gedit PQ"))
    assert row(run, "gedit O").failures == 1


def test_replies_of_a_local_model_are_not_those_of_other_weights(run, tiny_vlm, tmp_path, capsys):
    """A judge that was trained on lies in the folder of the one before."""
    run.write_items(run.items()[:1])
    folder = shutil.copytree(tiny_vlm, tmp_path / "judge")
    assert "4 requests" in local(run, folder, capsys, status=1)
    assert "0 requests" in local(run, folder, capsys, status=1)
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = min(weights)
    save_file(weights | {name: weights[name] + 1}, path, metadata={"format": "pt"})
    assert "4 requests" in local(run, folder, capsys, status=1)


def test_a_local_models_reply_is_its_greedy_one(tiny_vlm):
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from unireal.evaluation.judge.local import LocalVLM

    picture = Image.fromarray(world_sample("add", 0).inputs[0].image)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    budget = Budget(max_calls=1)
    judge = LocalVLM(str(tiny_vlm), budget, max_reply=7)
    reply = judge.ask("What is this?", [file.getvalue()])
    processor, model = (c.from_pretrained(tiny_vlm) for c in (AutoProcessor, Qwen2_5_VLForConditionalGeneration))
    text = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is this?<|im_end|>\n<|im_start|>assistant\n"
    )
    tokens = processor(text=[text], images=[picture], return_tensors="pt")
    for _ in range(7):
        step = model(**tokens).logits[0, -1].argmax().view(1, 1)
        kinds = torch.cat([tokens["mm_token_type_ids"], torch.zeros_like(step)], 1)
        tokens |= {"input_ids": torch.cat([tokens["input_ids"], step], 1), "mm_token_type_ids": kinds}
        tokens["attention_mask"] = torch.ones_like(tokens["input_ids"])
    expected = processor.decode(tokens["input_ids"][0, -7:], skip_special_tokens=True)
    assert (reply.text, reply.stopped, reply.tokens) == (expected, "length", tokens["input_ids"].shape[1])
    with pytest.raises(JudgeError, match="budget of 1 calls"):
        judge.ask("What is this?", [file.getvalue()])
