"""What a picture of the procedural world holds: things on a background, their words and how they are sampled.

Coordinates: x to the right and y downwards, as fractions of width and height in 0..1; a radius is a fraction of
min(H, W). Depth is in world units, from about 1 (near) to 5 (far), and can be inferred from the picture: the horizon
tells how far the wall is, and the row on which a thing stands tells how far the thing is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLORS = {
    "red": (222, 38, 38),
    "orange": (250, 138, 20),
    "yellow": (248, 226, 60),
    "green": (44, 168, 58),
    "cyan": (62, 212, 222),
    "blue": (42, 78, 226),
    "purple": (138, 54, 196),
    "pink": (248, 122, 184),
}
ROOMS = {
    "gray": (160, 160, 160),
    "sand": (212, 192, 150),
    "mint": (160, 206, 178),
    "navy": (62, 78, 118),
    "plum": (130, 88, 120),
    "brown": (118, 86, 60),
}
PATTERNS = ("plain", "striped", "dotted")
FACES = ("happy", "sad")
SIZES = {"small": 0.11, "large": 0.165}
_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")
POSITIONS = {
    f"{row} {column}".strip() or "center": ((2 * i + 1) / 6, (2 * j + 1) / 6)
    for j, row in enumerate(_ROWS)
    for i, column in enumerate(_COLUMNS)
}
# Photographs in the scikit-image wheel itself, so that nothing is downloaded.
PHOTOS = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "rocket.jpg",
)

# Held out: whether the model composes colours and shapes is measured on pairs that it has never seen.
UNSEEN_PAIRS = (
    ("red", "heart"),
    ("yellow", "square"),
    ("green", "star"),
    ("cyan", "triangle"),
    ("blue", "circle"),
    ("pink", "cross"),
)
SEEN_PAIRS = tuple((c, s) for c in COLORS for s in SHAPES if (c, s) not in UNSEEN_PAIRS)

HORIZON = (0.15, 0.7)
NEAR, FAR = 1.0, 5.0
# A thing is this much nearer than the background where it stands, so that it sticks out of the depth map.
STANDING = 0.8
_JITTER = 0.04
_TILT = math.radians(25)


@dataclass(frozen=True)
class Thing:
    """One coloured shape.

    x, y: centre in 0..1; radius: fraction of min(H, W); angle: radians, positive turns clockwise.
    color: key of COLORS, or "#rrggbb" where no text names it; face: one of FACES, or "" for none.
    """

    shape: str
    color: str
    pattern: str = "plain"
    x: float = 0.5
    y: float = 0.5
    radius: float = SIZES["large"]
    angle: float = 0.0
    face: str = ""

    @property
    def pair(self) -> tuple[str, str]:
        return self.color, self.shape

    @property
    def name(self) -> str:
        """For example "red circle": unique within a scene."""
        return f"{self.color} {self.shape}"

    @property
    def size_word(self) -> str:
        return min(SIZES, key=lambda word: abs(SIZES[word] - self.radius))

    @property
    def position_word(self) -> str:
        """The grid word whose centre is nearest."""
        return min(POSITIONS, key=lambda word: math.dist(POSITIONS[word], (self.x, self.y)))

    @property
    def phrase(self) -> str:
        """For example "a large striped red circle"."""
        return " ".join(["a", self.size_word, *([self.pattern] if self.pattern != "plain" else []), self.name])

    def at(self, position: str) -> Thing:
        """The thing at the exact centre of that grid cell."""
        x, y = POSITIONS[position]
        return replace(self, x=x, y=y)

    def facts(self) -> dict[str, Any]:
        """JSON-serialisable: the fields, and the size and position words."""
        return asdict(self) | {"size": self.size_word, "position": self.position_word}


@dataclass(frozen=True)
class Scene:
    """A background and the things on it.

    room: key of ROOMS; horizon: where wall and floor meet, fraction of H from the top.
    wall: "plain" or "striped"; floor: "plain" or "tiled".
    light: where light comes from, -1 (left) .. 1 (right).
    photo: index into PHOTOS, or None for a room; crop: (left, top, side) of the photograph, fractions.
    things: in no particular order; depth decides what hides what.
    """

    room: str
    horizon: float
    wall: str = "plain"
    floor: str = "plain"
    light: float = 0.0
    photo: int | None = None
    crop: tuple[float, float, float] = (0.0, 0.0, 1.0)
    things: tuple[Thing, ...] = ()

    @property
    def background(self) -> str:
        """Either "room" or "photo"."""
        return "room" if self.photo is None else "photo"

    def free_positions(self) -> list[str]:
        """Grid words of the cells that hold no thing's centre."""
        taken = {thing.position_word for thing in self.things}
        return [word for word in POSITIONS if word not in taken]

    def swap(self, old: Thing, new: Thing | None) -> Scene:
        """The scene with one thing replaced, or removed if `new` is None."""
        if old not in self.things:
            raise ValueError(f"the scene has no {old.name}; it has: {', '.join(t.name for t in self.things)}")
        things = (new if thing == old else thing for thing in self.things)
        return replace(self, things=tuple(thing for thing in things if thing is not None))

    def add(self, thing: Thing) -> Scene:
        return replace(self, things=(*self.things, thing))

    def background_depth(self, row: np.ndarray | float) -> np.ndarray:
        """World units at these rows (fractions of H): a wall, then a floor that comes nearer towards the bottom."""
        wall = FAR - 2.0 * (self.horizon - HORIZON[0]) / (HORIZON[1] - HORIZON[0])
        down = np.clip((np.asarray(row) - self.horizon) / (1.0 - self.horizon), 0.0, 1.0)
        return 1.0 / (1.0 / wall + down * (1.0 / NEAR - 1.0 / wall))

    def depth_of(self, thing: Thing, size: tuple[int, int] = (1, 1)) -> float:
        """World units: a thing stands upright where its lowest row meets the background, in a picture of `size`."""
        base = thing.y + thing.radius * min(size) / size[0]
        return STANDING * max(NEAR, float(self.background_depth(base)))


def describe(scene: Scene, things_first: bool = False) -> str:
    """The caption: "a sand room with a large red circle at the left and a small blue star at the top".

    things_first: "a large red circle at the left and a small blue star at the top in a sand room".
    """
    place = f"{scene.room} room" if scene.photo is None else "photo"
    if not scene.things:
        return f"an empty {place}"
    listed = enumerate_words([f"{thing.phrase} at the {thing.position_word}" for thing in scene.things])
    return f"{listed} in a {place}" if things_first else f"a {place} with {listed}"


def enumerate_words(phrases: Sequence[str]) -> str:
    """In the manner of "a", "a and b", "a, b and c"."""
    return ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]


def pick(rng: np.random.Generator, options: Iterable[T]) -> T:
    """One of the options, each as likely."""
    options = tuple(options)
    return options[int(rng.integers(len(options)))]


def sample_pattern(rng: np.random.Generator) -> str:
    """One of PATTERNS, "plain" in 70 % of the draws."""
    return "plain" if rng.random() < 0.7 else pick(rng, PATTERNS[1:])


def sample_tint(rng: np.random.Generator, shape: str) -> str:
    """A colour without a name as "#rrggbb", strong and far from those that the shape is held out in."""
    held_out = [COLORS[color] for color, other in UNSEEN_PAIRS if other == shape]
    while True:
        rgb = rng.integers(20, 256, 3)
        if np.ptp(rgb) >= 100 and all(math.dist(rgb, other) >= 100 for other in held_out):
            return "#{:02x}{:02x}{:02x}".format(*rgb)


def sample_angle(rng: np.random.Generator, upright: float = 0.7) -> float:
    """Radians: 0 with probability `upright`, else within 25 degrees either way."""
    return 0.0 if rng.random() < upright else float(rng.uniform(-_TILT, _TILT))


def sample_scene(
    rng: np.random.Generator, num_things: int | None = None, *, unseen: bool = False, photo_share: float = 0.0
) -> Scene:
    """A random scene with 1 to 3 things, or `num_things` (0..9), each at its own grid cell with a little jitter.

    unseen: the first thing is one of UNSEEN_PAIRS, which are never sampled otherwise.
    photo_share: how likely the background is a photograph, in 0..1.
    Raises ValueError for a number of things outside 0..9 or a share outside 0..1.
    """
    if num_things is None:
        num_things = 1 + int(np.searchsorted((0.3, 0.7), rng.random()))
    if not 0 <= num_things <= len(POSITIONS):
        raise ValueError(f"a scene has 0..{len(POSITIONS)} things, got {num_things}; ask for fewer")
    if not 0.0 <= photo_share <= 1.0:
        raise ValueError(f"photo_share is a probability in 0..1, got {photo_share}; give 0 for rooms only")
    pairs = [SEEN_PAIRS[i] for i in rng.choice(len(SEEN_PAIRS), num_things, replace=False)]
    if unseen and pairs:
        pairs[0] = pick(rng, UNSEEN_PAIRS)
    words = tuple(POSITIONS)
    cells = [words[i] for i in rng.choice(len(words), num_things, replace=False)]
    things = tuple(_sample_thing(rng, pair, cell) for pair, cell in zip(pairs, cells, strict=True))
    photo = int(rng.integers(len(PHOTOS))) if rng.random() < photo_share else None
    side = float(rng.uniform(0.5, 1.0))
    left, top = (float(v) * (1.0 - side) for v in rng.random(2))
    return Scene(
        room=pick(rng, ROOMS),
        horizon=float(rng.uniform(*HORIZON)) if photo is None else HORIZON[0],
        wall=pick(rng, ("plain", "striped")),
        floor=pick(rng, ("plain", "tiled")),
        light=float(rng.uniform(-1.0, 1.0)),
        photo=photo,
        crop=(left, top, side),
        things=things,
    )


def _sample_thing(rng: np.random.Generator, pair: tuple[str, str], cell: str) -> Thing:
    color, shape = pair
    radius = SIZES[pick(rng, SIZES)]
    # A large thing fills its cell, so at the border the jitter would cut it off.
    x, y = (float(np.clip(c + rng.uniform(-_JITTER, _JITTER), radius, 1.0 - radius)) for c in POSITIONS[cell])
    return Thing(shape, color, sample_pattern(rng), x, y, radius, sample_angle(rng))
