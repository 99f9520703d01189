"""What a benchmark found: as JSON, as a Markdown table, as a sheet of examples, and as a run folder with a page."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unireal.evaluation import html
from unireal.evaluation.results import ItemResult, RunFolder, SummaryRow, save_picture, write_file, write_text

_GAP = 4
_TEXT = 13  # pixels of a line of text
_LETTERS = 60  # of a line of text
_LETTER = 7  # pixels, of a wide one
_PAPER, _INK = (202, 208, 216), (40, 40, 40)


@dataclass(frozen=True)
class Bar:
    """What a score has to reach.

    limit: a number that is reached too if equal, or the name of a baseline that has to be beaten.
    """

    limit: float | str

    def text(self, higher: bool) -> str:
        """As in ">= 20" or "> copy"."""
        sign = ">" if higher else "<"
        return f"{sign} {self.limit}" if isinstance(self.limit, str) else f"{sign}= {self.limit:g}"

    def passes(self, score: float, higher: bool, baselines: dict[str, float]) -> bool:
        sign = 1 if higher else -1
        if isinstance(self.limit, str):
            return sign * score > sign * baselines[self.limit]
        return sign * score >= sign * self.limit


@dataclass(frozen=True)
class Row:
    """One score.

    recipe, subset: of which samples; resolution: their results', "64x64"; n: how many of them have a score.
    metric, unit: "changed PSNR", "dB"; better: "higher" or "lower"; primary: the recipe's main score.
    mean, standard_error: the latter NaN where undefined; baselines: name -> mean of the same metric.
    bar, passed: what has to be reached (">= 20") and whether it is, None where nothing is asked.
    """

    recipe: str
    subset: str
    metric: str
    unit: str
    better: str
    primary: bool
    n: int
    mean: float
    standard_error: float
    baselines: dict[str, float]
    resolution: str
    bar: str | None = None
    passed: bool | None = None


@dataclass(frozen=True)
class Example:
    """One sample to look at: title, instruction, and pictures uint8 (H, W, 3)."""

    title: str
    instruction: str
    inputs: list[np.ndarray]
    truth: list[np.ndarray]
    output: list[np.ndarray]


@dataclass
class Report:
    """Scores and examples of a benchmark.

    settings: JSON-serialisable facts on how they came about. rows and examples are what it is about in short; lines,
    summary and pictures (path -> uint8 (H, W, 3)) what a run folder holds of every sample.
    """

    benchmark: str
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    examples: list[list[Example]] = field(default_factory=list)  # one list per line of the sheet
    lines: list[ItemResult] = field(default_factory=list)
    summary: list[SummaryRow] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> str:
        """Infinite values are "inf", undefined ones null."""
        content = {"benchmark": self.benchmark, "settings": self.settings, "rows": [asdict(row) for row in self.rows]}
        return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """The scores as one flat table, primary ones marked with *."""
        names = list(dict.fromkeys(name for row in self.rows for name in row.baselines))
        head = ["recipe", "set", "size", "metric", "unit", "better", "n", "score", "s.e.", *names, "bar", "passed"]
        table = [head, ["---"] * len(head)]
        for row in self.rows:
            table.append([*_cells(row), *(_number(row.baselines.get(name)) for name in names), *_verdict(row)])
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        return f"# {self.benchmark}\n\n{settings}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in table)

    def sheet(self) -> Image.Image:
        """The examples, a line of them per recipe, each as inputs | truth | output under its instruction."""
        lines = [[_strip(example) for example in line] for line in self.examples if line]
        columns = [max(line[i].width for line in lines if i < len(line)) for i in range(max(map(len, lines)))]
        heights = [max(strip.height for strip in line) for line in lines]
        size = (sum(columns) + _GAP * (len(columns) + 1), sum(heights) + _GAP * (len(heights) + 1))
        page = Image.new("RGB", size, _PAPER)
        for j, line in enumerate(lines):
            for i, strip in enumerate(line):
                page.paste(strip, (_GAP + sum(columns[:i]) + _GAP * i, _GAP + sum(heights[:j]) + _GAP * j))
        return page

    def write(self, folder: Path) -> list[Path]:
        """Writes NAME.json, NAME.md and NAME.png, and the run folder with its page around them, each file whole or not
        at all. Returns the paths of the three and of the page."""
        name = folder / self.benchmark
        return [
            write_text(name.with_suffix(".json"), self.to_json()),
            write_text(name.with_suffix(".md"), self.to_markdown()),
            write_file(name.with_suffix(".png"), lambda path: self.sheet().save(path, format="PNG")),
            self._write_run(RunFolder(folder)),
        ]

    def _write_run(self, run: RunFolder) -> Path:
        for path, pixels in self.pictures.items():
            save_picture(run.path / path, pixels)
        run.write_settings({"benchmark": self.benchmark} | self.settings)
        run.write_items(self.lines)
        run.write_summary(self.summary)
        return html.write(run.path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _cells(row: Row) -> list[str]:
    what = [row.recipe, row.subset, row.resolution, row.metric + "*" * row.primary, row.unit, row.better]
    return [*what, str(row.n), _number(row.mean), _number(row.standard_error)]


def _verdict(row: Row) -> list[str]:
    return [row.bar or "", {None: "", True: "pass", False: "FAIL"}[row.passed]]


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _strip(example: Example) -> Image.Image:
    """inputs | truth | output, groups farther apart than the pictures of one, with the text above."""
    lines = textwrap.wrap(f"[{example.title}] {example.instruction}", _LETTERS)
    top = _TEXT * len(lines) + _GAP
    pictures: list[tuple[int, Image.Image]] = []  # and their left edges
    left = 0
    for group in (example.inputs, example.truth, example.output):
        for picture in group:
            pictures.append((left, Image.fromarray(picture)))
            left += picture.shape[1] + _GAP
        left += 2 * _GAP if group else 0
    width = max(left, _LETTER * max(map(len, lines)))
    strip = Image.new("RGB", (width, top + max(picture.height for _, picture in pictures)), _PAPER)
    ImageDraw.Draw(strip).text((0, 0), "\n".join(lines), fill=_INK, spacing=1)
    for left, drawn in pictures:
        strip.paste(drawn, (left, top))
    return strip
