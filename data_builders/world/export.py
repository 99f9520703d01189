"""Videos of the world as files: what the builders for real videos are tried on, with the truth next to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_builders.files import replacing, write_text
from data_builders.world.stream import TEST_SEEDS
from data_builders.world.video import WorldVideo

FRAMES_PER_SECOND = 8
SUFFIXES = (".mkv", ".json", ".npz")


def world_videos(
    seed: int, count: int, size: tuple[int, int] = (64, 64), photo_share: float = 0.0
) -> Iterator[WorldVideo]:
    """The first `count` videos that follow from a seed; size: (height, width) in pixels."""
    for number in range(count):
        chosen = int(np.random.default_rng((seed, number)).integers(TEST_SEEDS))
        yield WorldVideo(chosen, size, photo_share=photo_share)


def write_video(video: WorldVideo, folder: Path, name: str) -> list[Path]:
    """Writes NAME.mkv (lossless), NAME.json and NAME.npz into the folder and returns these paths.

    json: caption, motion_caption, seed, size [H, W], frames_per_second, num_frames, things (facts of the first frame),
    motions (a verb per thing), tracks [T][K][x, y] in pixels of each thing's centre, visible or not.
    npz: masks bool (T, K, H, W), where each thing is visible; depth float32 (T, H, W), world units.
    A file gets its name when it is complete. Raises OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    annotations = {
        "caption": video.caption,
        "motion_caption": video.motion_caption,
        "seed": video.seed,
        "size": list(video.size),
        "frames_per_second": FRAMES_PER_SECOND,
        "num_frames": video.num_frames,
        "things": [thing.facts() for thing in video.scene.things],
        "motions": [motion.verb for motion in video.motions],
        "tracks": video.tracks.tolist(),
    }
    with replacing(paths[0]) as unfinished:
        _encode(video.frames, unfinished)
    write_text(paths[1], json.dumps(annotations, indent=1) + "\n")
    with replacing(paths[2]) as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(file, masks=video.masks, depth=video.depth)
    return paths


def _encode(frames: np.ndarray, path: Path) -> None:
    """uint8 (T, H, W, 3) RGB as FFV1, which keeps every value, in RGB since chroma subsampling would not."""
    import av

    # Without bitexact, Matroska writes random ids and the encoder's version, and the same video gives another file.
    with av.open(str(path), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=FRAMES_PER_SECOND)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
