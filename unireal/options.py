"""What infer.py can be asked for: its arguments and the listing of the tasks."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import NoReturn

from unireal.conditions import add_condition_options
from unireal.jobs import add_jobs_option
from unireal.metadata import add_metadata_options
from unireal.plugins import add_plugin_argument
from unireal.tasks import CONTROL_KINDS, TASKS
from unireal.video.command import add_video_options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: ([^\s=]+)", message)
        close = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1) if unknown else []
        hint = f"; did you mean {close[0]}?" if close else "; see infer.py --help"
        self.exit(2, f"infer.py: {' '.join(message.split())}{hint}\n")


def task_table() -> list[dict]:
    """The tasks as plain values, for tools."""
    return [
        {
            "task": spec.name,
            "summary": spec.summary,
            "inputs": [str(slot) + (" (optional)" if slot.optional else "") for slot in spec.slots]
            + (["--expand"] if spec.prepare == "expand" else []),
            "context": spec.context,
            "example": spec.example or spec.default_prompt,
        }
        for spec in TASKS.values()
    ]


def listing() -> str:
    rows = [(t["task"], t["summary"], ", ".join(t["inputs"]) or "-") for t in task_table()]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows)


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="infer.py",
        description="Runs one task of UniReal on pictures or a video.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="tasks and the pictures they take:\n" + listing(),
        allow_abbrev=False,
    )
    parser.add_argument("task", nargs="?", metavar="TASK")
    parser.add_argument("--list-tasks", action="store_true", help="print the tasks and stop")
    parser.add_argument(
        "--prompt", default="", metavar="TEXT", help="what to do; may name inputs IMG1.. and results RES1.."
    )
    parser.add_argument(
        "--canvas", "--image", nargs="+", action="extend", default=[], metavar="PATH", help="picture to edit"
    )
    parser.add_argument("--asset", nargs="+", action="extend", default=[], metavar="PATH", help="reference object")
    parser.add_argument("--control", nargs="+", action="extend", default=[], type=_control, metavar="KIND=PATH",
                        help=f"control picture; kinds: {', '.join(CONTROL_KINDS)}")  # fmt: skip
    parser.add_argument("--mask", metavar="PATH", help="white where to change")
    add_condition_options(parser)
    add_video_options(parser)
    add_metadata_options(parser)
    add_jobs_option(parser)
    parser.add_argument("--expand", type=_borders, metavar="L,T,R,B", help="pixels to add on each side")
    parser.add_argument(
        "--output", metavar="PATH", help="picture or video to write; several pictures get _1, _2 before the suffix"
    )
    parser.add_argument(
        "--model",
        default="unireal-tiny",
        metavar="M",
        help="unireal-tiny, a folder or a hub id, also of FLUX.1-Kontext or Qwen-Image-Edit",
    )
    parser.add_argument("--lora", metavar="DIR", help="adapter to put on the model")
    add_plugin_argument(parser)
    parser.add_argument("--accelerate", type=lambda text: text.split(","), default=[], metavar="NAME,NAME",
                        help="condition_cache, spotedit, teacache, taylorseer; also spotedit:tau=0.3")  # fmt: skip
    parser.add_argument("--spot-mask", metavar="PATH", help="picture to write, white where spotedit computed")
    parser.add_argument("--steps", type=_count, metavar="N", help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, metavar="G", help="text guidance, 1 is none (default: the model's)")
    parser.add_argument(
        "--image-guidance", type=float, metavar="G", help="image guidance, 1 is none (default: the model's)"
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="S", help="another seed, another result (0)")
    parser.add_argument("--size", type=_size, metavar="WxH", help="size of the results (default: the canvas's)")
    parser.add_argument("--context", metavar="TEXT", help="context prompt (default: the task's)")
    parser.add_argument(
        "--num-results", type=_count, metavar="N", help="how many results; of a video: frames at a time"
    )
    parser.add_argument(
        "--device", default="auto", metavar="D", help="cpu, cuda, cuda:1, mps (default: cuda if there is one)"
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--json", action="store_true", help="print a JSON line: files, seconds, steps, model, warnings")
    return parser


def _control(text: str) -> tuple[str, str]:
    kind, equals, path = text.partition("=")
    if not equals or kind not in CONTROL_KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=PATH with a KIND of {', '.join(CONTROL_KINDS)}")
    return kind, path


def _borders(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"(-?[0-9]{1,9},){3}-?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not four numbers L,T,R,B of pixels, for example 0,0,32,0")
    return tuple(int(part) for part in text.split(","))


def _count(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 to {10**18 - 1}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"-?[0-9]{1,9}[xX]-?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not WxH in pixels, for example 64x48")
    width, height = text.lower().split("x")
    return int(height), int(width)
