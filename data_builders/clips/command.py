"""python -m data_builders clips: raw videos to DIR/clips.jsonl, one clip a line, and DIR/report.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from data_builders.clips.clip import Clip, find_videos
from data_builders.clips.config import CurationConfig
from data_builders.engine import Placing, add_placing
from data_builders.files import only_run, write_text

CLIPS, REPORT = "clips.jsonl", "report.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", metavar="PATH", nargs="+", required=True, help="files, or folders with videos")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help=f"gets {CLIPS} and {REPORT}")
    parser.add_argument("--overwrite", action="store_true", help="replace the files in DIR")
    kinds: dict[str, Callable[[str], Any]] = {"size": _size_or_own, "int": int, "float": float, "float | None": float}
    for option in fields(CurationConfig):
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            type=kinds.get(option.name) or kinds.get(str(option.type), str),
            default=option.default,
            metavar=option.metadata["metavar"],
            help=option.metadata["help"] + _default(option.default),
        )
    add_placing(parser, "models")


def run(options: argparse.Namespace) -> None:
    """Raises ValueError for bad input and OSError if the folder cannot be written."""
    from data_builders.clips.curate import curate
    from data_builders.clips.examine import examine_all, forget_examined

    placing = Placing(options.workers, options.gpus, options.ray_address)
    config = CurationConfig(**{option.name: getattr(options, option.name) for option in fields(CurationConfig)})
    folder: Path = options.output
    if not find_videos(options.videos):
        raise ValueError(f"no videos in {', '.join(options.videos)}; give files, or folders that hold some")
    with only_run(folder):  # if there cannot be such a folder, it is told now and not after hours
        taken = [name for name in (CLIPS, REPORT) if (folder / name).exists()]
        if taken and not options.overwrite:
            raise ValueError(f"{str(folder)!r} holds {' and '.join(taken)}; give another folder, or --overwrite")
        examine_them = partial(examine_all, folder=folder, placing=placing, settings=config.to_dict())
        clips, report = curate(options.videos, config, map_videos=examine_them)
        write_text(folder / CLIPS, "".join(json.dumps(clip.to_dict()) + "\n" for clip in clips))
        write_text(folder / REPORT, json.dumps(report.to_dict(), indent=1) + "\n")
        forget_examined(folder)
    print(f"{folder / CLIPS}: {len(clips)} clips\n{report.describe()}")
    if all(video.video is None for video in report.videos):
        first = report.videos[0]
        raise ValueError(f"no video can be read; the first of {len(report.videos)}: {first.path} {first.error}")


def read_clips(path: str | Path) -> list[Clip]:
    """The clips of a clips.jsonl, or of the folder that holds one.

    Raises ValueError that names the wrong line, or if there is none.
    """
    path = Path(path, CLIPS) if Path(path).is_dir() else Path(path)
    clips = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); make it with python -m data_builders clips") from error
    for number, line in enumerate(lines, 1):
        try:
            clips.append(Clip.from_dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number} is no clip ({error})") from error
    if not clips:
        raise ValueError(f"{path} holds no clips; its {REPORT} tells why, if python -m data_builders clips made it")
    return clips


def _default(value: Any) -> str:
    """As help tells it; of options without a value the words do."""
    shown = f"{value[1]}x{value[0]}" if isinstance(value, tuple) else value
    return "" if value is None else f" (default: {shown})"


def _size_or_own(text: str) -> tuple[int, int] | None:
    """The (height, width) of "WxH", None for "own". Raises argparse.ArgumentTypeError."""
    width, _, height = text.lower().partition("x")
    if text == "own":
        return None
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT in pixels, such as 1280x720, or 'own', got {text!r}")
    return int(height), int(width)
