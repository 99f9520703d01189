"""python -m data_builders world: records of the procedural world, and videos of it with their truth."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from data_builders.files import add_shards_folder, claimed
from data_builders.world.export import SUFFIXES, world_videos, write_video
from data_builders.world.recipes import RECIPES, get_recipe
from data_builders.world.stream import WorldStream
from unireal.data.records import write_shards


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shards_folder(parser)
    parser.add_argument("--num", metavar="N", type=int, required=True, help="how many records")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="another seed, other records (default: 0)")
    parser.add_argument("--size", metavar="WxH", type=_size, default=(64, 64), help="of pictures (default: 64x64)")
    parser.add_argument(
        "--photo-share", metavar="P", type=float, default=0.0, help="how many backgrounds are photographs, 0..1"
    )
    parser.add_argument(
        "--tint-share", metavar="P", type=float, default=0.0, help="how many unnamed things have any colour, 0..1"
    )
    parser.add_argument(
        "--recipes", metavar="A,B", help=f"which recipes, by their weights (default: all): {', '.join(RECIPES)}"
    )
    parser.add_argument("--videos", metavar="K", type=int, default=0, help="also write K videos into DIR/videos")
    parser.add_argument("--overwrite", action="store_true", help="replace the data in DIR")


def run(options: argparse.Namespace) -> None:
    """Raises ValueError for bad input and OSError if the folder cannot be written."""
    if min(options.num, options.videos, options.seed) < 0:
        raise ValueError("--num, --videos and --seed are whole numbers from 0; give none below")
    if options.num + options.videos == 0:
        raise ValueError("nothing to build; give --num N or --videos K above 0")
    recipes = tuple(get_recipe(name.strip()).name for name in options.recipes.split(",")) if options.recipes else None
    stream = WorldStream(options.seed, recipes, (options.size,), options.photo_share, options.tint_share)
    stream[0]  # a size or share that does not work is told before anything is removed
    before = ("part-*.parquet", *(f"videos/world-*{suffix}" for suffix in SUFFIXES))
    with claimed(options.output, options.overwrite, *before):
        numbers = tqdm(range(options.num), unit="record", disable=None)  # None: only on a terminal
        shards = write_shards((stream[number] for number in numbers), options.output)
        videos = world_videos(options.seed, options.videos, options.size, options.photo_share)
        for number, video in enumerate(tqdm(videos, total=options.videos, unit="video", disable=None)):
            write_video(video, options.output / "videos", f"world-{number:05d}")
    print(f"{options.output}: {options.num} records in {len(shards)} shards, {options.videos} videos")


def _size(text: str) -> tuple[int, int]:
    """The (height, width) of "WxH". Raises argparse.ArgumentTypeError."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT in pixels, such as 64x48, got {text!r}")
    return int(height), int(width)
