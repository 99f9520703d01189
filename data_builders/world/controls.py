"""What a control frame shows of a scene: depth, edges, regions, boxes, poses, drags. Each is uint8 (H, W, 3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_builders.frames import grey
from data_builders.world.draw import dilate
from data_builders.world.render import Rendering, encode_depth, pixel_grid
from data_builders.world.scene import COLORS, Scene

_PENCIL, _PAPER = 40, 255


def depth_map(scene: Scene, drawn: Rendering) -> np.ndarray:
    return encode_depth(drawn.depth)


def edge_map(scene: Scene, drawn: Rendering) -> np.ndarray:
    """White on black: the outlines of things, and where wall and floor meet."""
    labels = _labels(drawn)
    if scene.photo is None:
        height = len(labels)
        floor = np.arange(height) + 0.5 > scene.horizon * height
        labels = np.where((labels == 0) & floor[:, None], -1, labels)
    return grey(_borders(labels).astype(np.uint8) * np.uint8(255))


def sketch(scene: Scene, drawn: Rendering) -> np.ndarray:
    """Thick dark outlines of things on white paper."""
    lines = dilate(_borders(_labels(drawn)))
    return grey(np.where(lines, _PENCIL, _PAPER).astype(np.uint8))


def segmentation_map(scene: Scene, drawn: Rendering) -> np.ndarray:
    """Each thing filled with its colour, on black."""
    image = np.zeros_like(drawn.image)
    for thing, mask in zip(scene.things, drawn.masks, strict=True):
        image[mask] = COLORS[thing.color]
    return image


def thing_mask(scene: Scene, drawn: Rendering) -> np.ndarray:
    """White on black: all things."""
    return grey((_labels(drawn) > 0).astype(np.uint8) * np.uint8(255))


def layout_boxes(scene: Scene, drawn: Rendering) -> np.ndarray:
    """The frame of each thing's bounding box in its colour, on black."""
    image = np.zeros_like(drawn.image)
    for thing, mask in zip(scene.things, drawn.masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        box = np.zeros_like(mask)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        box[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]] = False
        image[box] = COLORS[thing.color]
    return image


def pose_map(scene: Scene, drawn: Rendering) -> np.ndarray:
    """Each thing's skeleton in its colour, on black: a spine from the base to the top, and arms at the centre."""
    height, width = drawn.depth.shape
    image = np.zeros_like(drawn.image)
    for thing in scene.things:
        x, y, radius = thing.x * width, thing.y * height, thing.radius * min(height, width)
        up = np.array((np.sin(thing.angle), -np.cos(thing.angle))) * radius
        side = np.array((-up[1], up[0])) * 0.6
        centre = np.array((x, y))
        # Below the centre the spine is shorter, which tells the top from the base.
        for start, end in ((centre - side, centre + side), (centre - 0.5 * up, centre + up)):
            draw_line(image, tuple(start), tuple(end), COLORS[thing.color], max(0.8, radius / 8))
    return image


def drag_map(image: np.ndarray, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """The picture at half its brightness, under a white dot at `start`, a grey one at `end` (x, y, pixels), joined."""
    dimmed = image // 2
    dot = max(1.5, min(image.shape[:2]) / 26)
    draw_line(dimmed, start, end, (170, 170, 170), max(0.7, dot / 3))
    draw_line(dimmed, end, end, (170, 170, 170), dot)
    draw_line(dimmed, start, start, (255, 255, 255), dot)
    return dimmed


def draw_line(
    image: np.ndarray, start: tuple[float, float], end: tuple[float, float], color: tuple[int, ...], half_width: float
) -> None:
    """Draws a line with round ends into uint8 (H, W, 3), without blending; x, y in pixels."""
    y, x = pixel_grid(*image.shape[:2])
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-6)
    along = np.clip(along, 0.0, 1.0)
    near = (x - start[0] - along * dx) ** 2 + (y - start[1] - along * dy) ** 2 <= half_width**2
    image[near] = color


def _labels(drawn: Rendering) -> np.ndarray:
    """int (H, W): 0 for the background, 1 for the first thing, ..."""
    labels = np.zeros(drawn.depth.shape, int)
    for number, mask in enumerate(drawn.masks, start=1):
        labels[mask] = number
    return labels


def _borders(labels: np.ndarray) -> np.ndarray:
    """bool (H, W): the label differs from that of the pixel on the right or below."""
    borders = np.zeros(labels.shape, bool)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    return borders


CONTROLS: dict[str, Callable[[Scene, Rendering], np.ndarray]] = {
    "depth": depth_map,
    "edge": edge_map,
    "segmentation": segmentation_map,
    "sketch": sketch,
    "layout": layout_boxes,
    "mask": thing_mask,
    "pose": pose_map,
}
