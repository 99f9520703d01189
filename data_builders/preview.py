"""python -m data_builders preview DIR: one HTML page with thumbnails of the records of a folder, by task.

The page holds its pictures, so it can be sent around and opened without the data.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from data_builders.files import write_text
from unireal.data.records import ParquetSamples
from unireal.sample import Frame, Sample

_SIDE = 160  # pixels of the longer side of a thumbnail

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222; }}
nav a {{ margin-right: 1rem; }}
article {{ border-top: 1px solid #ddd; padding: .8rem 0; }}
figure {{ display: inline-block; margin: .3rem .5rem .3rem 0; vertical-align: top; }}
img {{ display: block; image-rendering: pixelated; background: #eee; }}
figcaption, small {{ color: #666; font-size: 12px; }}
p {{ margin: .2rem 0; }}
.arrow {{ display: inline-block; margin: 3rem .8rem 0 .3rem; color: #888; }}
</style></head>
<body><h1>{title}</h1><p>{count}</p><nav>{links}</nav>
{sections}
</body></html>
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of Parquet records")
    parser.add_argument("--output", metavar="FILE", type=Path, help="the page (default: DIR/preview.html)")
    parser.add_argument("--per-task", metavar="N", type=int, default=12, help="records of each task (default: 12)")


def run(options: argparse.Namespace) -> None:
    """Raises ValueError for a folder without records and OSError if the page cannot be written."""
    if options.per_task < 1:
        raise ValueError(f"--per-task must be at least 1, got {options.per_task}")
    path = options.output or options.folder / "preview.html"
    shown = page(ParquetSamples(options.folder), options.per_task)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, shown)
    print(path)


def page(samples: ParquetSamples, per_task: int = 12) -> str:
    """The HTML. Of each task, records from all over the folder are shown, evenly spaced.

    Raises ValueError that names the record if one of these cannot be read.
    """
    import pyarrow.parquet as pq

    numbers: dict[str, list[int]] = defaultdict(list)
    tasks = (task for path in samples.paths for task in pq.read_table(path, columns=["task"])["task"].to_pylist())
    for number, task in enumerate(tasks):
        numbers[task].append(number)
    sections, links = [], []
    for task in sorted(numbers):
        of_task, name = numbers[task], html.escape(task)
        chosen = np.unique(np.linspace(0, len(of_task) - 1, min(per_task, len(of_task))).round().astype(int))
        records = (of_task[index] for index in chosen)
        shown = "\n".join(_record(samples[number], samples.location(number)) for number in records)
        links.append(f'<a href="#{name}">{name} ({len(of_task)})</a>')
        head = f"<h2>{name}</h2><p>{len(chosen)} of {len(of_task)} records</p>"
        sections.append(f'<section id="{name}">{head}\n{shown}</section>')
    count = f"{len(samples)} records in {len(samples.paths)} files"
    title = f"Records of {html.escape(samples.folder.resolve().name)}"
    return _PAGE.format(title=title, count=count, links=" ".join(links), sections="\n".join(sections))


def _record(sample: Sample, location: str) -> str:
    inputs = "".join(_figure(f, f"IMG{i} {f.role}") for i, f in enumerate(sample.inputs, start=1))
    results = "".join(_figure(f, f"RES{i}") for i, f in enumerate(sample.results, start=1))
    mask = "" if sample.mask is None else _thumbnail(sample.mask.astype(np.uint8) * np.uint8(255), "what changes")
    arrow = '<span class="arrow">&rarr;</span>' if inputs else ""
    source = html.escape(json.dumps(sample.source))
    return (
        f"<article><p>{html.escape(sample.instruction)}</p><small>{html.escape(sample.context)}</small>"
        f"<div>{inputs}{arrow}{results}{mask}</div>"
        f"<small><details><summary>{html.escape(location)}</summary>{source}</details></small></article>"
    )


def _figure(frame: Frame, label: str) -> str:
    image = frame.image if frame.image.dtype == np.uint8 else (frame.image // 257).astype(np.uint8)
    words = label if frame.kind == "image" else f"{label} {frame.kind}"
    return _thumbnail(image, f"{words}, {frame.size[1]}x{frame.size[0]}")


def _thumbnail(image: np.ndarray, words: str) -> str:
    """uint8 (H, W, 3) or (H, W) as a figure that holds a PNG."""
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    data, scale = base64.b64encode(buffer.getvalue()).decode(), max(1, _SIDE // max(picture.size))
    words = html.escape(words)
    size = f'width="{picture.width * scale}" height="{picture.height * scale}"'
    shown = f'<img src="data:image/png;base64,{data}" {size} alt="{words}">'
    return f"<figure>{shown}<figcaption>{words}</figcaption></figure>"
