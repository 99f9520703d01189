"""The builders' command lines as people use them: wrong input, a second try, an interruption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from video_files import sliding_scene, write_video

from data_builders.__main__ import INTERRUPTED, UNREAD, main
from data_builders.world.export import world_videos
from data_builders.world.export import write_video as write_world_video

ROOT = Path(__file__).parent.parent
NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        write_video(folder / f"video-{seed}.mkv", sliding_scene(12, (48, 64), seed), "ffv1")
    return folder


def call(capsys, *words: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    capsys.readouterr()
    try:
        status = main([str(word) for word in words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["contrl"], "did you mean 'control'?"),
        (["control", "--output", "{out}"], "--videos --clips is required"),
        (["control", "--videos", "{tmp}/none", "--output", "{out}"], "none' does not exist"),
        (["control", "--videos", "{tmp}", "--output", "{out}"], "no videos in"),
        (["control", "--videos", "{videos}", "--output", "{file}"], "is a file; give a folder"),
        (["control", "--videos", "{videos}", "--output", "{file}/deeper"], "cannot write ({file}/deeper: Not a dir"),
        (["control", "--videos", "{videos}", "--output", "{videos}"], "is not empty and holds no build"),
        (["control", "--videos", "{videos}", "--output", "{out}", "--fps", "nan"], "--fps: takes a number, got 'nan'"),
        (["control", "--videos", "{videos}", "--output", "{out}", "--kinds", "dpth"], "--kinds takes depth, edge"),
        (
            ["control", "--videos", "{videos}", "--output", "{out}", "--edge", "none"],
            "give --depth or --edge",
        ),
        (["control", "--videos", "{videos}", "--output", "{out}", "--kinds", "pose"], "kinds pose; give --pose"),
        (["control", "--videos", "{videos}", "--output", "{out}", "--edge", "cany"], "canny:LOW,HIGH, got 'cany'"),
        (["control", "--videos", "{videos}", "--output", "{out}", "--depth", "{tmp}/none"], "a hub id of a model"),
        (["control", "--videos", "{videos}", "--output", "{out}", "--clips-per-shard", "0"], "at least 1, got 0"),
        (
            ["inpaint", "--videos", "{videos}", "--output", "{out}", "--captioner", f"endpoint:{NOBODY}#m"],
            "nothing ans",
        ),
        (["inpaint", "--videos", "{videos}", "--output", "{out}", "--captioner", "endpoint:a"], "endpoint:URL#MODEL"),
        (["inpaint", "--clips", "{tmp}/none", "--output", "{out}", "--curation", "none"], "leave one of the two out"),
        (["inpaint", "--clips", "{tmp}/none", "--output", "{out}"], "make it with python -m data_builders clips"),
        (["inpaint", "--clips", "{file}", "--output", "{out}"], "a.txt:1 is no clip"),
        (["inpaint", "--clips", "{tmp}/empty.jsonl", "--output", "{out}"], "empty.jsonl holds no clips"),
        (["clips", "--videos", "{tmp}", "--output", "{out}"], "no videos in"),
        (["clips", "--videos", "{file}", "--output", "{out}"], "no video can be read; the first of 1: {file}"),
        (["clips", "--videos", "{videos}", "--output", "{file}/deeper"], "cannot write ({file}/deeper"),
        (["clips", "--videos", "{videos}", "--output", "{out}", "--shots", "adptive"], "did you mean 'adaptive'?"),
        (["clips", "--videos", "{videos}", "--output", "{out}", "--max-bar", "nan"], "max_bar is at least 0"),
        (
            [
                *("clips", "--videos", "{videos}", "--output", "{out}", "--min-motion", "0", "--min-frames", "5"),
                *("--encoder", "{tmp}/none"),
            ],
            "none' gives no CLIP image encoder",
        ),
        (["clips", "--videos", "{videos}", "--output", "{out}", "--min-luma", "16"], "min_luma is 0..1, got 16"),
        (
            ["video_edit", "--videos", "{videos}", "--output", "{out}", "--min-source-fidelity", "75"],
            "--min-source-fidelity is a score of 0..1, got 75",
        ),
    ],
)
def test_wrong_input_is_one_line_and_status_2(videos, tmp_path, capsys, words, said):
    (tmp_path / "a.txt").write_text("no clip, no video")
    (tmp_path / "empty.jsonl").write_text("")
    places = {"videos": videos, "tmp": tmp_path, "out": tmp_path / "out", "file": tmp_path / "a.txt"}
    status, _, told = call(capsys, *(word.format(**places) for word in words))
    assert status == 2
    assert told.startswith("error: ") and told.count("\n") == 1 and said.format(**places) in told
    assert not list(tmp_path.glob("out/*.parquet"))


@pytest.mark.parametrize("builder", ["inpaint", "clips", "world"])
def test_a_folder_takes_one_run_at_a_time(videos, tmp_path, capsys, builder):
    given = ["--num", 1] if builder == "world" else ["--videos", videos / "video-0.mkv", "--workers", 0]
    words = [builder, *given, "--output", tmp_path / "out"]
    code = "import sys, pathlib; from data_builders.files import only_run\nwith only_run(pathlib.Path(sys.argv[1])):"
    code += "\n  print('begun', flush=True)\n  sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "out"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"begun\n"
    status, _, told = call(capsys, *words)
    assert status == 2 and told.count("\n") == 1 and "another run is writing to" in told
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    other.kill()  # nothing is left that keeps others out
    other.wait()
    assert call(capsys, *words)[0] == 0


@pytest.mark.parametrize("words", [["inpaint", "--videos", "{videos}"], ["world", "--num", "1"]])
def test_a_folder_whose_name_is_no_text_is_told(videos, tmp_path, capsys, words):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/out\xff")
    status, _, told = call(capsys, *(word.format(videos=videos) for word in words), "--output", folder)
    assert status == 2 and told.count("\n") == 1 and "--output: the name of the folder is no UTF-8" in told
    assert not os.path.exists(folder)


@pytest.mark.parametrize("source", ["--videos", "--clips"])
def test_a_wrong_source_does_not_cost_the_build_that_it_was_to_replace(videos, tmp_path, capsys, source):
    there = ["inpaint", "--videos", videos / "video-0.mkv", "--curation", "none", "--output", tmp_path / "there"]
    assert call(capsys, *there, "--workers", 0)[0] == 0
    before = sorted((tmp_path / "there").iterdir())
    for folder in ("there", "new"):
        wrong = ["inpaint", source, tmp_path / "none", "--output", tmp_path / folder, "--overwrite"]
        assert call(capsys, *wrong)[0] == 2
    assert sorted((tmp_path / "there").iterdir()) == before and not (tmp_path / "new").exists()


def test_what_cannot_be_loaded_is_told_before_anything_is_written(videos, tmp_path, capsys):
    options = ["--videos", videos, "--output", tmp_path / "out"]
    for wrong in (f"endpoint:{NOBODY}#m", tmp_path / "none"):
        assert call(capsys, "text_to_image", *options, "--captioner", wrong)[0] == 2
    assert call(capsys, "video_edit", *options, *_all_of_it(tmp_path / "none"))[0] == 2
    assert not (tmp_path / "out").exists()


def _all_of_it(editor: Path) -> list[object]:
    words = [word for part in ("captioner", "instructor", "depth", "judge") for word in (f"--{part}", "oracle")]
    return [*words, "--editor", editor]


def test_settings_may_be_mended_until_there_are_records(videos, tmp_path, capsys):
    """What was found in the videos stays: looking at them takes long."""
    options = ["control", "--videos", videos, "--output", tmp_path, "--workers", "0"]
    assert call(capsys, *options, "--depth", "oracle")[0] == 2  # these are no videos of the world
    before = (tmp_path / "clips.json").stat().st_mtime_ns
    assert call(capsys, *options, "--views", "1")[0] == 0
    assert (tmp_path / "clips.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "build.json").read_text())["options"]["views"] == 1
    status, _, told = call(capsys, *options, "--views", "2")
    assert status == 2 and "holds a build with options" in told


def test_another_curation_looks_at_the_videos_anew(videos, tmp_path, capsys):
    options = ["control", "--videos", videos, "--output", tmp_path, "--workers", "0"]
    assert call(capsys, *options, "--depth", "oracle", "--curation", "none")[0] == 2
    (tmp_path / ".examined-0.json").write_text("{}")  # as an interrupted one leaves it
    status, told, _ = call(capsys, *options, "--curation", "shots", "--views", "1")
    assert status == 0 and "3 shots" in told
    assert not list(tmp_path.glob(".examined-*"))


def test_a_new_video_that_takes_the_place_of_another_is_told(videos, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    words = ["inpaint", "--videos", tmp_path / "in", "--output", tmp_path / "out", "--workers", 0]
    shutil.copy(videos / "video-0.mkv", tmp_path / "in" / "b.mkv")
    assert call(capsys, *words)[0] == 0
    shutil.copy(videos / "video-0.mkv", tmp_path / "in" / "a.mkv")
    status, _, told = call(capsys, *words)
    assert status == 2 and "holds 1 shards of other clips, as b-" in told and "near-duplicates" in told
    (shard,) = (tmp_path / "out").glob("*.parquet")
    shard.unlink()
    assert call(capsys, *words)[0] == 0


def test_a_damaged_settings_file_is_told(videos, tmp_path, capsys):
    (tmp_path / "build.json").write_text("{")
    options = ["inpaint", "--videos", videos, "--output", tmp_path, "--workers", "0", "--curation", "none"]
    status, _, told = call(capsys, *options)
    assert status == 2 and "build.json is damaged" in told and "--overwrite" in told
    assert call(capsys, *options, "--overwrite")[0] == 0


def test_a_build_without_records_says_why(tmp_path, capsys):
    write_video(tmp_path / "black.mkv", [np.zeros((48, 64, 3), np.uint8)] * 4, "ffv1")
    options = ["--videos", tmp_path, "--output", tmp_path / "out", "--workers", "0", "--curation", "none"]
    status, _, told = call(capsys, "restore", *options)
    assert status == 2 and "no clip gave a record; the first of 1 failures: no record is left: the frame" in told
    status, _, told = call(capsys, "restore", *options, "--views", "1")  # and its settings may be mended
    assert status == 2 and "no clip gave a record" in told
    status, _, told = call(capsys, "preview", tmp_path / "out")
    assert status == 2 and "hold no records; build them from other input" in told


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("mpeg2video", "mpg")])
def test_interlaced_videos_are_read_whole(tmp_path, capsys, codec, suffix):
    how = {"x264-params": "tff=1:interlaced=1"} if codec == "libx264" else {"flags": "+ildct+ilme"}
    write_video(tmp_path / f"tv.{suffix}", sliding_scene(12), codec, **how)
    options = ["--output", tmp_path / "out", "--workers", "0", "--curation", "none"]
    status, told, _ = call(capsys, "inpaint", "--videos", tmp_path / f"tv.{suffix}", *options)
    assert status == 0 and "failed" not in told
    (clip,) = json.loads((tmp_path / "out" / "clips.json").read_text())["clips"]
    assert clip["end"] == pytest.approx(12 / 25)


def test_the_failure_of_clips_is_told_rather_than_that_of_files(tmp_path, capsys):
    """A video that cannot be read is listed anyway; why the others gave nothing is the news."""
    (tmp_path / "a.mp4").write_bytes(b"")
    (video,) = world_videos(0, 1, (48, 64))
    write_world_video(video, tmp_path, "b")
    write_video(tmp_path / "b.mkv", sliding_scene(4, (48, 64)), "ffv1")  # which the truth beside it does not tell of
    options = ["--output", tmp_path / "out", "--workers", "0", "--curation", "none", "--depth", "oracle"]
    status, _, told = call(capsys, "control", "--videos", tmp_path / "a.mp4", tmp_path / "b.mkv", *options)
    assert status == 2 and "the first of 2 failures: " in told and "cannot be opened" not in told


class SlowCaptioner(ThreadingHTTPServer):
    """A server of chat completions that sets `asked` when it is asked, and answers once `ready` is set."""

    def __init__(self):
        asked, ready = self.asked, self.ready = threading.Event(), threading.Event()
        message = {"role": "assistant", "content": "A room with a window."}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_error(501)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                asked.set()
                ready.wait()
                try:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.end_headers()
                    self.wfile.write(json.dumps(reply).encode())
                except OSError:
                    pass  # who asked is gone

            def log_message(self, *arguments):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def captioner():
    with SlowCaptioner() as server:
        yield server
        server.ready.set()
        server.shutdown()


def test_an_interrupted_build_says_so_and_goes_on(videos, tmp_path, capsys, captioner):
    """The worker waits for its first caption, so the build is under way for sure, however slow the machine is."""
    endpoint = f"endpoint:http://127.0.0.1:{captioner.server_port}/v1#m"
    words = ["inpaint", "--videos", str(videos), "--captioner", endpoint, "--output", str(tmp_path / "out")]
    running = subprocess.Popen(
        [sys.executable, "-m", "data_builders", *words],
        **{"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.PIPE, "text": True},
        start_new_session=True,  # it and its workers are interrupted together, as by Ctrl+C in a terminal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not captioner.asked.wait(0.1):
        assert running.poll() is None, running.communicate()
    os.killpg(running.pid, signal.SIGINT)
    _, told = running.communicate()
    assert running.returncode == INTERRUPTED
    assert told.splitlines()[-1] == "interrupted; the same command goes on where it stopped"
    assert "Traceback" not in told
    captioner.ready.set()
    assert call(capsys, *words, "--workers", "0")[0] == 0


def test_a_page_may_go_to_a_new_folder(videos, tmp_path, capsys):
    assert main(["inpaint", "--videos", str(videos), "--output", str(tmp_path / "data"), "--workers", "0"]) == 0
    page = tmp_path / "pages" / "inpaint.html"
    assert call(capsys, "preview", tmp_path / "data", "--output", page)[0] == 0
    assert "<article>" in page.read_text()


def test_whoever_reads_the_output_may_stop():
    """As `head` does: that is no error of a file, and nothing is said about one."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "data_builders", "list"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (UNREAD, b"")


def test_help_tells_what_an_annotator_may_be_and_all_defaults(capsys):
    status, told, _ = call(capsys, "segmentation", "--help")
    told = " ".join(told.split())
    assert status == 0
    for word in ("endpoint:URL#MODEL", "sam2:MODEL", "facebook/sam2.1-hiera-large", "--max-share X"):
        assert word in told
    told = " ".join(call(capsys, "clips", "--help")[1].split())
    for word in ("--max-bar X", "(default: 0.04)", "(default: 1280x720)", "(default: 0.85)"):
        assert word in told
