"""Builds training data: python -m data_builders BUILDER --output DIR ...; python -m data_builders list"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from data_builders.builders.base import VideoBuilder
from data_builders.builders.registry import VIDEO_BUILDERS
from data_builders.names import look_up

INTERRUPTED, UNREAD = 130, 141  # as shells have them for SIGINT, and for SIGPIPE


@dataclass(frozen=True)
class Builder:
    """One data set family.

    add_arguments: declares what the builder takes; run: builds, and raises ValueError or OSError for bad input.
    """

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """Tells a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input, 130 interrupted. Raises BrokenPipeError if nobody reads on."""
    parser = Parser(
        prog="python -m data_builders",
        description="Builds training data: Parquet shards of samples.",
        epilog=f"builders: {', '.join(BUILDERS)}; 'list' tells about them; BUILDER --help tells what one takes",
    )
    parser.add_argument("builder", metavar="BUILDER", help="what to build, or 'list'")
    words = sys.argv[1:] if arguments is None else arguments
    name = parser.parse_args(words[:1]).builder
    try:
        if name == "list":
            for key, builder in BUILDERS.items():
                print(f"{key:13} {builder.summary}")
            return 0
        builder = get_builder(name)
        options = Parser(prog=f"python -m data_builders {name}", description=builder.summary)
        builder.add_arguments(options)
        builder.run(options.parse_args(words[1:]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"error: cannot write ({what}); give another --output", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it stopped" if name in ("clips", *VIDEO_BUILDERS) else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return INTERRUPTED
    return 0


def get_builder(name: str) -> Builder:
    """The builder of that name. Raises ValueError with the nearest name for an unknown one."""
    return look_up(BUILDERS, name, "builder", "list")


def parse_size(text: str) -> tuple[int, int]:
    """The (height, width) of "WxH". Raises argparse.ArgumentTypeError."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT in pixels, such as 64x48, got {text!r}")
    return int(height), int(width)


def prepare_output(folder: Path, overwrite: bool, *patterns: str) -> None:
    """Makes the folder, and with `overwrite` removes files of these patterns from it, which an earlier run wrote.

    Raises ValueError if it is not a folder, or not empty without `overwrite`, and OSError if it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {str(folder)!r} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(
            f"--output {str(folder)!r} is not empty; give another folder, or --overwrite to replace its data"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def _world_arguments(parser: argparse.ArgumentParser) -> None:
    from data_builders.world.recipes import RECIPES

    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the Parquet shards")
    parser.add_argument("--num", metavar="N", type=int, required=True, help="how many records")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="another seed, other records (default: 0)")
    parser.add_argument("--size", metavar="WxH", type=parse_size, default=(64, 64), help="of pictures (default: 64x64)")
    parser.add_argument(
        "--photo-share", metavar="P", type=float, default=0.0, help="how many backgrounds are photographs, 0..1"
    )
    parser.add_argument(
        "--recipes", metavar="A,B", help=f"which recipes, by their weights (default: all): {', '.join(RECIPES)}"
    )
    parser.add_argument("--videos", metavar="K", type=int, default=0, help="also write K videos into DIR/videos")
    parser.add_argument("--overwrite", action="store_true", help="replace the data in DIR")


def _build_world(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from data_builders.world.export import SUFFIXES, world_videos, write_video
    from data_builders.world.recipes import get_recipe
    from data_builders.world.stream import WorldStream
    from unireal.data.records import write_shards

    if min(options.num, options.videos, options.seed) < 0:
        raise ValueError("--num, --videos and --seed are whole numbers from 0; give none below")
    if options.num + options.videos == 0:
        raise ValueError("nothing to build; give --num N or --videos K above 0")
    recipes = tuple(get_recipe(name.strip()).name for name in options.recipes.split(",")) if options.recipes else None
    stream = WorldStream(options.seed, recipes, (options.size,), options.photo_share)
    stream[0]  # a size or share that does not work is told before anything is removed
    prepare_output(options.output, options.overwrite, "part-*.parquet", *(f"videos/world-*{s}" for s in SUFFIXES))
    numbers = tqdm(range(options.num), unit="record", disable=None)  # None: only on a terminal
    shards = write_shards((stream[number] for number in numbers), options.output)
    videos = world_videos(options.seed, options.videos, options.size, options.photo_share)
    for number, video in enumerate(tqdm(videos, total=options.videos, unit="video", disable=None)):
        write_video(video, options.output / "videos", f"world-{number:05d}")
    print(f"{options.output}: {options.num} records in {len(shards)} shards, {options.videos} videos")


def _video_arguments(parser: argparse.ArgumentParser, builder: VideoBuilder) -> None:
    from data_builders.builders import command

    command.add_arguments(builder, parser)


def _build_videos(options: argparse.Namespace, builder: VideoBuilder) -> None:
    from data_builders.builders import command

    command.run(builder, options)


def _from_videos(builder: VideoBuilder) -> Builder:
    return Builder(builder.summary, partial(_video_arguments, builder=builder), partial(_build_videos, builder=builder))


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    from data_builders.public_sets import command

    command.add_arguments(parser)


def _import(options: argparse.Namespace) -> None:
    from data_builders.public_sets import command

    command.run(options, prepare_output)


def _clips_arguments(parser: argparse.ArgumentParser) -> None:
    from data_builders.clips import command

    command.add_arguments(parser)


def _curate_clips(options: argparse.Namespace) -> None:
    from data_builders.clips import command

    command.run(options)


def _preview_arguments(parser: argparse.ArgumentParser) -> None:
    from data_builders import preview

    preview.add_arguments(parser)


def _preview(options: argparse.Namespace) -> None:
    from data_builders import preview

    preview.run(options)


BUILDERS: dict[str, Builder] = {
    "world": Builder(
        "rooms with coloured shapes, drawn with exact truth, for every task", _world_arguments, _build_world
    ),
    "clips": Builder("the clips of raw videos that are worth training on", _clips_arguments, _curate_clips),
    "import": Builder("public data sets on disk: MagicBrush, RefCOCO, Ditto-1M, ...", _import_arguments, _import),
    **{name: _from_videos(builder) for name, builder in VIDEO_BUILDERS.items()},
    "preview": Builder("a page with thumbnails of the records in a folder", _preview_arguments, _preview),
}


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text, and are shown all the same
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    words, sys.argv[1:] = sys.argv[1:], []  # Daft takes a note of them, and stumbles over such names
    try:
        status = main(words)
        sys.stdout.flush()
    except BrokenPipeError:
        status = UNREAD
    os._exit(status)  # Daft's threads are still at work; now and then, an orderly exit would make them abort
