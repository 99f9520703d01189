"""Plots as SVG text: a library for plots would be a large dependency for bars and histograms.

Values may be any finite numbers; labels may be any text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

_COLORS = ("#2f6fb5", "#a8a8a8", "#d98a2b", "#4f9d69", "#8e5fa8", "#5aa9b5")  # model, copy, further baselines
_INK = "#333"
_WIDTH, _ROW, _LABEL = 560, 16, 190  # pixels


def histogram(series: Mapping[str, Sequence[float]], bins: int = 24) -> str:
    """How the scores of each system are spread, as a share of its items per bin; a line marks the mean.

    Raises ValueError if there is no value.
    """
    values = [v for scores in series.values() for v in scores]
    low, high = _range(values)
    edges = np.linspace(low, high, bins + 1)
    shares = {name: np.histogram(scores, edges)[0] / len(scores) for name, scores in series.items() if len(scores)}
    top = max(share.max() for share in shares.values())
    height, left, width = 120, 30, _WIDTH - 60
    parts = []
    for (name, share), color in zip(shares.items(), _COLORS, strict=False):
        steps = "".join(
            f"L{left + width * i / bins:.1f},{height - 100 * s / top:.1f} "
            f"L{left + width * (i + 1) / bins:.1f},{height - 100 * s / top:.1f} "
            for i, s in enumerate(share)
        )
        parts.append(
            f'<path d="M{left},{height} {steps}L{left + width},{height}Z" fill="{color}" fill-opacity=".35" '
            f'stroke="{color}"><title>{escape(name)}</title></path>'
        )
        mean = left + width * (float(np.mean(series[name])) - low) / (high - low)
        parts.append(
            f'<line x1="{mean:.1f}" y1="14" x2="{mean:.1f}" y2="{height}" stroke="{color}" stroke-dasharray="4 2"/>'
        )
    parts += [_text(left, height + 14, f"{low:.4g}"), _text(left + width, height + 14, f"{high:.4g}", "end")]
    parts.append(f'<line x1="{left}" y1="{height}" x2="{left + width}" y2="{height}" stroke="{_INK}"/>')
    return _svg(height + 20, [*parts, *_legend(list(shares))])


def bars(groups: Mapping[str, Mapping[str, tuple[float, float | None]]]) -> str:
    """A bar per group and system, from (mean, standard error or None); whiskers are 95% intervals.

    Raises ValueError if there is no value.
    """
    cells = [cell for systems in groups.values() for cell in systems.values()]
    ends = [mean + sign * 1.96 * (error or 0.0) for mean, error in cells for sign in (-1, 1)]
    low, high = _range([0.0, *ends])
    names = list(dict.fromkeys(name for systems in groups.values() for name in systems))
    scale = (_WIDTH - _LABEL - 70) / (high - low)
    zero, y, parts = _LABEL - low * scale, 24, []
    for group, systems in groups.items():
        parts.append(_text(_LABEL - 6, y + _ROW * len(systems) / 2 + 4, group, "end"))
        for name, (mean, error) in systems.items():
            color = _COLORS[names.index(name) % len(_COLORS)]
            x, width = zero + min(mean, 0.0) * scale, abs(mean) * scale
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 3}" fill="{color}">'
                f"<title>{escape(f'{group}, {name}: {mean:.4g}')}</title></rect>"
            )
            if error:
                spread, at, middle = 1.96 * error * scale, zero + mean * scale, y + (_ROW - 3) / 2
                line = f'x1="{at - spread:.1f}" x2="{at + spread:.1f}" y1="{middle}" y2="{middle}"'
                parts.append(f'<line {line} stroke="{_INK}"/>')
            parts.append(_text(_WIDTH - 4, y + 11, f"{mean:.4g}", "end"))
            y += _ROW
        y += 6
    return _svg(y + 4, [*parts, *_legend(names)])


def _range(values: Sequence[float]) -> tuple[float, float]:
    if not len(values) or not all(map(math.isfinite, values)):
        raise ValueError("a plot needs finite values, at least one; leave undefined scores out")
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], _LABEL
    for name, color in zip(names, _COLORS, strict=False):
        parts += [f'<rect x="{x}" y="2" width="10" height="10" fill="{color}"/>', _text(x + 14, 11, name)]
        x += 30 + 7 * len(name)
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" role="img"'
    return f'{head} font-family="sans-serif" font-size="11" fill="{_INK}">{"".join(parts)}</svg>'
