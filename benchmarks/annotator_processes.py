"""What it costs to give each annotator a process of its own: python benchmarks/annotator_processes.py

A builder's annotators see the same frames. In one worker they share them; as UDFs of their own, Daft carries frames and
masks from process to process. Measured is one clip's way through a decoder and K annotators that do next to nothing,
in one process and in a process for each: CPU seconds of all processes together, which other load on the machine hardly
changes, and the peak memory of Daft's own process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource

import numpy as np

os.environ |= {"DAFT_ANALYTICS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}
import daft

BYTES = daft.DataType.binary()


class Decoder:
    def __init__(self, shape: tuple[int, ...]):
        self.frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    @daft.method(return_dtype=BYTES)
    def frames_of(self, clip: int) -> bytes:
        return self.frames.tobytes()


class Annotator:
    @daft.method(return_dtype=BYTES)
    def passing_on(self, frames: bytes) -> bytes:
        """The frames, for the next one, after a look."""
        return frames if look(np.frombuffer(frames, np.uint8)) >= 0 else b""


class OneWorker:
    def __init__(self, shape: tuple[int, ...], annotators: int):
        self.decoder, self.annotators = Decoder(shape), annotators

    @daft.method(return_dtype=BYTES)
    def done(self, clip: int) -> bytes:
        for _ in range(self.annotators):
            look(self.decoder.frames)
        return b"done"


def look(frames: np.ndarray) -> float:
    return float(frames.reshape(-1)[::1000].mean())


def run(apart: bool, clips: int, shape: tuple[int, ...], annotators: int) -> float:
    """CPU seconds, the start of the processes among them."""
    own = {"use_process": True, "max_concurrency": 1}
    column = daft.col("clip")
    if apart:
        column = daft.cls(Decoder, **own)(shape).frames_of(column)
        for _ in range(annotators):
            column = daft.cls(Annotator, **own)().passing_on(column)
    else:
        column = daft.cls(OneWorker, **own)(shape, annotators).done(column)
    table = daft.from_pydict({"clip": list(range(clips))}).into_batches(1).select(column.alias("out"))
    before = cpu_seconds()
    for _ in table.iter_rows(results_buffer_size=1):
        pass
    return cpu_seconds() - before


def cpu_seconds() -> float:
    """Of this process and of those that it began and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(720, 1280), metavar=("H", "W"))
    parser.add_argument("--annotators", type=int, default=3)
    parser.add_argument("--clips", type=int, default=4)
    options = parser.parse_args()
    shape = (options.frames, *options.size, 3)
    found = {"MB a clip": round(np.prod(shape) / 1e6, 1), "annotators": options.annotators, "clips": options.clips}
    for name, apart in {"one process": False, "a process each": True}.items():
        few, many = (run(apart, clips, shape, options.annotators) for clips in (1, 1 + options.clips))
        found[f"{name}: CPU s a clip"] = round((many - few) / options.clips, 4)
        found[f"{name}: MB of Daft's process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    print(json.dumps(found))


if __name__ == "__main__":
    main()
