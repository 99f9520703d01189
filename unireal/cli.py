"""The command line of infer.py. Bad input ends it with status 2 and one line on stderr."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import NoReturn

from unireal.tasks import CONTROL_KINDS, TASKS, get_task

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: ([^\s=]+)", message)
        close = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1) if unknown else []
        hint = f"; did you mean {close[0]}?" if close else "; see infer.py --help"
        self.exit(2, f"infer.py: {' '.join(message.split())}{hint}\n")


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

    from unireal.acceleration import accelerations
    from unireal.diffusion.guidance import Guidance
    from unireal.pipeline import UniRealPipeline
    from unireal.request import Request
    from unireal.transforms import load_image

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
    Guidance(*(1.0 if scale is None else scale for scale in (options.guidance, options.image_guidance)))
    plugins, device = accelerations(options.accelerate), _device(options.device)
    _quiet()
    pipeline = UniRealPipeline.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    if options.lora is not None:
        pipeline.load_lora_weights(options.lora)
    pipeline.to(device)
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
        accelerate=plugins,
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
    parser.add_argument(
        "--canvas", "--image", nargs="+", action="extend", default=[], metavar="PATH", help="picture to edit"
    )
    parser.add_argument("--asset", nargs="+", action="extend", default=[], metavar="PATH", help="reference object")
    parser.add_argument("--control", nargs="+", action="extend", default=[], type=_control, metavar="KIND=PATH",
                        help=f"control picture; kinds: {', '.join(CONTROL_KINDS)}")  # fmt: skip
    parser.add_argument("--mask", metavar="PATH", help="white where to change")
    parser.add_argument("--expand", type=_borders, metavar="L,T,R,B", help="pixels to add on each side")
    parser.add_argument("--output", metavar="PATH", help="picture to write; several get _1, _2 before the suffix")
    parser.add_argument("--model", default="unireal-tiny", help="unireal-tiny, a folder, or a hub id")
    parser.add_argument("--lora", metavar="DIR", help="adapter to put on the model")
    parser.add_argument("--accelerate", type=lambda text: text.split(","), default=[], metavar="NAME,NAME",
                        help="condition_cache, spotedit, teacache, taylorseer; also spotedit:tau=0.3")  # fmt: skip
    parser.add_argument("--steps", type=_count, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="text guidance, 1 is none (default: the model's)")
    parser.add_argument("--image-guidance", type=float, help="image guidance, 1 is none (default: the model's)")
    parser.add_argument("--seed", type=_seed, default=0, help="another seed, another result")
    parser.add_argument("--size", type=_size, metavar="WxH", help="size of the results (default: the canvas's)")
    parser.add_argument("--context", help="context prompt (default: the task's)")
    parser.add_argument("--num-results", type=_count, metavar="N", help="how many results")
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


def _check_output(output: Path | None) -> Path:
    if output is None:
        raise ValueError("no output given; add --output PATH")
    if output.suffix.lower() not in PICTURES:
        raise ValueError(f"output {str(output)!r} must end in one of {', '.join(PICTURES)}")
    if output.is_dir():
        raise ValueError(f"output {str(output)!r} is a folder; give the path of a picture")
    existing = next(folder for folder in output.absolute().parents if folder.exists())  # the rest is made when saving
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
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


def _quiet() -> None:
    """The libraries keep their warnings and the progress of loading to themselves."""
    import diffusers
    import transformers

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _save(images: list, output: Path) -> list[str]:
    """Writes all pictures under temporary names first, so that a failure leaves nothing behind. Raises OSError."""
    paths = [output.with_name(f"{output.stem}_{i + 1}{output.suffix}") for i in range(len(images))]
    paths = paths if len(images) > 1 else [output]
    temporary = [path.with_name(f".{path.stem}.tmp{os.getpid()}{path.suffix}") for path in paths]
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        for image, path in zip(images, temporary, strict=True):
            image.save(path)
        for source, path in zip(temporary, paths, strict=True):
            os.replace(source, path)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    return [str(path) for path in paths]
