"""Line charts as SVG, without a drawing library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#884422", "#444444", "#999999")
WIDTH, HEIGHT = 760, 400  # pixels; the legend is right of the plot, and makes it wider if its names are long
LEFT, RIGHT, TOP, BOTTOM = 60, 240, 30, 50

Points = Sequence[tuple[float, float]]


def line_chart(
    lines: Mapping[str, Points], title: str, x_label: str, y_label: str, show_x: Callable[[float], str] = "{:g}".format
) -> str:
    """An SVG picture of named lines; y starts at 0. Raises ValueError if there is nothing to show."""
    points = [point for line in lines.values() for point in line]
    if not points:
        raise ValueError("a chart needs at least one point")
    xs = sorted({x for x, _ in points})
    low, high, top = xs[0], xs[-1], max(y for _, y in points) * 1.05 or 1.0
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        share = (x - low) / (high - low) if high > low else 0.5
        return round(LEFT + width * share, 1), round(TOP + height * (1 - y / top), 1)

    parts = [_text(WIDTH / 2 - RIGHT / 2, 18, title, "middle", 14)]
    parts += _axes(xs, _ticks(top), place, show_x)
    parts.append(_text(LEFT + width / 2, HEIGHT - 10, x_label, "middle"))
    parts.append(
        f'<g transform="rotate(-90 16 {TOP + height / 2})">{_text(16, TOP + height / 2, y_label, "middle")}</g>'
    )
    for number, (name, line) in enumerate(lines.items()):
        color = COLORS[number % len(COLORS)]
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in sorted(line)))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>' for x, y in (place(*p) for p in line)]
        row = TOP + 12 + 18 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 16}" y="{row - 6}" width="14" height="4" fill="{color}"/>')
        parts.append(_text(WIDTH - RIGHT + 36, row, name))
    body = "\n".join(parts)
    whole = max(WIDTH, WIDTH - RIGHT + 44 + 7 * max(map(len, lines)))
    box = f'viewBox="0 0 {whole} {HEIGHT}" width="{whole}" height="{HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" fill="#222">'
    return f'{head}\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'


def _axes(xs: list[float], ys: list[float], place: Callable, show_x: Callable[[float], str]) -> list[str]:
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for y in ys:
        _, at = place(xs[0], y)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{at}" y2="{at}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, at + 4, f"{y:g}", "end"))
    for x in xs:
        at, _ = place(x, 0)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{floor}" y2="{floor + 4}" stroke="#888"/>')
        parts.append(_text(at, floor + 18, show_x(x), "middle"))
    return parts


def _ticks(top: float) -> list[float]:
    """About five round numbers from 0 to top."""
    rough = top / 5
    unit = 10.0 ** len(str(int(rough))) / 10 if rough >= 1 else 0.1
    step = next((unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough), unit * 10)
    return [round(step * i, 6) for i in range(int(top / step) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
