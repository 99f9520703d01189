"""What made a picture or video, inside its file, so that `infer.py --from-metadata FILE --output PATH` makes it again.

A text "unireal" holds JSON: the options of infer.py as one would type them, which of the results the picture is, a
fingerprint of the model's weights, and what the input pictures are. Texts "unireal picture 1", ... hold those, each as
base64 of a PNG. In a PNG the texts are tEXt chunks; in a video they are one JSON object, the container's comment. On
the same machine, with as many threads, the pixels come out the same. A video that was edited is not stored.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin

from unireal.data.png import decode_png, encode_png
from unireal.files import replacing
from unireal.model.folder import SHIPPED, fingerprint, model_path
from unireal.video.files import ENCODERS, VideoFile

if TYPE_CHECKING:
    from unireal.request import Request

KEY = "unireal"
MAX_STORED = 48 << 20  # bytes of all input pictures of a file; Pillow opens no PNG with more than 64 MiB of text
MAX_COMMENT = 8 << 20  # the same for a video; Matroska's readers take no text of more than 16 MiB
# The options that a file may set: a file from a stranger must not name plug-ins or where to write.
_OPTIONS = ("prompt", "expand", "size", "context", "num_results", "num_frames", "fps", "seed", "steps", "guidance",
            "image_guidance", "negative_prompt", "accelerate", "model", "dtype")  # fmt: skip
_PICTURES = ("canvas", "asset", "control", "mask")
_POLYNOMIAL_FILE = re.compile(r"(?<=:polynomial=)(?!\()[^:]*")  # TeaCache's, in a file instead of as numbers
_MAKERS = {"prompt": ("audio", "class_label"), "control": ("layout", "drag")}  # options that say the same in other ways


@dataclass(frozen=True)
class Recipe:
    """What decides the pictures of one call.

    model: a shipped model, a hub id or a folder. seed: of the noise. accelerate: plug-ins as infer.py takes them.
    steps, guidance, image_guidance: None for the model's own. negative_prompt: see UniRealPipeline.
    dtype: name of the type that the model computes in. lora: folder of an adapter.
    fps: frames a second of a new video, None for the usual.
    """

    request: Request
    model: str = "unireal-tiny"
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    image_guidance: float | None = None
    negative_prompt: str | None = None
    accelerate: tuple[str, ...] = ()
    dtype: str = "float32"
    lora: str | None = None
    fps: Fraction | None = None

    def options(self) -> dict[str, str]:
        """Options of infer.py and their values, without the pictures and what is None. A folder that holds the model
        goes by its name alone: the file may travel, and the path is nobody's business."""
        request = self.request
        size = None if request.size is None else f"{request.size[1]}x{request.size[0]}"
        expand = None if request.expand is None else ",".join(map(str, request.expand))
        given = {
            **{"prompt": request.prompt or None, "expand": expand, "size": size, "context": request.context},
            **{"num_results": request.num_results, "num_frames": request.num_frames, "fps": self.fps},
            **{"seed": self.seed, "steps": self.steps, "guidance": self.guidance},
            **{"image_guidance": self.image_guidance, "negative_prompt": self.negative_prompt or None},
            **{"accelerate": ",".join(self.accelerate) or None, "model": model_name(self.model), "dtype": self.dtype},
        }
        return {name: str(value) for name, value in given.items() if value is not None}

    def sampling(self) -> dict[str, Any]:
        """Arguments of the pipeline that say how to sample."""
        import torch

        return {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "image_guidance_scale": self.image_guidance,
            "negative_prompt": self.negative_prompt,
            "generator": torch.Generator().manual_seed(self.seed),
            "accelerate": self.accelerate,
        }

    def pictures(self) -> Iterator[tuple[str, str | None, np.ndarray]]:
        """Option, kind of a control frame, and the picture uint8 (H, W, 3)."""
        yield from (("canvas", None, image) for image in self.request.canvas)
        yield from (("asset", None, image) for image in self.request.asset)
        yield from (("control", kind, image) for kind, image in self.request.control)
        if self.request.mask is not None:
            yield "mask", None, self.request.mask


def save_png(image: Image.Image, path: Path, info: PngImagePlugin.PngInfo) -> Path:
    """Writes a result and what made it."""
    with replacing(path) as temporary:
        image.save(temporary, "PNG", pnginfo=info)
    return path


def png_infos(recipe: Recipe, numbers: Iterable[int] = (0,)) -> list[PngImagePlugin.PngInfo]:
    """What made the results with these numbers, counted over all results of the call, for Pillow's `save`."""
    infos = []
    for texts in _texts(recipe, numbers, MAX_STORED):
        infos.append(PngImagePlugin.PngInfo())
        for name, text in texts.items():
            infos[-1].add_text(name, text)
    return infos


def video_comment(recipe: Recipe) -> str:
    """What made a video, for its container."""
    return json.dumps(next(_texts(recipe, (0,), MAX_COMMENT)))


def check_metadata_output(path: Path) -> None:
    """Raises ValueError if such a file cannot hold what made it."""
    if path.suffix.lower() not in (".png", *ENCODERS):
        raise ValueError(f"--metadata is kept in PNG files and videos; {str(path)!r} is neither, name it .png")


def _texts(recipe: Recipe, numbers: Iterable[int], room: int) -> Iterator[dict[str, str]]:
    """The texts of the files of these results. room: bytes of the input pictures above which they are left out."""
    pictures = list(recipe.pictures())
    record = {
        **{"version": version("unireal"), "task": recipe.request.task, "options": recipe.options()},
        "weights": weights_fingerprint(recipe.model),
        "lora": None if recipe.lora is None else model_name(recipe.lora),
        "pictures": [{"option": option, "kind": kind} for option, kind, _ in pictures],
    }
    encoded = [_base64(picture) for _, _, picture in pictures]
    kept = encoded if sum(map(len, encoded)) <= room else []
    stored = {f"{KEY} picture {i}": text for i, text in enumerate(kept, start=1)}
    yield from ({KEY: json.dumps(record | {"result": number})} | stored for number in numbers)


def add_metadata_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what made a file").add_argument
    add("--metadata", action="store_true", help="keep in the PNG or video what made it, input pictures as well")
    add("--from-metadata", metavar="FILE", help="make again what --metadata or the demo made; options override")
    parser.set_defaults(result=None)


def with_metadata(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """The options that arguments give, over those in the file of --from-metadata; result: which one the file shows.

    Raises ValueError for a file without what made it, and if the model's weights are others than those that did.
    """
    given = parser.parse_args(arguments)
    path = given.from_metadata
    chunks = _read_texts(path)
    record = _record(chunks, path)
    if _POLYNOMIAL_FILE.search(record["options"].get("accelerate", "")) and not given.accelerate:
        raise ValueError(f"{str(path)!r} names another file, of a polynomial, which is not read; give --accelerate")
    kept = {name: value for name, value in record["options"].items() if not _made(given, name)}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in kept.items()]
    options = parser.parse_args([*([record["task"]] if given.task is None else []), *words, *arguments])
    if options.model == record["options"].get("model") and weights_fingerprint(options.model) != record["weights"]:
        raise ValueError(f"{str(path)!r} was made by other weights of {options.model!r}; give those as --model")
    if (lora := record.get("lora")) is not None and options.lora is None:
        raise ValueError(f"{str(path)!r} was made with the adapter {lora!r}; give its folder as --lora")
    _add_pictures(options, record["pictures"], chunks, path)
    if str(options.num_results) == record["options"].get("num_results", "None"):
        options.result = record["result"]
    return options


def weights_fingerprint(model: str) -> str | None:
    """Tells two trainings of a model apart; None for a model that is not in a folder."""
    folder = model_path(model) / "transformer"
    return fingerprint(folder, "*.safetensors") if folder.is_dir() else None


def model_name(model: str) -> str:
    """A folder goes by its name alone: where it lies is nobody's business."""
    return Path(model).resolve().name if model not in SHIPPED and Path(model).is_dir() else model


def with_numbers(acceleration: str, polynomial: tuple[float, ...]) -> str:
    """An acceleration with the numbers in place of a file that holds them: where it lies is nobody's business."""
    return _POLYNOMIAL_FILE.sub(str(polynomial), acceleration)


def _base64(picture: np.ndarray) -> str:
    return base64.b64encode(encode_png(picture)["bytes"]).decode("ascii")


def _read_texts(path: str) -> dict[str, Any]:
    """The texts of a PNG or video, and whatever else is written there."""
    if not Path(path).is_file():
        raise ValueError(f"{str(path)!r} is not a file; give a PNG or video that the demo or --metadata made")
    if Path(path).suffix.lower() in ENCODERS:
        return _parsed(VideoFile(path).comment)
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return {str(key): value for key, value in image.info.items()}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        told = "is neither a PNG that can be read nor a video; give a file that the demo or --metadata made"
        raise ValueError(f"{str(path)!r} {told}") from error


def _parsed(comment: str) -> dict[str, Any]:
    try:
        texts = json.loads(comment)
    except (ValueError, RecursionError):
        texts = {}
    return texts if isinstance(texts, dict) else {}


def _record(chunks: dict[str, Any], path: str) -> dict[str, Any]:
    """The JSON of the chunk KEY, checked: others may have written it."""
    try:
        record = json.loads(chunks[KEY])
        good = (
            isinstance(record["task"], str)
            and not record["task"].startswith("-")
            and type(record["result"]) is int
            and record["result"] >= 0
            and record["options"].keys() <= set(_OPTIONS)
            and all(isinstance(value, str) for value in record["options"].values())
            and all(entry["option"] in _PICTURES for entry in record["pictures"])
            and "weights" in record
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ValueError(f"{str(path)!r} does not say what made it; give a file as the demo or --metadata made it")
    return record


def _made(options: argparse.Namespace, name: str) -> bool:
    """Whether other options make what one of this name would give."""
    return any(getattr(options, maker) is not None for maker in _MAKERS.get(name, ()))


def _add_pictures(options: argparse.Namespace, entries: list[dict], chunks: dict[str, Any], path: str) -> None:
    """Puts those of the file where the options give none."""
    missing = [option for option in _PICTURES if not (getattr(options, option) or _made(options, option))]
    for i, entry in enumerate(entries, start=1):
        option = entry["option"]
        if option not in missing:
            continue
        text = chunks.get(f"{KEY} picture {i}")
        if not isinstance(text, str):
            raise ValueError(f"{str(path)!r} does not hold its pictures, they were too large; give --{option}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)  # few bytes can be many pixels
                image = decode_png({"bytes": base64.b64decode(text, validate=True)}, f"picture {i} in {str(path)!r}")
        except (ValueError, Image.DecompressionBombWarning) as error:
            raise ValueError(f"picture {i} in {str(path)!r} is damaged; give --{option}") from error
        if option == "mask":
            options.mask = image
        else:
            frame = (entry.get("kind"), image) if option == "control" else image
            setattr(options, option, [*getattr(options, option), frame])
