"""Pictures that visitors give: gradio's components leave the files alone, and they are checked before they are read."""

from __future__ import annotations

import io
from abc import ABCMeta
from typing import Any

import gradio as gr
import numpy as np
from gradio.component_meta import ComponentMeta
from gradio.components.image_editor import Brush, EditorData, Eraser
from PIL import Image
from pydantic import model_validator

from unireal.demo.limits import PICTURES, Limits

PAINT = "#ff3d71"
BRUSH = 6  # radius in pixels of the picture; gradio's own choice covers a picture of 64x64 with a single stroke
LOOKS = {"sources": ["upload", "clipboard"], "format": "png"}

Source = str | bytes  # a file, or what is in one
Painting = dict[str, Any]  # background: Source; layers: list[Source]


class WithoutStub(ComponentMeta):
    """gradio writes a .pyi file beside the source of every component class; these need none."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> type:
        return ABCMeta.__new__(cls, name, bases, attributes)


class PictureInput(gr.Image, metaclass=WithoutStub):
    """Gives the path of an upload."""

    is_template = True  # the page shows it as its base class

    def preprocess(self, payload: Any) -> str | None:
        return None if payload is None else payload.path or ""


class _Painting(EditorData):
    """What is sent; a file alone is a picture with nothing painted over it."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_file(cls, sent: Any) -> Any:
        return {"background": sent} if isinstance(sent, dict) and "path" in sent else sent


class PaintingInput(gr.ImageEditor, metaclass=WithoutStub):
    """Gives the files of a picture and of what is painted over it."""

    is_template = True
    data_model = _Painting

    def preprocess(self, payload: Any) -> Painting | None:
        if payload is not None and payload.id is not None:  # the page has sent the files ahead
            payload = self.blob_storage.pop(payload.id, None)
        if payload is None or payload.background is None:
            return None
        layers = [_source(layer) for layer in payload.layers or [] if layer is not None]
        return {"background": _source(payload.background), "layers": layers}


def picture_input(label: str, **options: Any) -> PictureInput:
    return PictureInput(label=label, image_mode=None, elem_classes=["shown"], **LOOKS, **options)


def painting_input(label: str, **options: Any) -> PaintingInput:
    brush = Brush(default_size=BRUSH, colors=[PAINT], color_mode="fixed")
    return PaintingInput(label=label, brush=brush, eraser=Eraser(default_size=BRUSH), transforms=(), layers=False,
                         elem_classes=["editor"], **LOOKS, **options)  # fmt: skip


def read_picture(source: Source | None, name: str, limits: Limits, kind: str = "image") -> np.ndarray | None:
    """uint8 (H, W, 3), or None for None. kind: what the pixels show, as a frame's. Raises ValueError for what is no
    picture, damaged or too large, and for a mask with transparent pixels."""
    from unireal.transforms import load_image

    if source is None:
        return None
    return load_image(_opened(source, name, limits), name, kind)


def read_painting(painting: Painting | None, name: str, limits: Limits) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The picture and the mask, both uint8 (H, W, 3); white where there is paint, None where nothing is painted.

    A layer without any transparency is taken for a black and white mask.
    Raises ValueError for what is no picture, damaged or too large, and for layers of another size.
    """
    from unireal.transforms import mask_image

    if painting is None or (picture := read_picture(painting["background"], name, limits)) is None:
        return None, None
    painted = np.zeros(picture.shape[:2], bool)
    for source in painting["layers"]:
        layer = np.asarray(_opened(source, f"the paint over the {name}", limits).convert("RGBA"))
        if layer.shape[:2] != painted.shape:
            given = f"{layer.shape[1]}x{layer.shape[0]} pixels, the picture {picture.shape[1]}x{picture.shape[0]}"
            raise ValueError(f"the paint over the {name} has {given}; paint on the picture itself")
        alpha = layer[..., 3]
        painted |= (alpha if alpha.min() < 255 else layer[..., :3].mean(axis=2)) > 127
    return picture, mask_image(painted) if painted.any() else None


def painting_value(picture: str, mask: str | None) -> dict[str, Any]:
    """What a PaintingInput is given to show, for the files of a picture and of a black and white mask."""
    value: dict[str, Any] = {"background": picture, "layers": [], "composite": picture}
    if mask is None:
        return value
    with Image.open(picture) as background, Image.open(mask) as white:
        paint = Image.new("RGBA", white.size, PAINT)
        paint.putalpha(white.convert("L"))
        composite = Image.alpha_composite(background.convert("RGBA"), paint)
    return value | {"layers": [paint], "composite": composite}


def _source(file: Any) -> Source:
    return bytes(file) if isinstance(file, bytes | bytearray) else file.path or ""


def _opened(source: Source, name: str, limits: Limits) -> Image.Image:
    limits.check_picture(source, name)
    try:
        image = Image.open(source if isinstance(source, str) else io.BytesIO(source), formats=PICTURES)
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ValueError(f"{name} is damaged; give an intact picture") from error
    return image
