"""The command line of infer.py. Bad input ends it with status 2 and one line on stderr."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from unireal.tasks import CONTROL_KINDS, TASKS, get_task

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0] if "unrecognized" in message else ""
        close = difflib.get_close_matches(unknown.split("=")[0], self._option_string_actions, n=1)
        hint = f"; did you mean {close[0]}?" if close else "; see infer.py --help"
        self.exit(2, f"infer.py: {message}{hint}\n")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    options = _parser().parse_args(arguments)
    if options.list_tasks:
        print(json.dumps(task_table()) if options.json else _listing())
        return 0
    try:
        report = run(options)
    except (ValueError, OSError) as error:
        print(f"infer.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps(report) if options.json else "\n".join(report["files"]))
    return 0


def run(options: argparse.Namespace) -> dict:
    """Loads the model, runs the task and writes the results. Raises ValueError or OSError for bad input."""
    if options.task is None:
        raise ValueError(f"no task given; choose from: {', '.join(TASKS)}")
    get_task(options.task)
    output = _check_output(Path(options.output) if options.output else None)
    import torch  # the slow imports come after the cheap checks
    from diffusers.utils import logging

    from unireal.pipeline import UniRealPipeline
    from unireal.request import Request
    from unireal.transforms import load_image

    logging.set_verbosity_error()
    if options.json:
        logging.disable_progress_bar()
    request = {
        "canvas": [load_image(p, "canvas") for p in options.canvas],
        "asset": [load_image(p, "asset") for p in options.asset],
        "control": [(kind, load_image(p, f"{kind} control")) for kind, p in options.control],
        "mask": None if options.mask is None else load_image(options.mask, "mask"),
        "expand": options.expand,
        "size": options.size,
        "context": options.context,
        "num_results": options.num_results,
    }
    Request(task=options.task, prompt=options.prompt, **request).assemble((64, 64))  # before the model is loaded
    pipeline = UniRealPipeline.from_pretrained(options.model, torch_dtype=_dtype(options.dtype)).to(_device(options.device))
    pipeline.set_progress_bar_config(disable=options.json or not sys.stderr.isatty())
    started = time.perf_counter()
    out = pipeline(
        options.prompt,
        task=options.task,
        **request,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        image_guidance_scale=options.image_guidance,
        generator=torch.Generator().manual_seed(options.seed),
    )
    seconds = time.perf_counter() - started
    files = _save([image for frames in out.results for image in frames], output)
    steps = options.steps or pipeline.config.default_steps
    return {"files": files, "seconds": round(seconds, 3), "steps": steps, "model": str(options.model)}


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


def _listing() -> str:
    rows = [(t["task"], t["summary"], ", ".join(t["inputs"]) or "-") for t in task_table()]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="infer.py",
        description="Runs one task of UniReal on pictures.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="tasks and the pictures they take:\n" + _listing(),
        allow_abbrev=False,
    )
    parser.add_argument("task", nargs="?", metavar="TASK")
    parser.add_argument("--list-tasks", action="store_true", help="print the tasks and stop")
    parser.add_argument("--prompt", default="", help="what to do; may name inputs IMG1.. and results RES1..")
    parser.add_argument("--canvas", "--image", nargs="+", action="extend", default=[], metavar="PATH", help="picture to edit")
    parser.add_argument("--asset", nargs="+", action="extend", default=[], metavar="PATH", help="reference object")
    parser.add_argument("--control", nargs="+", action="extend", default=[], type=_control, metavar="KIND=PATH",
                        help=f"control picture; kinds: {', '.join(CONTROL_KINDS)}")  # fmt: skip
    parser.add_argument("--mask", metavar="PATH", help="white where to change")
    parser.add_argument("--expand", type=_borders, metavar="L,T,R,B", help="pixels to add on each side")
    parser.add_argument("--output", metavar="PATH", help="picture to write; several get _1, _2 before the suffix")
    parser.add_argument("--model", default="unireal-tiny", help="unireal-tiny, a folder, or a hub id")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="text guidance, 1 is none (default: the model's)")
    parser.add_argument("--image-guidance", type=float, help="image guidance, 1 is none (default: the model's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=_size, metavar="WxH", help="size of the results (default: the canvas's)")
    parser.add_argument("--context", help="context prompt (default: the task's)")
    parser.add_argument("--num-results", type=int, metavar="N")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: cuda if there is one)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--json", action="store_true", help="print one JSON line: files, seconds, steps, model")
    return parser


def _control(text: str) -> tuple[str, str]:
    kind, equals, path = text.partition("=")
    if not equals or kind not in CONTROL_KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=PATH with a KIND of {', '.join(CONTROL_KINDS)}")
    return kind, path


def _borders(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().lstrip("-").isdigit() for p in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not four numbers L,T,R,B of pixels")
    return tuple(int(p) for p in parts)


def _size(text: str) -> tuple[int, int]:
    width, x, height = text.lower().partition("x")
    if not x or not width.strip("-").isdigit() or not height.strip("-").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not WxH in pixels, for example 64x48")
    return int(height), int(width)


def _check_output(output: Path | None) -> Path:
    if output is None:
        raise ValueError("no output given; add --output PATH")
    if output.suffix.lower() not in PICTURES:
        raise ValueError(f"output {str(output)!r} must end in one of {', '.join(PICTURES)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"output folder {str(output.parent)!r} cannot be made ({error.strerror})") from error
    if not os.access(output.parent, os.W_OK):
        raise ValueError(f"output folder {str(output.parent)!r} is not writable; give another --output")
    return output


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]})") from error
    return name


def _dtype(name: str):
    import torch

    return getattr(torch, name)


def _save(images: list, output: Path) -> list[str]:
    """Writes every picture under a temporary name first, so that none is ever half there."""
    paths = [output.with_name(f"{output.stem}_{i + 1}{output.suffix}") for i in range(len(images))]
    paths = paths if len(images) > 1 else [output]
    for image, path in zip(images, paths, strict=True):
        temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
        image.save(temporary)
        os.replace(temporary, path)
    return [str(p) for p in paths]
