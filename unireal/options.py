"""What infer.py can be asked for: its arguments and the listing of the tasks."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from unireal.arguments import Parser, failed, size
from unireal.conditions import add_condition_options
from unireal.jobs import add_jobs_option
from unireal.metadata import add_metadata_options
from unireal.plugins import add_plugin_argument
from unireal.sample import Role
from unireal.tasks import CONTROL_KINDS, TASKS, Slot, TaskSpec, get_task
from unireal.video.command import add_video_options

# What other programs call it
_ELSEWHERE = {
    "--cfg": "--guidance",
    "--cfg-scale": "--guidance",
    "--fp16": "--dtype float16",
    "--bf16": "--dtype bfloat16",
    "--height": "--size WxH",
    "--width": "--size WxH",
    "--input": "--canvas",
    "--mask-image": "--mask",
    "--num-images": "--num-results",
    "--num-images-per-prompt": "--num-results",
    "--num-inference-steps": "--steps",
    "--reference": "--asset",
    "--text": "--prompt",
    "-o": "--output",
}


class _Parser(Parser):
    start = "infer.py"

    def hint(self, message: str) -> str:
        unknown = re.match(r"unrecognized arguments: ([^\s=]+)", message)
        if unknown and (meant := _meant(unknown[1], self._option_string_actions)):
            return f"; did you mean {meant}?"
        if unknown and not unknown[1].startswith("-"):
            return "; TASK comes first, and what is not a task follows an option, such as --canvas PATH"
        if missing := re.match(r"argument ([^\s/:]+).*expected (one|at least one) argument", message):
            return f"; give it, as {missing[1]}=VALUE if it starts with a minus"
        return super().hint(message)


def _meant(option: str, known: Iterable[str]) -> str | None:
    """The option that is likely meant by an unknown one."""
    option = option.replace("_", "-")
    names = {name.lstrip("-"): name for name in known}  # dashes would make all alike
    close = difflib.get_close_matches(option.lstrip("-").lower(), names, n=1)
    return _ELSEWHERE.get(option) or (names[close[0]] if close and option.startswith("-") else None)


class _Help(argparse.Action):
    """Of all options, or after a task of those that it takes."""

    def __init__(self, **options: Any):
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        if getattr(namespace, "task", None) is not None:
            try:
                _narrow(parser, get_task(namespace.task))
            except ValueError as error:
                parser.exit(failed(error, start="infer.py"))
        parser.print_help()
        parser.exit()


def task_table() -> list[dict]:
    """The tasks as plain values, for tools."""
    return [
        {
            "task": spec.name,
            "summary": spec.summary,
            "inputs": _inputs(spec),
            "context": spec.context,
            "example": spec.example or spec.default_prompt,
        }
        for spec in TASKS.values()
    ]


def _inputs(spec: TaskSpec) -> list[str]:
    """What a task takes, as words."""
    slots = [str(slot) + (" (optional)" if slot.optional else "") for slot in spec.slots]
    return slots + (["--expand"] if spec.prepare == "expand" else [])


def listing() -> str:
    rows = [(t["task"], t["summary"], ", ".join(t["inputs"]) or "-") for t in task_table()]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows)


def make_parser() -> argparse.ArgumentParser:
    """All options of infer.py, in the groups that its help shows."""
    width = max(map(len, TASKS))
    parser = _Parser(
        prog="infer.py",
        usage="infer.py TASK [--prompt TEXT] [--canvas PATH] [option ...] --output PATH\n"
        "       infer.py TASK --help        what the task takes and gives, and an example\n"
        "       infer.py --list-tasks | --jobs FILE | --from-metadata FILE --output PATH",
        description="Runs one task of UniReal on pictures or a video.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="tasks:\n" + "\n".join(f"  {spec.name:{width}}  {spec.summary}" for spec in TASKS.values()),
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help=argparse.SUPPRESS)
    _add_main_options(parser.add_argument_group("the task"))
    _add_picture_options(parser.add_argument_group("pictures"))
    add_video_options(parser)
    add_condition_options(parser)
    _add_result_options(parser.add_argument_group("result"))
    _add_model_options(parser.add_argument_group("model and sampling"))
    add_metadata_options(parser)
    add_jobs_option(parser)
    return parser


def _add_main_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-h", "--help", action=_Help, help="show this, or after TASK what that takes")
    add("--list-tasks", action="store_true", help="print the tasks and the pictures they take; --json for tools")
    add("--prompt", default="", metavar="TEXT", help="what to do; may name inputs IMG1.. and results RES1..")
    add("--context", metavar="TEXT", help="context prompt, such as 'synthetic style' (default: the task's)")


def _add_picture_options(group: argparse._ArgumentGroup) -> None:
    add = partial(group.add_argument, metavar="PATH")
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    add("--canvas", "--image", **many, help="picture to edit; its layout stays")
    add("--asset", **many, help="reference object; its size and pose may change")
    add("--control", **many | {"type": _control, "metavar": "KIND=PATH"},
        help=f"picture to follow; kinds: {', '.join(CONTROL_KINDS)}")  # fmt: skip
    add("--mask", help="picture of the canvas's size, white where to change")
    add("--expand", type=_borders, metavar="L,T,R,B", help="pixels to add at left, top, right and bottom")


def _add_result_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--output", metavar="PATH", help="file to write; several pictures get _1, _2 before the suffix")
    add("--size", type=size, metavar="WxH", help="pixels, 1 to 2048 each (default: the canvas's, else the model's)")
    add("--num-results", type=_count, metavar="N", help="how many results (default: 1); of a video: frames at a time")
    add("--json", action="store_true", help="print a JSON line: files, seconds, steps, model, warnings")


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", default="unireal-tiny", metavar="M",
        help="%(default)s (default), a folder or a hub id, also of FLUX.1-Kontext or Qwen-Image-Edit")  # fmt: skip
    add("--lora", metavar="DIR", help="adapter to put on the model: unireal-tiny-128 or the folder lora/ of a run")
    add_plugin_argument(group)
    add("--seed", type=_seed, default=0, metavar="S", help="another seed, another result (default: %(default)s)")
    add("--steps", type=_count, metavar="N", help="denoising steps, at least 1 (default: the model's)")
    add("--guidance", type=float, metavar="G", help="text guidance, at least 0; 1 is none (default: the model's)")
    add("--image-guidance", type=float, metavar="G", help="the same of the pictures (default: the model's)")
    add("--negative-prompt", metavar="TEXT", help="what text guidance leads away from")
    add("--accelerate", type=_names, default=[], metavar="NAME,NAME",
        help="condition_cache, spotedit, teacache, taylorseer; with settings: spotedit:tau=0.3")  # fmt: skip
    add("--spot-mask", metavar="PATH", help="picture to write, white where spotedit computed")
    add("--device", default="auto", metavar="D", help="cpu, cuda, cuda:1, mps (default: cuda if there is one)")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="default: %(default)s")
    add("--offload", action="store_true", help="each part is on the GPU only while it works: less memory, slower")


def _narrow(parser: argparse.ArgumentParser, spec: TaskSpec) -> None:
    """The help becomes that of one task: what it takes and gives, and no option that it does not take."""
    taken = {slot.option for slot in spec.slots}
    unused = {"canvas", "asset", "control", "mask", "video"} - taken | {"list_tasks", "jobs", "from_metadata"}
    if spec.prepare != "expand":
        unused.add("expand")
    if "control" not in taken:
        unused |= {"layout", "drag"}
    unused |= {"spot_mask"} if spec.video else {"num_frames", "fps"}
    for action in parser._actions:
        if action.dest in unused:
            action.help = argparse.SUPPRESS
    parser.usage = f"infer.py {spec.name} [option ...] --output PATH"
    parser.description = f"{spec.summary[:1].upper()}{spec.summary[1:]}.\n\n{_described(spec)}"
    parser.epilog = f"example:\n  python infer.py {_example(spec)}"


def _described(spec: TaskSpec) -> str:
    least, most = spec.num_results
    result = "a video" if spec.video else "a picture" if most == 1 else f"{least} to {most} pictures made together"
    placed = [slot for slot in spec.slots if slot.role is not Role.ASSET and spec.size_rule == "canvas"]
    sizes = [f"the {placed[0].option}'s" + (" and the borders" if spec.prepare == "expand" else "")] if placed else []
    sizes += ["the model's"] if not placed or placed[0].optional else []
    rows = {
        "takes": ", ".join(_inputs(spec)) or "no pictures",
        "prompt": "needed" if spec.default_prompt is None else f"optional; without one: {spec.default_prompt}",
        "context": spec.context,
        "gives": result,
        "size": f"{', else '.join(sizes)}; --size sets another",
    }
    return "\n".join(f"{name + ':':9}{text}" for name, text in rows.items())


def _example(spec: TaskSpec) -> str:
    """A call with what the task needs at least, and what its example prompt speaks of."""
    needed = [slot for slot in spec.slots if not slot.optional] or list(spec.slots[:1] if spec.edit_types else ())
    words = [spec.name, *(f"--{slot.option} {_file(slot)}" for slot in needed)]
    words += ["--expand 0,0,32,0"] if spec.prepare == "expand" else []
    words += [f'--prompt "{spec.example}"'] if spec.example else []
    if numbers := re.findall(r"RES([0-9]+)", spec.example):
        words.append(f"--num-results {max(map(int, numbers))}")
    return " ".join([*words, f"--output result.{'mp4' if spec.video else 'png'}"])


def _file(slot: Slot) -> str:
    if slot.clip:
        return "video.mp4"
    return f"{slot.kinds[0]}={slot.kinds[0]}.png" if slot.option == "control" else f"{slot.option}.png"


def _names(text: str) -> list[str]:
    return [name.strip() for name in re.split(r",(?![^()]*\))", text)]  # numbers in brackets belong together


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
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1, of up to 9 digits")
    return int(text)


def _seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 to {10**18 - 1}")
    return int(text)
