"""One picture of what several commands made: a title per row, inputs on the left, outputs on the right.

    python examples/contact_sheet.py --output sheet.png --row TITLE INPUT ... OUTPUT --row TITLE INPUT ... OUTPUT

`make demo` calls it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL = 192  # pixels; pictures are enlarged or shrunk to fit into a square of this side
MARGIN = 16
TITLE, LABEL = 22, 16  # heights of lines of text
INK, PAPER, LABEL_INK = (20, 20, 20), (255, 255, 255), (110, 110, 110)


@dataclass(frozen=True)
class Row:
    title: str
    inputs: tuple[Image.Image, ...]
    output: Image.Image


def fitted(picture: Image.Image) -> Image.Image:
    """The picture with its longer side CELL; small ones keep their pixels sharp."""
    scale = CELL / max(picture.size)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), how)


def sheet(rows: list[Row]) -> Image.Image:
    """All rows below each other. The outputs stand in one column, right of the widest row of inputs."""
    columns = max(len(row.inputs) for row in rows)
    row_height = TITLE + LABEL + CELL + MARGIN
    title_font, label_font = ImageFont.load_default(15), ImageFont.load_default(12)
    text_width = max(title_font.getlength(row.title) for row in rows)
    width = MARGIN + max((columns + 1) * (CELL + MARGIN), round(text_width) + MARGIN)
    image = Image.new("RGB", (width, MARGIN + len(rows) * row_height), PAPER)
    draw = ImageDraw.Draw(image)
    for number, row in enumerate(rows):
        top = MARGIN + number * row_height
        draw.text((MARGIN, top), row.title, INK, title_font)
        cells = [(i, f"IMG{i + 1}", picture) for i, picture in enumerate(row.inputs)] + [(columns, "RES1", row.output)]
        for column, label, picture in cells:
            left = MARGIN + column * (CELL + MARGIN)
            draw.text((left, top + TITLE), label, LABEL_INK, label_font)
            image.paste(fitted(picture), (left, top + TITLE + LABEL))
    return image


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="picture to write")
    parser.add_argument("--row", nargs="+", action="append", required=True, metavar=("TITLE", "PATH"),
                        help="a title, the input pictures, and the output picture last")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        for words in options.row:
            if len(words) < 2:
                raise ValueError(f"row {words[0]!r} has no picture; give --row TITLE INPUT ... OUTPUT")
        read = [(title, [Image.open(path).convert("RGB") for path in paths]) for title, *paths in options.row]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        sheet([Row(title, tuple(pictures[:-1]), pictures[-1]) for title, pictures in read]).save(options.output)
    except (ValueError, OSError) as error:
        print(f"contact_sheet.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
