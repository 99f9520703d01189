"""What benchmarks/acceleration.py found, as a table and a chart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmarks.pictures import line_chart
from unireal.evaluation import metrics

PLAIN = "plain"
_FORMATS = {
    "changed area": "{:.0%}",
    "speed-up": "{:.2f}x",
    "in processor time": "{:.2f}x",
    "seconds": "{:.3f}",
    "tokens": "{:.0%}",
    "memory MiB": "{:.1f}",
}


def summary(measurements: Sequence[Any]) -> list[dict[str, Any]]:
    """One row for each size, share of changed area and combination: medians of times, means of all else."""
    groups: dict[tuple, list[Any]] = {}
    for m in measurements:
        groups.setdefault((m.size, m.wanted_area, m.combination), []).append(m)
    rows = []
    for (size, area, combination), chosen in groups.items():

        def average(name: str, chosen: list[Any] = chosen) -> float:
            return metrics.mean(getattr(m, name) for m in chosen)[0]

        row = {"pixels": size, "changed area": area, "acceleration": combination, "n": len(chosen)}
        row |= {"speed-up": median(m.speedup for m in chosen)}
        row |= {"in processor time": median(m.processor_speedup for m in chosen)}
        row |= {"seconds": median(m.seconds for m in chosen)}
        row |= {"tokens": average("tokens_of_plain"), "memory MiB": chosen[0].memory / 2**20}
        for label, name in (("to plain", "plain"), ("changed", "changed"), ("unchanged", "unchanged")):
            row |= {f"PSNR {label}": average(f"psnr_{name}"), f"SSIM {label}": average(f"ssim_{name}")}
        rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = []
        for key, value in row.items():
            usual = "{:.3f}" if key.startswith("SSIM") else "{:.2f}"
            cells.append(str(value) if isinstance(value, str | int) else _FORMATS.get(key, usual).format(value))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chart(measurements: Sequence[Any]) -> str:
    """Speed-up over the changed area, or over the size if there are several; SVG."""
    rows = [row for row in summary(measurements) if row["acceleration"] != PLAIN]
    by_size = len({row["pixels"] for row in rows}) > 1
    key = "pixels" if by_size else "changed area"
    lines: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        lines.setdefault(row["acceleration"], {}).setdefault(row[key], []).append(row["speed-up"])
    points = {name: [(x, float(np.median(ys))) for x, ys in line.items()] for name, line in lines.items()}
    points = points or {PLAIN: [(0.0, 1.0)]}
    label, show = (
        ("side of the picture in pixels", "{:g}") if by_size else ("share of the pixels that change", "{:.0%}")
    )
    return line_chart(points, "Sampling, against plain", label, "times faster", show.format)
