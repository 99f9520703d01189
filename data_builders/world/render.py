"""Draws scenes: the image, what is visible of each thing, and the depth.

Shapes are signed distance functions in the thing's own coordinates (u to the right, v downwards, 1 = its radius),
evaluated on its bounding box only. Everything is float32 and numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from data_builders.frames import grey
from data_builders.world.scene import COLORS, FAR, NEAR, PHOTOS, ROOMS, STANDING, Scene, Thing

DEPTH_RANGE = (STANDING * NEAR, FAR)  # world units that black and white stand for
ASSET_BACKGROUND = 226
_ASSET_RADIUS = 0.38
_SHADOW = 0.42  # share of light that the darkest point of a shadow takes away
_DARKER = 0.52  # patterns: the darker shade
_RIM = 0.62
_INK = 0.15  # faces are drawn in this shade


@dataclass(frozen=True)
class Rendering:
    """A drawn scene.

    image: uint8 (H, W, 3) RGB.
    masks: bool (H, W) per thing, in the scene's order: where it is visible.
    depth: float32 (H, W), world units.
    """

    image: np.ndarray
    masks: list[np.ndarray]
    depth: np.ndarray


def render(scene: Scene, size: tuple[int, int] = (64, 64)) -> Rendering:
    """Draws the scene at `size`, (height, width) in pixels. Raises ValueError for sizes below 8 pixels."""
    height, width = size
    if min(size) < 8:
        raise ValueError(f"pictures are at least 8x8 pixels, got height {height}, width {width}; ask for a larger size")
    image, depth = _background(scene.room, scene.horizon, scene.wall, scene.floor, scene.photo, scene.crop, size)
    image, depth = image.copy(), depth.copy()
    masks = [np.zeros(size, bool) for _ in scene.things]
    for thing in scene.things:
        _draw_shadow(image, thing, scene.light)
    distances = [scene.depth_of(thing, size) for thing in scene.things]
    # The sort is stable: of equals, the later one is in front.
    far_first = sorted(range(len(distances)), key=lambda i: -distances[i])
    for index in far_first:
        box, solid = _draw_thing(image, scene.things[index], scene.light)
        if box is None:
            continue
        for mask in masks:
            mask[box] &= ~solid
        masks[index][box] = solid
        depth[box][solid] = distances[index]
    return Rendering(_to_bytes(image), masks, depth)


def render_asset(thing: Thing, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """The thing alone in the middle of a light grey frame, without shadow: uint8 (H, W, 3). Its angle is kept."""
    image = np.full((*size, 3), ASSET_BACKGROUND, np.float32)
    alone = Thing(thing.shape, thing.color, thing.pattern, 0.5, 0.5, _ASSET_RADIUS, thing.angle)
    _draw_thing(image, alone, 0.0)
    return _to_bytes(image)


def pattern_swatch(thing: Thing, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """A frame full of the thing's colour and pattern, in the scale of an asset: uint8 (H, W, 3)."""
    y, x = pixel_grid(*size)
    radius = _ASSET_RADIUS * min(size)
    u, v = (x - size[1] / 2) / radius, (y - size[0] / 2) / radius
    shade = np.broadcast_to(_pattern(thing.pattern, u, v), size)
    return _to_bytes(shade[..., None] * _rgb(thing.color))


def encode_depth(depth: np.ndarray) -> np.ndarray:
    """World units (H, W) to a grey picture, uint8 (H, W, 3): black is near, white is far."""
    low, high = DEPTH_RANGE
    return grey(_to_bytes(255.0 * (depth - low) / (high - low)))


def decode_depth(image: np.ndarray) -> np.ndarray:
    """The inverse of encode_depth up to rounding: uint8 (H, W, 3) to float32 (H, W) in world units."""
    low, high = DEPTH_RANGE
    return image.astype(np.float32).mean(axis=2) / 255.0 * (high - low) + low


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0.0, 255.0) + 0.5).astype(np.uint8)


@lru_cache(maxsize=32)
def pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres as a column (H, 1) and a row (1, W), float32."""
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    columns = np.arange(width, dtype=np.float32)[None] + 0.5
    return rows, columns


@lru_cache(maxsize=32)
def _rgb(color: str) -> np.ndarray:
    named = COLORS | ROOMS
    return np.array(named[color] if color in named else ImageColor.getrgb(color), np.float32)


# The scenes before and after an edit share their background, so the last few are worth keeping.
@lru_cache(maxsize=16)
def _background(
    room: str,
    horizon: float,
    wall: str,
    floor: str,
    photo: int | None,
    crop: tuple[float, float, float],
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Float32 image (H, W, 3) in 0..255 and depth (H, W) without things. Shared: copy before drawing."""
    height, width = size
    y, x = pixel_grid(height, width)
    rows = Scene(room, horizon).background_depth(y / height).astype(np.float32)
    depth = np.repeat(rows, width, axis=1)
    if photo is not None:
        return _photo_crop(photo, crop, size), depth
    down = y / height
    on_wall = np.clip((horizon - down) * height + 0.5, 0.0, 1.0)  # 1 on the wall, 0 on the floor, one pixel between
    tone_wall = 1.1 - 0.22 * down / horizon
    tone_floor = 0.6 + 0.16 * (down - horizon) / (1.0 - horizon)
    if wall == "striped":
        tone_wall = tone_wall * (1.0 + 0.045 * _wave(x / width * 6.0))
    if floor == "tiled":
        tone_floor = tone_floor * (1.0 + 0.06 * _wave(x / width * 4.0) * _wave((1.0 - down) * 4.0))
    tone = tone_wall * on_wall + tone_floor * (1.0 - on_wall)
    return (np.broadcast_to(tone, size)[..., None] * _rgb(room)).astype(np.float32), depth


def _wave(cycles: np.ndarray) -> np.ndarray:
    """A square wave with soft edges, -1..1, one period per cycle."""
    return np.clip(4.0 * np.sin(2.0 * math.pi * cycles), -1.0, 1.0)


@lru_cache(maxsize=len(PHOTOS))
def _photo(index: int) -> Image.Image:
    """One of scikit-image's photographs, at most 256 pixels on its short side."""
    try:
        import skimage
    except ImportError as error:
        raise ValueError(
            "photograph backgrounds come with scikit-image, which is not installed; "
            "install it (pip install scikit-image) or set photo_share to 0"
        ) from error
    path = Path(skimage.__file__).parent / "data" / PHOTOS[index]
    if not path.is_file():
        raise ValueError(f"this scikit-image has no photograph {path}; install version 0.20 or later")
    photo = Image.open(path).convert("RGB")
    scale = 256 / min(photo.size)
    return photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)


def _photo_crop(index: int, crop: tuple[float, float, float], size: tuple[int, int]) -> np.ndarray:
    photo = _photo(index)
    height, width = size
    scale = crop[2] * min(photo.width / width, photo.height / height)  # the crop has the picture's aspect
    spare_x, spare_y = photo.width - scale * width, photo.height - scale * height
    share = 1.0 - crop[2] or 1.0
    left, top = spare_x * crop[0] / share, spare_y * crop[1] / share
    box = (left, top, left + scale * width, top + scale * height)
    return np.asarray(photo.resize((width, height), Image.Resampling.BOX, box=box), np.float32)


def _window(image: np.ndarray, x: float, y: float, half_x: float, half_y: float):
    """The slices of the image within half_x, half_y pixels of (x, y), and pixel offsets from it; None if outside."""
    height, width = image.shape[:2]
    top, bottom = max(0, math.floor(y - half_y)), min(height, math.ceil(y + half_y))
    left, right = max(0, math.floor(x - half_x)), min(width, math.ceil(x + half_x))
    if top >= bottom or left >= right:
        return None, None, None
    rows, columns = pixel_grid(height, width)
    return (slice(top, bottom), slice(left, right)), columns[:, left:right] - x, rows[top:bottom] - y


def _draw_shadow(image: np.ndarray, thing: Thing, light: float) -> None:
    """Darkens an ellipse where the thing stands, a little away from the light."""
    height, width = image.shape[:2]
    radius = thing.radius * min(height, width)
    x, y = thing.x * width - 0.25 * light * radius, thing.y * height + 0.92 * radius
    box, dx, dy = _window(image, x, y, 1.25 * radius, 0.42 * radius)
    if box is None:
        return
    falloff = np.maximum(0.0, 1.0 - (dx / (1.25 * radius)) ** 2 - (dy / (0.42 * radius)) ** 2)
    image[box] *= (1.0 - _SHADOW * falloff)[..., None]


def _draw_thing(image: np.ndarray, thing: Thing, light: float):
    """Blends the thing over the image. Returns its box and, within it, where it covers at least half a pixel."""
    height, width = image.shape[:2]
    radius = thing.radius * min(height, width)
    reach = 1.3 * radius + 1.0
    box, dx, dy = _window(image, thing.x * width, thing.y * height, reach, reach)
    if box is None:
        return None, None
    cos, sin = math.cos(thing.angle) / radius, math.sin(thing.angle) / radius
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    distance = _DISTANCES[thing.shape](u, v) * radius  # pixels, negative inside
    rim = np.clip(distance + max(1.0, 0.1 * radius) + 0.5, 0.0, 1.0)
    shade = _pattern(thing.pattern, u, v) * (1.0 + (0.1 / radius) * (light * dx - dy))
    shade *= 1.0 - (1.0 - _RIM) * rim
    if thing.face:
        shade *= 1.0 - (1.0 - _INK) * np.clip(0.5 - _face(thing.face, u, v) * radius, 0.0, 1.0)
    alpha = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
    view = image[box]
    view += alpha * (np.minimum(shade[..., None] * _rgb(thing.color), 255.0) - view)
    return box, distance < 0.0


def _pattern(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray | float:
    """Shade per point, _DARKER..1: stripes across, or dots on a square grid, in the thing's own coordinates."""
    if name == "plain":
        return 1.0
    if name == "striped":
        dark = np.clip(0.5 + 1.5 * np.sin((2.0 * math.pi / 0.62) * v), 0.0, 1.0) + 0.0 * u
    else:
        period = math.pi / 0.66
        dark = np.clip(3.0 * (np.cos(period * u) * np.cos(period * v)) ** 2 - 0.9, 0.0, 1.0)
    return 1.0 - (1.0 - _DARKER) * dark


def _face(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance to two eyes and a mouth: the lower arc of a circle if it is happy, the upper one of another if sad."""
    eyes = np.sqrt((np.abs(u) - 0.3) ** 2 + (v + 0.2) ** 2) - 0.15
    middle, side = (-0.05, 1) if name == "happy" else (0.68, -1)
    arc = np.abs(np.sqrt(u * u + (v - middle) ** 2) - 0.42) - 0.09
    mouth = np.maximum(arc, 0.18 - side * (v - middle))
    return np.minimum(eyes, mouth)


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) - 0.95


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.82


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    v = v - 0.22
    return np.maximum(v, 0.866 * np.abs(u) - 0.5 * v) - 0.6


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points: one point's two edges, folded around."""
    outer, inner, turn = 1.1, 0.46, math.pi / 5
    length = np.sqrt(u * u + v * v)
    fold = np.abs((np.arctan2(u, -v) + turn) % (2 * turn) - turn)
    tip = (inner * math.cos(turn) - outer, inner * math.sin(turn))
    scale = 1.0 / math.hypot(*tip)
    return ((outer - length * np.cos(fold)) * -tip[1] - (length * np.sin(fold)) * tip[0]) * scale


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(u, v) - 0.33, np.maximum(u, v) - 0.98)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Two arcs over a corner (after I. Quilez's distance to a heart)."""
    scale = 1.68
    x, y = np.abs(u) / scale, 0.56 - v / scale
    arcs = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - math.sqrt(2) / 4
    along = 0.5 * np.maximum(x + y, 0.0)
    corner = np.sqrt(np.minimum(x * x + (y - 1.0) ** 2, (x - along) ** 2 + (y - along) ** 2)) * np.sign(x - y)
    return np.where(x + y > 1.0, arcs, corner) * scale


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}
