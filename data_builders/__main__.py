"""Builds training data: python -m data_builders BUILDER --output DIR ...; python -m data_builders list"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

from data_builders.builders.base import VideoBuilder
from data_builders.builders.registry import VIDEO_BUILDERS
from data_builders.names import look_up

INTERRUPTED, UNREAD = 130, 141  # as shells have them for SIGINT, and for SIGPIPE


@dataclass(frozen=True)
class Builder:
    """One data set family.

    module: is imported when the command is called. Its add_arguments(parser) declares what the builder takes, its
    run(options) builds, and raises ValueError or OSError for bad input; both are given `video` first, if it is one of
    the builders that make samples of clips.
    """

    summary: str
    module: str
    video: VideoBuilder | None = None

    def call(self, function: str, argument: Any) -> None:
        given = () if self.video is None else (self.video,)
        getattr(importlib.import_module(self.module), function)(*given, argument)


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
        builder.call("add_arguments", options)
        builder.call("run", options.parse_args(words[1:]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install 'unireal[data]'", file=sys.stderr)
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


BUILDERS: dict[str, Builder] = {
    "world": Builder(
        "rooms with coloured shapes, drawn with exact truth, for every task", "data_builders.world.command"
    ),
    "clips": Builder("the clips of raw videos that are worth training on", "data_builders.clips.command"),
    "import": Builder(
        "public data sets on disk: MagicBrush, RefCOCO, Ditto-1M, ...", "data_builders.public_sets.command"
    ),
    **{
        name: Builder(builder.summary, "data_builders.builders.command", builder)
        for name, builder in VIDEO_BUILDERS.items()
    },
    "preview": Builder("a page with thumbnails of the records in a folder", "data_builders.preview"),
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
