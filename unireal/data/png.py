"""Pictures as the bytes of a PNG, in the form that Hugging Face `datasets.Image` keeps them: {bytes, path}."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image


def encode_png(image: np.ndarray) -> dict[str, Any]:
    """uint8 (H, W, 3), uint8 (H, W) or uint16 (H, W) as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def decode_png(stored: Mapping[str, Any] | None, name: str) -> np.ndarray:
    """uint16 (H, W) of a picture with 16 bits, else uint8 (H, W, 3)."""
    if not stored or not stored["bytes"]:
        raise ValueError(f"{name} holds no picture; store the bytes of a PNG in the record")
    try:
        with Image.open(io.BytesIO(stored["bytes"])) as image:
            if image.mode.startswith("I"):
                return np.asarray(image).astype(np.uint16)
            if image.mode not in ("1", "L", "RGB"):
                raise ValueError(f"its mode is {image.mode}; expected RGB, 8-bit grey or 16-bit grey")
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as a picture ({first_line(error)}); store an intact PNG") from error


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
