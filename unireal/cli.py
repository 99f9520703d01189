"""The command line of infer.py. Bad input ends it with status 2 and one line on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Collection
from contextlib import AbstractContextManager, ExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import filterwarnings

from unireal.arguments import failed, memory_errors, placed, usable_device
from unireal.conditions import with_conditions
from unireal.files import check_writable, numbered, replacing
from unireal.jobs import run_jobs
from unireal.metadata import Recipe, check_metadata_output, png_infos, video_comment, with_metadata, with_numbers
from unireal.notices import collected, one_line
from unireal.options import listing, make_parser, task_table
from unireal.tasks import TASKS, TaskSpec, get_task
from unireal.video.command import open_source, save_video
from unireal.video.files import ENCODERS

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from unireal.public import PublicModel
    from unireal.request import Request

_log = logging.getLogger(__name__)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# How files of a kind are written; without, JPEG and WebP would blur even what an edit leaves alone
_JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}
_SAVING = {".jpg": _JPEG, ".jpeg": _JPEG, ".webp": {"lossless": True}}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = make_parser().parse_args(arguments)
    try:
        status = _answer(options, arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough, as of `infer.py --list-tasks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains when it ends
        return 141
    except (ValueError, OSError, ImportError) as error:
        return failed(error, start="infer.py")
    except KeyboardInterrupt:
        return failed("interrupted", 130, "infer.py")
    return status


def _answer(options: argparse.Namespace, arguments: list[str]) -> int:
    """Does what is asked for and prints what came of it. Raises ValueError or OSError for bad input."""
    if options.list_tasks:
        print(json.dumps(task_table()) if options.json else listing())
        return 0
    if options.jobs is not None:
        return _run_jobs(arguments, options.json)
    report = run(options if options.from_metadata is None else with_metadata(make_parser(), arguments))
    print(json.dumps(report) if options.json else "\n".join(report["files"]))
    return 0


def _run_jobs(arguments: list[str], as_json: bool) -> int:
    """Jobs that fail are told and left out. Raises ValueError for a file that holds no jobs."""
    status = 0
    for report in run_jobs(make_parser(), arguments, run, _written):
        if "error" in report:
            status = failed(f"line {report['line']}: {report['error']}", start="infer.py")
        if as_json:
            print(json.dumps(report), flush=True)
        elif "files" in report:
            print("\n".join(report["files"]), flush=True)
    return status


def _written(options: argparse.Namespace) -> list[str]:
    """The files that a call makes."""
    spec = TASKS.get(options.task)
    count = 1 if spec is None or spec.video else options.num_results or spec.num_results[0]
    if count > 1:
        from unireal.request import MAX_RESULTS  # which loads slowly

        count = min(count, MAX_RESULTS)
    masks = 1 if spec is None or spec.num_results[1] > 1 else count  # results that belong together share one
    files = ((options.output, count), (options.spot_mask, masks))
    return [str(path) for name, number in files if name is not None for path in numbered(Path(name), number)]


@memory_errors("try a smaller --size, --dtype bfloat16, --offload or --device cpu")
def run(options: argparse.Namespace) -> dict:
    """Loads the model, runs the task and writes the results. Raises ValueError or OSError for bad input."""
    if options.task is None:
        raise ValueError(f"no task given; name it before the options: {', '.join(TASKS)}")
    spec = get_task(options.task)
    output = _check_output(Path(options.output) if options.output else None, *_kinds(spec))
    if options.metadata:
        check_metadata_output(output)
    source = open_source(options, spec, output)
    from unireal.acceleration import accelerations  # the slow imports come after the cheap checks
    from unireal.diffusion.guidance import Guidance
    from unireal.request import Request
    from unireal.video.windows import first_window

    with _told() as warnings:
        prompt, request = with_conditions(options, _pictures(options))
    request |= {name: getattr(options, name) for name in ("expand", "size", "context", "num_results", "num_frames")}
    asked = Request(task=options.task, prompt=prompt, **request)
    sample, _ = first_window(asked, source).assemble((64, 64))  # before the model is loaded
    text, image = (1.0 if scale is None else scale for scale in (options.guidance, options.image_guidance))
    Guidance(text, image)
    plugins, device = accelerations(options.accelerate), usable_device(options.device, options.offload)
    spot_mask = _check_spot_mask(options, plugins, spec)
    _quiet()
    public = _public(options.model)
    if public is not None:
        scales = {name: getattr(options, name) for name in ("image_guidance", "negative_prompt")}
        public.check(options.task, request | scales, plugins)
    pipeline, loading = _load(options.model, options.lora, device, options.dtype, options.offload)
    pipeline.set_progress_bar_config(disable=options.json or not sys.stderr.isatty())
    recipe = _recipe(options, asked, plugins)
    how = recipe.sampling() | {"accelerate": plugins}
    started = time.perf_counter()
    with _told() as more:
        if options.image_guidance not in (None, 1.0) and not (sample.inputs or spec.video):
            _log.warning("--image-guidance %g does nothing, as no pictures are given", options.image_guidance)
        if spec.video:
            make = partial(pipeline.stream, prompt, options.task, output_type="np", **request, **how)
            comment = video_comment(recipe) if options.metadata else None
            count = save_video(make, output, source, options.fps, trim=options.num_frames is not None, comment=comment)
            if count < (options.num_frames or 0):
                _log.warning("%d frames were asked for, the video has only %d", options.num_frames, count)
            files, seconds = [str(output)], time.perf_counter() - started
        else:
            out = pipeline(prompt, task=options.task, **request, **how)
            seconds = time.perf_counter() - started
            images = _chosen([image for frames in out.results for image in frames], options.result)
            infos = [{"pnginfo": i} for i in png_infos(recipe, images)] if options.metadata else [{} for _ in images]
            files = _save(list(images.values()), output, infos)
            files += _save(list(_chosen(out.edited, options.result).values()), spot_mask) if spot_mask else []
    steps = options.steps or pipeline.config.default_steps
    warnings = warnings + loading + more
    told = {"seconds": round(seconds, 3), "steps": steps, "model": str(options.model), "warnings": warnings}
    return {"files": files} | told


def _told() -> AbstractContextManager[list[str]]:
    """What the block warns of, on stderr as it comes and in a list."""
    return collected(lambda notice: print(f"infer.py: warning: {notice}", file=sys.stderr))


def _chosen(images: list, number: int | None) -> dict[int, Any]:
    """Results by their numbers: all, or the one that was asked for. Raises ValueError if there is none such."""
    if number is not None and number >= len(images):
        raise ValueError(f"--from-metadata asks for result {number + 1} of {len(images)}; the file is damaged")
    return dict(enumerate(images)) if number is None else {number: images[number]}


def _recipe(options: argparse.Namespace, asked: Request, plugins: tuple) -> Recipe:
    """What decides the results of a call."""
    pairs = zip(options.accelerate, plugins, strict=True)
    accelerate = tuple(with_numbers(text, getattr(plugin, "polynomial", ())) for text, plugin in pairs)
    names = ("model", "seed", "steps", "guidance", "image_guidance", "negative_prompt", "dtype", "lora", "fps")
    return Recipe(asked, accelerate=accelerate, **{name: getattr(options, name) for name in names})


@lru_cache(maxsize=1)  # the jobs of one call share it, as they share the pipeline
def _public(model: str) -> PublicModel | None:
    from unireal.public import public_model

    return public_model(model)


@lru_cache(maxsize=1)
def _load(model: str, lora: str | None, device: str, dtype: str, offload: bool) -> tuple[DiffusionPipeline, list[str]]:
    """The pipeline, and what is to be told about the adapter."""
    import torch

    from unireal.pipeline import UniRealPipeline

    loader = _public(model) or UniRealPipeline
    try:
        pipeline = loader.from_pretrained(model, dtype=getattr(torch, dtype))
    except OSError as error:
        if Path(model).exists():
            raise
        reason = one_line(error).split(". ")[0]
        raise ValueError(f"model {model!r} is not here, and the hub does not give it ({reason})") from error
    told: list[str] = []
    if lora is not None:
        with _told() as told:
            pipeline.load_lora_weights(lora)
    return placed(pipeline, device, offload), told


def _pictures(options: argparse.Namespace) -> dict:
    """The pictures among the arguments, as a Request takes them. Raises ValueError for what cannot be read."""
    from unireal.transforms import load_image

    return {
        "canvas": [load_image(p, "canvas") for p in options.canvas],
        "asset": [load_image(p, "asset") for p in options.asset],
        "control": [(kind, load_image(p, f"{kind} control", kind)) for kind, p in options.control],
        "mask": None if options.mask is None else load_image(options.mask, "mask", "mask"),
    }


def _kinds(spec: TaskSpec) -> tuple[str, Collection[str]]:
    """What a task writes, and how such files end."""
    return ("video", ENCODERS) if spec.video else ("picture", PICTURES)


def _check_output(output: Path | None, what: str = "picture", suffixes: Collection[str] = PICTURES) -> Path:
    if output is None:
        raise ValueError("no output given; add --output PATH")
    check_writable(output)
    if output.suffix.lower() not in suffixes:
        raise ValueError(f"output {str(output)!r} is to be a {what}; its name must end in one of {', '.join(suffixes)}")
    return output


def _check_spot_mask(options: argparse.Namespace, plugins: tuple, spec: TaskSpec) -> Path | None:
    path = options.spot_mask
    if path is not None and spec.video:
        raise ValueError(f"--spot-mask shows one picture, task {spec.name!r} makes a video; leave it out")
    if path is not None and "spotedit" not in [plugin.name for plugin in plugins]:
        raise ValueError("--spot-mask shows what spotedit computed; add --accelerate spotedit")
    files = [os.path.abspath(name) for name in _written(options)]
    if len(set(files)) < len(files):
        raise ValueError(f"--spot-mask {path!r} and --output {options.output!r} are one file; give one another name")
    return None if path is None else _check_output(Path(path))


def _quiet() -> None:
    """The libraries keep their warnings and the progress of loading to themselves."""
    import diffusers
    import transformers

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    filterwarnings("ignore", module="huggingface_hub")  # of arguments with which diffusers calls it


def _save(images: list, output: Path, how: list[dict] | None = None) -> list[str]:
    """Writes all pictures under temporary names first, so that a failure leaves nothing behind. how: arguments of
    Pillow's `save` for each. Raises OSError."""
    paths = numbered(output, len(images))
    output.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        temporary = [files.enter_context(replacing(path, f".{os.getpid()}{path.suffix}")) for path in paths]
        for image, path, options in zip(images, temporary, how or [{}] * len(images), strict=True):
            image.save(path, **_SAVING.get(path.suffix.lower(), {}), **options)
    return [str(path) for path in paths]
