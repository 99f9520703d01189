"""Builds that are interrupted, repeated, divided and spread give the same rows; nothing that fails is lost silently."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from data_builders.__main__ import main
from data_builders.annotators.protocols import Annotators, Refused
from data_builders.build import build
from data_builders.builders.base import Footage, singles
from data_builders.builders.damaged import INPAINT
from data_builders.builders.sources import CURATIONS, curated, whole_clips
from data_builders.clips.clip import probe
from data_builders.clips.curate import Curator
from data_builders.clips.decode import AbsentVideo
from data_builders.clips.examine import examine_all
from data_builders.engine import Placing
from data_builders.shards import Job, plan
from data_builders.world.export import write_video
from data_builders.world.video import WorldVideo
from unireal.data.records import ParquetSamples, shard_metadata

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder of six short videos and one file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(6):
        write_video(WorldVideo(seed, (24, 32), 8), folder, f"video-{seed}")
    (folder / "broken.mp4").write_bytes(b"\0" * 500)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(videos, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "data"
    assert main(arguments(videos, output, workers=1)) == 0
    return output


def arguments(videos: Path, output: Path, *more: str, builder: str = "inpaint", workers: int = 0) -> list[str]:
    shared = ["--output", str(output), "--clips-per-shard", "1", "--workers", str(workers)]
    return [builder, "--videos", str(videos), *shared, *more]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(folder: Path) -> list[dict]:
    samples = ParquetSamples(folder)
    return [samples.row(number) for number in range(len(samples))]


def job(output: Path, **changes) -> Job:
    return Job(INPAINT, INPAINT.options(), output, Annotators) if not changes else replace(job(output), **changes)


def shards_of(videos: Path):
    return plan(whole_clips(sorted(videos.glob("*.mkv"))).clips, 1)


def test_the_same_seed_gives_the_same_files(videos, uninterrupted, tmp_path) -> None:
    assert main(arguments(videos, tmp_path / "again")) == 0
    assert files(tmp_path / "again") == files(uninterrupted)
    assert main(arguments(videos, tmp_path / "other", "--seed", "1")) == 0
    assert rows(tmp_path / "other") != rows(uninterrupted)


def test_a_broken_video_is_listed_and_stops_nothing(videos, uninterrupted, tmp_path, capsys) -> None:
    (told,) = map(json.loads, (uninterrupted / "failures.jsonl").read_text().splitlines())
    assert told["path"] == str(videos / "broken.mp4") and told["reason"]
    assert len(rows(uninterrupted)) == 12
    assert main(arguments(videos, tmp_path / "data")) == 0
    printed = capsys.readouterr().out
    assert "12 records of 6 clips" in printed and "broken.mp4" in printed and told["reason"] in printed


def test_only_broken_videos_are_an_error(videos, tmp_path, capsys) -> None:
    assert main(arguments(videos / "broken.mp4", tmp_path / "data")) == 2
    assert "no clip gave a record" in capsys.readouterr().err
    assert (tmp_path / "data" / "failures.jsonl").read_text().count("\n") == 1


def children_of(process: int) -> list[int]:
    """Living processes that it began."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has just ended
        if int(parent) == process and state != "Z":
            found.append(int(status.parent.name))
    return found


def wait_for_the_end_of(processes: list[int]) -> None:
    until = time.monotonic() + 20
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < until, "a worker goes on after its build was killed"
        time.sleep(0.02)


def test_a_killed_build_goes_on_where_it_stopped(videos, uninterrupted, tmp_path) -> None:
    output = tmp_path / "data"
    command = [sys.executable, "-m", "data_builders", *arguments(videos, output, workers=1)]
    running = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(output.glob("*.parquet")) and running.poll() is None:
        time.sleep(0.002)
    workers = children_of(running.pid)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert workers
    wait_for_the_end_of(workers)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    assert 0 < len(before) < 6, "the build was not killed in its midst"
    (output / ".half.parquet.unfinished").write_bytes(b"half")
    assert main(arguments(videos, output)) == 0
    assert files(output) == files(uninterrupted)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_a_lost_shard_alone_is_made_anew(videos, uninterrupted, tmp_path, capsys) -> None:
    output = tmp_path / "data"
    shutil.copytree(uninterrupted, output)
    lost = sorted(output.glob("*.parquet"))[2]
    lost.unlink()
    assert main(arguments(videos, output)) == 0
    assert "5 shards were there" in capsys.readouterr().out
    assert files(output) == files(uninterrupted)


def test_what_a_crash_has_left_of_a_file_is_made_anew(videos, uninterrupted, tmp_path, capsys) -> None:
    """A machine that loses its power may keep a new name and lose what the file held."""
    output = tmp_path / "data"
    shutil.copytree(uninterrupted, output)
    first, second, *_ = sorted(output.glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(b"")
    (output / "clips.json").write_text("{")
    assert main(arguments(videos, output)) == 0
    assert "4 shards were there" in capsys.readouterr().out
    assert files(output) == files(uninterrupted)


def test_names_need_not_be_text(videos, tmp_path) -> None:
    """Of files from other systems; workers and the program's output are told of them too."""
    (tmp_path / "videos").mkdir()
    shutil.copy(videos / "video-0.mkv", os.fsencode(tmp_path / "videos") + b"/lat\xefn\n1.mkv")
    shutil.copy(videos / "broken.mp4", os.fsencode(tmp_path / "videos") + b"/brok\xeb.mp4")
    named = Path(os.fsdecode(os.fsencode(tmp_path / "videos") + b"/lat\xefn\n1.mkv"))
    words = arguments(named, tmp_path / "data", workers=1)
    command = [sys.executable, "-m", "data_builders", *words[:2], str(tmp_path / "videos"), *words[2:]]
    told = ENVIRONMENT | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*command, "--curation", "none"], cwd=ROOT, env=told, capture_output=True, text=True)
    assert done.returncode == 0 and "brok\\udceb.mp4: cannot be opened" in done.stdout, done.stderr
    assert not done.stderr
    (sample, _) = ParquetSamples(tmp_path / "data")
    assert sample.source["video"].startswith("lat\\udcefn\\n1-")


def test_clips_whose_videos_are_away(videos, tmp_path, capsys, monkeypatch) -> None:
    """None: nothing is built; some: they are made when they are back."""
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("video-0.mkv", "video-1.mkv"):
        shutil.copy(videos / name, tmp_path / "here" / name)
    monkeypatch.chdir(tmp_path / "here")
    thresholds = ["--size", "own", "--min-frames", "2", "--min-motion", "0", "--num-frames", "400"]
    assert main(["clips", "--videos", "video-0.mkv", "video-1.mkv", "--output", "clips", *thresholds]) == 0
    build_them = ["inpaint", "--clips", str(tmp_path / "here" / "clips"), "--workers", "0", "--clips-per-shard", "1"]
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main([*build_them, "--output", str(tmp_path / "data")]) == 2
    assert "count from the folder where it was made: run there" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "here")
    os.rename("video-1.mkv", "away")
    assert main([*build_them, "--output", str(tmp_path / "data")]) == 0
    assert "1 of these may be gone next time; the same command tries them again" in capsys.readouterr().out
    os.rename("away", "video-1.mkv")
    assert main([*build_them, "--output", str(tmp_path / "data")]) == 0
    assert "4 records of 2 clips, 1 shards were there" in capsys.readouterr().out


def test_a_video_that_could_not_be_read_is_looked_at_again_when_it_can(videos, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder, ignore=shutil.ignore_patterns("*.json", "*.npz", "broken*", "video-[2-9]*"))
    closed, access = folder / "video-1.mkv", os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and access(path, mode))
    monkeypatch.setattr("data_builders.builders.sources.probe", partial(_probe_but, closed))
    assert main(arguments(folder, tmp_path / "data", "--curation", "none")) == 0
    assert len(rows(tmp_path / "data")) == 2
    monkeypatch.undo()  # the owner has opened it
    assert main(arguments(folder, tmp_path / "data", "--curation", "none")) == 0
    assert len(rows(tmp_path / "data")) == 4


def _probe_but(closed: Path, path: Path):
    if path == closed:
        raise AbsentVideo("cannot be opened as a video (Permission denied)")
    return probe(path)


def test_the_program_does_not_wait_for_threads_of_daft(videos, tmp_path) -> None:
    """They make an orderly exit abort now and then, after all is written."""
    words = arguments(videos, tmp_path / "data")
    begin = "import atexit, runpy, sys; atexit.register(print, 'orderly'); sys.argv[1:] = sys.argv[2:]; "
    begin += "runpy.run_module('data_builders', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", begin, "", *words], cwd=ROOT, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0 and b"12 records" in done.stdout and b"orderly" not in done.stdout, done.stderr


def test_more_videos_are_added_to_what_is_there(videos, uninterrupted, tmp_path) -> None:
    output = tmp_path / "data"
    some = sorted(map(str, videos.glob("*.mkv")))[:4]
    shared = ["--output", str(output), "--clips-per-shard", "1", "--workers", "0"]
    assert main(["inpaint", "--videos", *some, *shared]) == 0
    assert main(["inpaint", "--videos", str(videos), *shared]) == 0
    assert rows(output) == rows(uninterrupted)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seed", "3"], "holds a build with seed 0"),
        (["--views", "5"], "holds a build with options"),
        (["--clips-per-shard", "2"], "holds a build with clips_per_shard 1"),
    ],
)
def test_a_folder_holds_one_build(videos, uninterrupted, capsys, more, said) -> None:
    before = files(uninterrupted)
    assert main(arguments(videos, uninterrupted, *more)) == 2
    assert said in capsys.readouterr().err
    assert files(uninterrupted) == before


def test_other_clips_are_not_mixed_in(videos, uninterrupted, tmp_path, capsys) -> None:
    output = tmp_path / "data"
    shutil.copytree(uninterrupted, output)
    assert main(arguments(videos / "video-0.mkv", output)) == 2
    assert "5 shards of other clips" in capsys.readouterr().err
    assert main(arguments(videos / "video-0.mkv", output, "--overwrite")) == 0
    assert len(list(output.glob("*.parquet"))) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep")
    assert main(arguments(videos, tmp_path / "mine")) == 2


def test_annotators_that_cannot_be_loaded_end_the_build(videos, tmp_path, capsys) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert main(arguments(videos, tmp_path / "data", "--captioner", nowhere, builder="text_to_image")) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and nowhere in told and told.count("\n") == 1


def _refuse(view: Footage, annotators: Annotators, options) -> None:
    raise Refused("nothing to see")


def test_what_is_dropped_is_counted(videos, tmp_path) -> None:
    refusing = replace(INPAINT, make=_refuse)
    shards = shards_of(videos)
    outcome = build(job(tmp_path, builder=refusing), shards, Placing(0))
    assert outcome.rows == 0 and outcome.dropped == {"nothing to see": 12} and not outcome.failures
    again = build(job(tmp_path, builder=refusing), shards, Placing(0))
    assert again.reused == 6 and again.dropped == outcome.dropped


def _fail_without(flag: Path, view: Footage, annotators: Annotators, options):
    if view.clip.video.startswith("video-3") and not flag.exists():
        raise RuntimeError("out of memory")
    yield from INPAINT.make(view, annotators, options)


def test_failures_that_may_be_gone_are_tried_again(videos, uninterrupted, tmp_path) -> None:
    flaky = replace(INPAINT, make=partial(_fail_without, tmp_path / "flag"))
    shards, output = shards_of(videos), tmp_path / "data"
    first = build(job(output, builder=flaky), shards, Placing(0))
    (failure,) = first.failures
    assert failure.clip.startswith("video-3") and failure.reason == "RuntimeError: out of memory"
    (tmp_path / "flag").touch()
    second = build(job(output, builder=flaky), shards, Placing(0))
    assert second.reused == 5 and not second.failures
    assert rows(output) == rows(uninterrupted)


@pytest.fixture
def workers_know_tests(monkeypatch) -> None:
    """What these tests define can be loaded in the workers' processes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))


def _die_at(clip: str, how: signal.Signals, view: Footage, annotators: Annotators, options):
    if view.clip.id == clip:
        os.kill(os.getpid(), how)
    yield from INPAINT.make(view, annotators, options)


@pytest.mark.parametrize(
    ("workers", "how", "reason", "for_good"),
    [(1, signal.SIGSEGV, "Segmentation fault", True), (2, signal.SIGKILL, "it was killed", False)],
)
def test_a_clip_that_kills_its_worker_is_listed(
    videos, tmp_path, workers_know_tests, workers, how, reason, for_good
) -> None:
    """With one worker as with two; the other clips of its shard are made."""
    whole = whole_clips(sorted(videos.glob("*.mkv"))[1:4]).clips
    clips = [replace(clip, start=start, end=start + 0.5) for clip in whole for start in (0.0, 0.5)]
    assert build(job(tmp_path / "sound"), plan(clips), Placing(0)).rows == 12
    deadly = replace(INPAINT, make=partial(_die_at, clips[3].id, how))
    outcome = build(job(tmp_path / "data", builder=deadly), plan(clips), Placing(workers))
    (failure,) = outcome.failures
    assert failure.clip == clips[3].id and failure.path == clips[3].path
    assert "died twice" in failure.reason and reason in failure.reason
    expected = [row for row in rows(tmp_path / "sound") if json.loads(row["source"])["clip"] != clips[3].id]
    assert len(expected) == 10 and rows(tmp_path / "data") == expected
    assert not list((tmp_path / "data").glob(".*"))
    again = build(job(tmp_path / "data"), plan(clips), Placing(0))  # where nothing kills, as with more memory
    assert again.reused == (3 if for_good else 2) and len(again.failures) == for_good


def _die_loading() -> Annotators:
    os.kill(os.getpid(), signal.SIGABRT)
    raise AssertionError


def test_a_worker_that_dies_of_its_models_ends_the_build_with_one_line(videos, tmp_path, workers_know_tests) -> None:
    with pytest.raises(ValueError, match="died while it loaded its annotators: Aborted; give") as told:
        build(job(tmp_path, load=_die_loading), shards_of(videos))
    assert "\n" not in str(told.value)


def _die_of(name: str, path: Path):
    if path.stem == name:
        os.kill(os.getpid(), signal.SIGSEGV)
    return CURATED(path)


CURATED = Curator(CURATIONS["shots"])


def test_a_video_that_kills_its_examiner_is_listed(videos, tmp_path, workers_know_tests) -> None:
    paths = sorted(videos.glob("*.mkv"))[:3]
    examined = list(examine_all(partial(_die_of, "video-1"), paths, tmp_path, Placing()))
    assert [bool(one.candidates) for one in examined] == [True, False, True]
    assert "died twice: Segmentation fault" in examined[1].report.error


@pytest.mark.parametrize("more", [("--gpus", "1"), ("--ray-address", "auto")])
def test_no_workers_are_this_process_alone(videos, tmp_path, capsys, more) -> None:
    assert main(arguments(videos, tmp_path / "data", *more)) == 2
    assert "--workers 0 is this process alone" in capsys.readouterr().err


def test_the_bar_tells_rate_and_time_left(videos, tmp_path, capsys) -> None:
    build(job(tmp_path), shards_of(videos), Placing(0), progress=True)
    told = capsys.readouterr().err
    assert "6/6" in told and "clip/s" in told and "<00:00" in told


def test_the_footer_of_a_shard_tells_what_came_of_it(uninterrupted) -> None:
    for path in uninterrupted.glob("*.parquet"):
        told = json.loads(shard_metadata(path)["data_builders"])
        assert told == {"clips": 1, "rows": 2, "failures": [], "dropped": {}}


def test_an_interrupted_curation_goes_on(videos, tmp_path) -> None:
    config, paths = CURATIONS["shots"], [*sorted(videos.glob("*.mkv")), videos / "broken.mp4"]
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    whole = curated(paths, config, tmp_path / "whole", Placing(0))
    curated(paths[:3], config, tmp_path / "resumed", Placing(0))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "resumed").iterdir()}
    assert curated(paths, config, tmp_path / "resumed", Placing(0)) == whole
    assert len(before) == 3 and all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert len(whole.clips) == 6 and [failure.path for failure in whole.failures] == [str(videos / "broken.mp4")]


def test_clips_of_a_separate_curation(videos, uninterrupted, tmp_path) -> None:
    thresholds = ["--size", "own", "--min-frames", "2", "--min-motion", "0", "--num-frames", "400"]
    assert main(["clips", "--videos", str(videos), "--output", str(tmp_path / "clips"), *thresholds]) == 0
    shared = ["--output", str(tmp_path / "data"), "--clips-per-shard", "1", "--workers", "0"]
    assert main(["inpaint", "--clips", str(tmp_path / "clips"), *shared]) == 0
    assert rows(tmp_path / "data") == rows(uninterrupted)


def test_interrupted_clips_go_on_and_another_threshold_begins_anew(videos, tmp_path, monkeypatch) -> None:
    """The command for a curation of one's own is as any build: what was found is not looked for again."""
    shared = ["--videos", str(videos), "--size", "own", "--min-frames", "2", "--num-frames", "400", "--workers", "0"]
    assert main(["clips", *shared, "--min-motion", "0", "--output", str(tmp_path / "whole")]) == 0
    seen, ended = [], tmp_path / "ended"
    look = Curator.__call__

    def stopping(curator: Curator, path: Path):
        seen.append(path.name)
        if len(seen) == 4:
            raise ValueError("the machine is shut down")
        return look(curator, path)

    monkeypatch.setattr(Curator, "__call__", stopping)
    assert main(["clips", *shared, "--min-motion", "0", "--output", str(ended)]) == 2
    assert main(["clips", *shared, "--min-motion", "0", "--output", str(ended)]) == 0
    assert len(seen) in (8, 9)  # each of the 7 once, the one that ended it, and maybe the next, which Daft had begun
    assert files(ended) == files(tmp_path / "whole")
    seen.clear()
    assert main(["clips", *shared, "--min-motion", "0", "--overwrite", "--output", str(ended)]) == 2
    assert main(["clips", *shared, "--min-motion", "1", "--overwrite", "--output", str(ended)]) == 0
    assert len(seen) in (4 + 7, 5 + 7)


def test_a_video_that_ends_the_process_does_not_end_the_clips(videos, tmp_path, workers_know_tests) -> None:
    (tmp_path / "in").mkdir()
    for name in ("video-0.mkv", "video-1.mkv"):
        shutil.copy(videos / name, tmp_path / "in" / name)
    words = ["--size", "own", "--min-frames", "2", "--min-motion", "0", "--videos", str(tmp_path / "in")]
    (tmp_path / "sitecustomize.py").write_text(_DEADLY)
    command = [sys.executable, "-m", "data_builders", "clips", *words, "--output", str(tmp_path / "out")]
    told = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True)
    assert done.returncode == 0 and "video-0.mkv: the process that examined it died twice" in done.stdout, done.stderr
    kept = [json.loads(line)["path"] for line in (tmp_path / "out" / "clips.jsonl").read_text().splitlines()]
    assert kept == [str(tmp_path / "in" / "video-1.mkv")]


# Run at the start of the program and of its workers: reading one of the files is a fault, as in a decoder.
_DEADLY = """
import os, signal
from data_builders.clips import curate
look = curate.measure
def measure(path, *rest):
    if "video-0" in str(path):
        os.kill(os.getpid(), signal.SIGSEGV)
    return look(path, *rest)
curate.measure = measure
"""


def test_singles_are_in_order(videos) -> None:
    (clip, *_) = whole_clips(sorted(videos.glob("*.mkv"))).clips
    from data_builders.shards import read_clip

    footage = read_clip(job(Path("unused")), clip)
    times = [view.times[0] for view in singles(footage, INPAINT.options(views=3))]
    assert times == sorted(set(times)) and len(times) == 3


RAY = """
import json, subprocess, sys, ray
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80_000_000, _temp_dir=sys.argv[1])
place = ["--workers", "2", "--ray-address", ray.get_runtime_context().gcs_address]
for words in json.loads(sys.argv[2]):
    subprocess.run([sys.executable, "-m", "data_builders", *words, *place], check=True)
"""


def test_two_ray_workers_give_the_same_clips_and_rows(videos, uninterrupted, tmp_path) -> None:
    pytest.importorskip("ray", reason="needs ray (the extra of that name)")
    clips, output = str(tmp_path / "clips"), tmp_path / "data"
    thresholds = ["--size", "own", "--min-frames", "2", "--min-motion", "0", "--num-frames", "400"]
    find = ["clips", "--videos", str(videos), "--output", clips, *thresholds]
    make = ["inpaint", "--clips", clips, "--output", str(output), "--clips-per-shard", "1"]
    scratch = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's sockets lie there, whose paths must be short
    environment = ENVIRONMENT | {"RAY_worker_niceness": "0"}  # or they starve on a machine that is busy
    command = [sys.executable, "-c", RAY, scratch, json.dumps([find, make])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    shutil.rmtree(scratch, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows(output) == rows(uninterrupted)
    assert "InMemoryScan" not in done.stdout + done.stderr, "Daft's own bars, from the cluster, stand among ours"


@pytest.mark.parametrize("builder", ["inpaint", "clips"])
def test_a_cluster_that_is_not_there_is_told(videos, tmp_path, capsys, builder) -> None:
    pytest.importorskip("ray", reason="needs ray (the extra of that name)")
    words = [builder, "--videos", str(videos), "--output", str(tmp_path / "data"), "--ray-address", "nowhere"]
    assert main(words) == 2
    assert "error: no Ray cluster answers at 'nowhere'" in capsys.readouterr().err


def test_a_cluster_without_ray_is_told(videos, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(arguments(videos, tmp_path / "data", "--ray-address", "auto", workers=1)) == 2
    assert "pip install 'unireal[ray]'" in capsys.readouterr().err
