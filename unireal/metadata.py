"""What made a picture, inside its PNG file, so that `infer.py --from-metadata FILE --output PATH` makes it again.

A tEXt chunk "unireal" holds JSON: the options of infer.py as one would type them, which of the results the picture is,
a fingerprint of the model's weights, and what the input pictures are. Chunks "unireal picture 1", ... hold those, each
as base64 of a PNG. On the same machine, with as many threads, the pixels come out the same.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin

from unireal.data.png import decode_png, encode_png
from unireal.model.folder import SHIPPED

if TYPE_CHECKING:
    from unireal.request import Request

KEY = "unireal"
MAX_STORED = 48 << 20  # bytes of all input pictures of a file; Pillow opens no PNG with more than 64 MiB of text
# The options that a file may set: a file from a stranger must not name plug-ins or where to write.
_OPTIONS = ("prompt", "expand", "size", "context", "num_results", "seed", "steps", "guidance", "image_guidance",
            "accelerate", "model", "dtype")  # fmt: skip
_PICTURES = ("canvas", "asset", "control", "mask")


@dataclass(frozen=True)
class Recipe:
    """What decides the pictures of one call.

    model: a shipped model, a hub id or a folder. seed: of the noise. accelerate: plug-ins as infer.py takes them.
    steps, guidance, image_guidance: None for the model's own. dtype: name of the type that the model computes in.
    """

    request: Request
    model: str = "unireal-tiny"
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    image_guidance: float | None = None
    accelerate: tuple[str, ...] = ()
    dtype: str = "float32"

    def options(self) -> dict[str, str]:
        """Options of infer.py and their values, without the pictures and what is None. A folder that holds the model
        goes by its name alone: the file may travel, and the path is nobody's business."""
        request = self.request
        size = None if request.size is None else f"{request.size[1]}x{request.size[0]}"
        expand = None if request.expand is None else ",".join(map(str, request.expand))
        given = {
            **{"prompt": request.prompt or None, "expand": expand, "size": size, "context": request.context},
            **{"num_results": request.num_results, "seed": self.seed, "steps": self.steps, "guidance": self.guidance},
            **{"image_guidance": self.image_guidance, "accelerate": ",".join(self.accelerate) or None},
            **{"model": _model_name(self.model), "dtype": self.dtype},
        }
        return {name: str(value) for name, value in given.items() if value is not None}

    def pictures(self) -> Iterator[tuple[str, str | None, np.ndarray]]:
        """Option, kind of a control frame, and the picture uint8 (H, W, 3)."""
        yield from (("canvas", None, image) for image in self.request.canvas)
        yield from (("asset", None, image) for image in self.request.asset)
        yield from (("control", kind, image) for kind, image in self.request.control)
        if self.request.mask is not None:
            yield "mask", None, self.request.mask


def save_png(image: Image.Image, path: Path, recipe: Recipe, number: int = 0) -> Path:
    """Writes the result with this number, counted over all results of the call, and what made it."""
    pictures = list(recipe.pictures())
    record = {
        **{"version": version("unireal"), "task": recipe.request.task, "options": recipe.options(), "result": number},
        "weights": weights_fingerprint(recipe.model),
        "pictures": [{"option": option, "kind": kind} for option, kind, _ in pictures],
    }
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(KEY, json.dumps(record))
    encoded = [_base64(picture) for _, _, picture in pictures]
    if sum(map(len, encoded)) <= MAX_STORED:
        for i, text in enumerate(encoded, start=1):
            chunks.add_text(f"{KEY} picture {i}", text)
    temporary = path.with_name(f".{path.stem}.tmp{os.getpid()}{path.suffix}")
    try:
        image.save(temporary, "PNG", pnginfo=chunks)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def add_metadata_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from-metadata", metavar="PNG", help="make a picture of the demo again; options override")
    parser.set_defaults(result=None)


def with_metadata(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """The options that arguments give, over those in the file of --from-metadata; result: which one the file shows.

    Raises ValueError for a file without what made it, and if the model's weights are others than those that did.
    """
    given = parser.parse_args(arguments)
    path = given.from_metadata
    chunks = _text_chunks(path)
    record = _record(chunks, path)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in record["options"].items()]
    options = parser.parse_args([*([record["task"]] if given.task is None else []), *words, *arguments])
    if options.model == record["options"].get("model") and weights_fingerprint(options.model) != record["weights"]:
        raise ValueError(f"{str(path)!r} was made by other weights of {options.model!r}; give those as --model")
    _add_pictures(options, record["pictures"], chunks, path)
    if str(options.num_results) == record["options"].get("num_results", "None"):
        options.result = record["result"]
    return options


def weights_fingerprint(model: str) -> str | None:
    """Tells two trainings of a model apart, by names, sizes, first and last MiB of the transformer's files; None for a
    model that is not in a folder."""
    folder = SHIPPED.get(model, Path(model)) / "transformer"
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(1 << 20))
            opened.seek(max(0, size - (1 << 20)))
            digest.update(opened.read())
    return digest.hexdigest()[:32]


def _model_name(model: str) -> str:
    return Path(model).resolve().name if model not in SHIPPED and Path(model).is_dir() else model


def _base64(picture: np.ndarray) -> str:
    return base64.b64encode(encode_png(picture)["bytes"]).decode("ascii")


def _text_chunks(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(f"{str(path)!r} is not a file; give a PNG that the demo made")
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return {str(key): value for key, value in image.info.items()}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(path)!r} is not a PNG that can be read; give one that the demo made") from error


def _record(chunks: dict[str, Any], path: str) -> dict[str, Any]:
    """The JSON of the chunk KEY, checked: others may have written it."""
    try:
        record = json.loads(chunks[KEY])
        good = (
            isinstance(record["task"], str)
            and not record["task"].startswith("-")
            and type(record["result"]) is int
            and record["options"].keys() <= set(_OPTIONS)
            and all(isinstance(value, str) for value in record["options"].values())
            and all(entry["option"] in _PICTURES for entry in record["pictures"])
            and "weights" in record
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ValueError(f"{str(path)!r} does not say what made it; give a PNG as the demo made it")
    return record


def _add_pictures(options: argparse.Namespace, entries: list[dict], chunks: dict[str, Any], path: str) -> None:
    """Puts those of the file where the options give none."""
    missing = [option for option in _PICTURES if not getattr(options, option)]
    for i, entry in enumerate(entries, start=1):
        option = entry["option"]
        if option not in missing:
            continue
        text = chunks.get(f"{KEY} picture {i}")
        if not isinstance(text, str):
            raise ValueError(f"{str(path)!r} does not hold its pictures, they were too large; give --{option}")
        try:
            image = decode_png({"bytes": base64.b64decode(text, validate=True)}, f"picture {i} in {str(path)!r}")
        except ValueError as error:
            raise ValueError(f"picture {i} in {str(path)!r} is damaged; give --{option}") from error
        if option == "mask":
            options.mask = image
        else:
            frame = (entry.get("kind"), image) if option == "control" else image
            setattr(options, option, [*getattr(options, option), frame])
