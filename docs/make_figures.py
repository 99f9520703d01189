"""Draws the figures of docs/concepts.md from the code into docs/images/*.svg.

python docs/make_figures.py            # after changing Role, TASKS, the context keywords or the world
python docs/make_figures.py --check    # exit 1 if a figure is not what the code says
"""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from data_builders.world.recipes import world_sample
from unireal.config import MODELS
from unireal.model.vae import FrameCodec
from unireal.prompts import CONTEXT_KEYWORDS, join, parse_context, referring_words
from unireal.sample import Role, Sample
from unireal.tasks import CONTROL_KINDS, TASKS, TaskSpec

FOLDER = Path(__file__).parent / "images"
ROLE_COLORS = dict(zip(Role, ("#2f6fb3", "#c2691c", "#6b4fa0", "#2e8b57"), strict=True))
TEXT_COLOR, INK, FAINT, LINE = "#5f6b7a", "#1f2933", "#6b7785", "#d5dbe2"
MEANING = {  # UniReal, section 3.1
    Role.CANVAS: "edited or kept in place",
    Role.ASSET: "a reference; size and pose may change",
    Role.CONTROL: "constrains layout or shape",
    Role.RESULT: "what is generated",
}
SEED = 3  # of the scenes
PICTURE = 84  # pixels of a drawn frame's longer side
LETTER = 7.0  # width of a letter of the text chips


def svg(width: float, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="Helvetica, Arial, sans-serif" font-size="13">\n'
        + "\n".join([box(0, 0, width, height, "#ffffff"), *parts])
        + "\n</svg>\n"
    )


def text(
    x: float, y: float, words: str, color: str = INK, size: float = 13, anchor: str = "middle", **more: str
) -> str:
    style = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{color}" font-size="{size:g}" text-anchor="{anchor}"{style}>'
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, width: float, height: float, color: str, radius: float = 6) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{color}"/>'


def badge(x: float, y: float, words: str, color: str) -> str:
    """White words on a coloured pill around (x, y)."""
    width = LETTER * len(words) + 14
    return box(x - width / 2, y - 10, width, 20, color, 10) + text(x, y + 4.5, words, "#ffffff", 12)


def picture(x: float, y: float, image: np.ndarray, longest: int = 64) -> str:
    """uint8 (H, W, 3) around x, below y; `longest` pixels of the picture are drawn as PICTURE."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    height, width = (side * PICTURE / longest for side in image.shape[:2])
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<image x="{x - width / 2:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
        f'<rect x="{x - width / 2:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="none" stroke="{LINE}"/>'
    )


def sequence() -> str:
    """One sample as the transformer sees it: text, inputs and result with their roles, indices and times."""
    sample = world_sample("insert", SEED)
    frames = [*sample.inputs, *sample.results]
    words = referring_words(len(sample.inputs), len(sample.results))
    colors = [ROLE_COLORS[frame.role] for frame in frames]
    chips, end = text_chips(sample, dict(zip(words, colors, strict=True)))
    parts = [text(20, 28, "text: context prompt, then the instruction", anchor="start", font_weight="bold"), *chips]
    codec = FrameCodec(None, MODELS["tiny"].transformer["patch_size"])
    tokens = [int(np.prod(codec.latent_size(frame.size))) // codec.multiple**2 for frame in frames]
    top = end + 52
    parts.append(text(20, top - 22, "frames", anchor="start", font_weight="bold"))
    noise = np.random.default_rng(SEED).integers(0, 256, frames[-1].image.shape, dtype=np.uint8)
    for i, (frame, word, color, count) in enumerate(zip(frames, words, colors, tokens, strict=True)):
        x, result = 110 + 180 * i, frame.role is Role.RESULT
        parts += [
            badge(x, top, frame.role, color),
            picture(x, top + 18, noise if result else frame.image),
            text(x, top + 124, word, color, 15, font_weight="bold"),
            text(x, top + 142, f"{count} tokens, t " + ("from 1 to 0" if result else "= 0"), FAINT, 12),
        ]
    x = 110 + 180 * len(frames)
    parts += [
        text(x - 88, top + 64, "→", FAINT, 26),
        picture(x, top + 18, frames[-1].image),
        text(x, top + 124, "after the last step", FAINT, 12),
    ]
    size = MODELS["tiny"].transformer
    attention = {"isolated": "text and inputs do not attend to results"}.get(
        size["condition_attention"], "full attention"
    )
    lengths = [len(chips), *tokens]
    bar = sequence_bar(top + 178, ["text", *words], lengths, [TEXT_COLOR, *colors])
    caption = f"size tiny: one sequence of {sum(lengths)} tokens, {size['num_layers']} equal blocks, {attention}"
    return svg(760, top + 244, [*parts, *bar, text(380, top + 228, caption, FAINT, 12)])


def text_chips(sample: Sample, colors: dict[str, str]) -> tuple[list[str], float]:
    """The words of the prompt as chips, referring words in the colours of their frames; and where they end."""
    chips, x, y = [], 20.0, 44.0
    prompt = join(sample.context, sample.instruction)
    start = len(prompt) - len(sample.instruction)  # of the instruction
    for match in re.finditer(r"\w+|[^\w\s]", prompt):
        width = LETTER * len(match[0]) + 10
        if x + width > 740:
            x, y = 20.0, y + 28
        color = colors.get(match[0], TEXT_COLOR if match.start() >= start else "#98a3b0")
        label = text(x + width / 2, y + 15.5, match[0], "#ffffff", 12, font_family="monospace")
        chips.append(box(x, y, width, 22, color, 4) + label)
        x += width + 4
    return chips, y + 22


def sequence_bar(y: float, names: list[str], lengths: list[int], colors: list[str]) -> list[str]:
    unit, x, parts = 720 / sum(lengths), 20.0, []
    for name, length, color in zip(names, lengths, colors, strict=True):
        width = unit * length
        parts += [box(x + 1, y, width - 2, 26, color, 3), text(x + width / 2, y + 17, name, "#ffffff", 12)]
        x += width
    return parts


def roles() -> str:
    """What frames of every role may show."""
    insert, segment, depth = (world_sample(recipe, SEED) for recipe in ("insert", "segment", "depth"))
    shown = {
        Role.CANVAS: [("image", insert.inputs[0].image)],
        Role.ASSET: [("image", insert.inputs[1].image)],
        Role.CONTROL: [(kind, world_sample(f"control_{kind}", SEED).inputs[0].image) for kind in CONTROL_KINDS],
        Role.RESULT: [(s.results[0].kind, s.results[0].image) for s in (insert, segment, depth)],
    }
    parts, y = [], 20.0
    for role in Role:
        lines = [shown[role][i : i + 4] for i in range(0, len(shown[role]), 4)]
        parts += [badge(130, y + 36, role, ROLE_COLORS[role]), text(130, y + 64, MEANING[role], FAINT, 12)]
        for line in lines:
            for i, (kind, image) in enumerate(line):
                x = 310 + 110 * i
                parts += [picture(x, y, image), text(x, y + PICTURE + 15, kind, FAINT, 12)]
            y += PICTURE + 30
        parts.append(box(20, y - 6, 700, 1, LINE, 0))
        y += 8
    return svg(740, y, parts)


def tasks() -> str:
    """Which roles and which context keywords each task has."""
    left, step, row, top = 120, 62, 27, 128
    columns = [*Role, *CONTEXT_KEYWORDS]
    centers = [left + step * i + step / 2 + (24 if i >= len(Role) else 0) for i in range(len(columns))]
    parts = []
    for name, x in zip(columns, centers, strict=True):
        turned = f"rotate(-40 {x:g} {top - 14})"
        parts.append(text(x, top - 14, name, ROLE_COLORS.get(name, INK), 12, "start", transform=turned))
    for number, spec in enumerate(TASKS.values()):
        y = top + row * number
        parts += [box(16, y - 2, centers[-1] + 14, 1, LINE, 0), text(20, y + 17, spec.name, anchor="start")]
        for role, x in zip(Role, centers, strict=False):
            if count := frame_count(spec, role):
                parts.append(badge(x, y + 12, count, ROLE_COLORS[role]))
        for keyword, x in zip(CONTEXT_KEYWORDS, centers[len(Role) :], strict=True):
            if keyword in parse_context(spec.context):
                parts.append(f'<circle cx="{x:g}" cy="{y + 12:g}" r="6" fill="{TEXT_COLOR}"/>')
    return svg(centers[-1] + 110, top + row * len(TASKS) + 12, parts)


def frame_count(spec: TaskSpec, role: Role) -> str:
    """How many frames of a role a task has: "1", "0-3", or nothing."""
    slots = [slot for slot in spec.slots if slot.role is role]
    low, high = sum(slot.minimum for slot in slots), sum(slot.maximum for slot in slots)
    if role is Role.RESULT:
        low, high = spec.num_results
    if role is Role.CONTROL and spec.prepare == "expand":
        low, high = low + 1, high + 1  # the mask of the border that --expand adds
    return "" if not high else f"{low}" if low == high else f"{low}-{high}"


FIGURES = {"sequence": sequence, "roles": roles, "tasks": tasks}


def without_coding(figure: str) -> str:
    """The figure with its pictures as the pixels they hold: PNGs of the same pixels differ between versions of zlib."""

    def pixels(match: re.Match[str]) -> str:
        with Image.open(io.BytesIO(base64.b64decode(match[1]))) as image:
            return image.convert("RGB").tobytes().hex()

    return re.sub(r"data:image/png;base64,([\w+/=]+)", pixels, figure)


def main() -> int:
    check, status = "--check" in sys.argv[1:], 0
    for name, draw in FIGURES.items():
        path, figure = FOLDER / f"{name}.svg", draw()
        if not check:
            path.write_text(figure, encoding="utf-8")
        elif not path.is_file() or without_coding(path.read_text(encoding="utf-8")) != without_coding(figure):
            print(f"{path.name} is not up to date; run: python docs/make_figures.py", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
