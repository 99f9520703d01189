"""How much one visitor may ask for, and whether an upload is a picture at all."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

PICTURES = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # decoders of Pillow that uploads may reach


@dataclass(frozen=True)
class Limits:
    """upload: bytes of a file; pixels: of a picture that is given; side: of a frame that the model sees or makes, in
    pixels; scale: the same, times the longer side that the model was made for (a step cannot be stopped, and its time
    grows with the fourth power of the side). queue: calls that wait; seconds: of one call; cards: pictures of one role
    on the page; the others: of one call.
    """

    upload: int = 20_000_000
    pixels: int = 16_000_000
    side: int = 1024
    scale: int = 4
    steps: int = 200
    results: int = 8
    frames: int = 64
    cards: int = 4
    prompt: int = 1000
    queue: int = 16
    seconds: int = 600

    def check_picture(self, source: str | Path | bytes, name: str) -> None:
        """Reads the header alone. Raises ValueError for what is no picture or too large; the path is not told."""
        from PIL import Image

        opened = io.BytesIO(source) if isinstance(source, bytes | bytearray) else source
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(opened, formats=PICTURES) as image:
                    count = image.width * image.height
        except Image.DecompressionBombError:
            count = self.pixels + 1
        except (OSError, ValueError, SyntaxError) as error:
            known = ", ".join(PICTURES)
            raise ValueError(f"{name} is not a picture that can be read; give an intact file: {known}") from error
        if count > self.pixels:
            raise ValueError(f"{name} has more than {self.pixels / 1e6:.0f} million pixels; make it smaller")
