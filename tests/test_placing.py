"""Each annotator on the device that it was given, and called by no more workers at a time than it bears."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import tiny_annotators as tiny

from data_builders.__main__ import main
from data_builders.annotators.choose import load_annotators
from data_builders.annotators.maps import Canny
from data_builders.annotators.placing import GATES, Devices, limited, parse_concurrency
from data_builders.annotators.protocols import Annotators
from data_builders.world.export import write_video
from data_builders.world.video import WorldVideo
from unireal.data.records import ParquetSamples

ROOT = Path(__file__).parent.parent
PARTS = ("captioner", "depth", "judge")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", ["cpu", "cpu", "cpu"]),
        ("cuda:0, depth=cuda:1", ["cuda:0", "cuda:1", "cuda:0"]),
        ("depth=cuda,captioner=meta", ["meta", "cuda", "cpu"]),
    ],
)
def test_devices_by_annotator(text, expected):
    devices = Devices.parse(text, PARTS)
    assert [devices.of(part) for part in PARTS] == expected


def test_models_are_where_they_were_sent(tmp_path):
    """`meta` is a device of every torch; it holds shapes without values."""
    depth, captioner = str(tiny.depth_anything(tmp_path / "depth")), str(tiny.qwen_vl(tmp_path / "vl", ["a room"]))
    specs = {"depth": depth, "captioner": captioner, "judge": captioner, "instructor": captioner}
    found = load_annotators(specs, Devices.parse("judge=meta,depth=meta", specs))
    assert found.depth.model.device.type == "meta" and found.captioner.chat.model.device.type == "cpu"
    assert found.judge.chat.model.device.type == "meta" and found.instructor is found.captioner
    with pytest.raises(ValueError, match="cannot move DepthAnythingForDepthEstimation to 'nowhere'") as told:
        load_annotators({"depth": depth}, Devices("nowhere"))
    assert "\n" not in str(told.value)


class Counting:
    """An annotator that knows how often it is called at a time."""

    name = "counting"

    def __init__(self):
        self.now = self.most = self.calls = 0
        self.lock = Lock()

    def depth(self, image: np.ndarray) -> np.ndarray:
        with self.lock:
            self.now, self.calls = self.now + 1, self.calls + 1
            self.most = max(self.most, self.now)
        time.sleep(0.01)
        with self.lock:
            self.now -= 1
        return image[..., 0].astype(np.uint16)


@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_workers_than_the_limit_call_at_a_time(tmp_path, limit):
    """A lock tells apart who has opened its file, so that threads can stand for workers."""
    counting, image = Counting(), np.zeros((4, 4, 3), np.uint8)
    workers = [limited(Annotators(depth=counting, edge=Canny()), {"depth": limit}, tmp_path) for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        for future in [pool.submit(lambda w: [w.depth.depth(image) for _ in range(4)], worker) for worker in workers]:
            assert len(future.result(timeout=20)) == 4
    assert counting.calls == 20 and counting.most == limit
    assert workers[0].names == {"depth": "counting", "edge": "canny:100,200"} and isinstance(workers[0].edge, Canny)


def test_a_worker_that_dies_makes_room(tmp_path):
    hold = (
        "import sys, pathlib\n"
        "from data_builders.annotators.placing import _Gate\n"
        "with _Gate(pathlib.Path(sys.argv[1]), 'depth', 1).turn():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        worker = limited(Annotators(depth=Counting()), {"depth": 1}, tmp_path)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(worker.depth.depth, np.zeros((4, 4, 3), np.uint8))
            time.sleep(0.1)
            assert not waiting.done()
            holder.kill()
            assert waiting.result(timeout=20).shape == (4, 4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        write_video(WorldVideo(seed, (24, 32), 6), folder, f"video-{seed}")
    return folder


def test_limits_and_devices_change_no_record(videos, tmp_path):
    made = []
    for name, more in {"plain": ["0"], "limited": ["2", "--concurrency", "depth=1", "--device", "depth=cpu"]}.items():
        asked = ["control", "--videos", str(videos), "--output", str(tmp_path / name), "--depth", "oracle", "--workers"]
        assert main([*asked, *more]) == 0
        made.append([ParquetSamples(tmp_path / name).row(number) for number in range(12)])
        assert not list((tmp_path / name).glob(GATES))
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--device", "cuda:0,cuda:1"], "--device is one device, and PART=DEVICE"),
        (["--device", "segmenter=cuda"], "PART one of captioner, depth, edge, pose, got 'segmenter=cuda'"),
        (["--concurrency", "depth=0"], "--concurrency takes PART=N with N from 1, got 'depth=0'"),
        (["--concurrency", "depth"], "--concurrency takes PART=VALUE"),
        (["--depth", "oracle", "--workers", "-1"], "--workers and --gpus are at least 0"),
    ],
)
def test_wrong_places_end_with_one_line(videos, tmp_path, capsys, more, said):
    assert main(["control", "--videos", str(videos), "--output", str(tmp_path / "data"), *more]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and not (tmp_path / "data").exists()


def test_concurrency_by_annotator():
    assert parse_concurrency("depth=2, judge=1", PARTS) == {"depth": 2, "judge": 1} and not parse_concurrency("", PARTS)
