"""Scenes and what is done to them, as training samples: one recipe per kind of example.

Whatever a recipe asks for follows from its text and inputs alone, so that a result can be compared with the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from data_builders.world.render import Rendering, encode_depth, render, render_asset, pattern_swatch
from data_builders.world.scene import (
    COLORS,
    POSITIONS,
    ROOMS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    describe,
    SEEN_PAIRS,
    UNSEEN_PAIRS,
    pick,
    sample_pattern,
    sample_scene,
)
from unireal.sample import Frame, Role, Sample
from unireal.tasks import TASKS

Size = tuple[int, int]
HOLE = 127  # grey of unknown pixels in inpainting and outpainting


@dataclass
class Draw:
    """What a recipe draws from: random numbers, the size of its frames (H, W), and the kind of scene wanted."""

    rng: np.random.Generator
    size: Size
    unseen: bool = False
    photo_share: float = 0.0

    def choice(self, options):
        return pick(self.rng, options)

    def scene(self, num_things: int | None = None) -> Scene:
        return sample_scene(self.rng, num_things, unseen=self.unseen, photo_share=self.photo_share)

    def target(self, scene: Scene) -> int:
        """Index of the thing that the example is about; the unseen pair, if one is wanted, comes first."""
        return 0 if self.unseen else int(self.rng.integers(len(scene.things)))

    def thing(self, scene: Scene) -> Thing:
        """A plain upright thing that the scene lacks."""
        taken = {thing.pair for thing in scene.things}
        pairs = UNSEEN_PAIRS if self.unseen else SEEN_PAIRS
        color, shape = self.choice(p for p in pairs if p not in taken)
        return Thing(shape, color, radius=SIZES[self.choice(SIZES)])


@dataclass
class Example:
    """What a recipe makes; `world_sample` completes it."""

    instruction: str
    inputs: list[Frame]
    results: list[Frame]
    scene: Scene
    target: Thing | None = None
    mask: np.ndarray | None = None
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """task: the task that its samples belong to; weight: its share of the training mixture."""

    task: str
    weight: float
    make: Callable[[Draw], Example]
    context: str | None = None


def canvas(image: np.ndarray) -> Frame:
    return Frame(image, Role.CANVAS)


def asset(thing: Thing, size: Size) -> Frame:
    return Frame(render_asset(thing, (size[0] // 2, size[1] // 2)), Role.ASSET)


def control(image: np.ndarray, kind: str) -> Frame:
    return Frame(image, Role.CONTROL, kind)


def result(image: np.ndarray, kind: str = "image") -> Frame:
    return Frame(image, Role.RESULT, kind)


def grey(mask: np.ndarray) -> np.ndarray:
    """A mask bool (H, W) as white on black, uint8 (H, W, 3)."""
    return np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255


def grow(mask: np.ndarray) -> np.ndarray:
    """The mask and its 8 neighbours."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where two images differ, grown by a pixel; bool (H, W)."""
    return grow((before != after).any(axis=2))


# --- edits: the scene before and after --------------------------------------------------------------------------------


def _edited(draw: Draw, before: Scene, after: Scene, target: Thing, instruction: str, **extra) -> Example:
    old, new = render(before, draw.size).image, render(after, draw.size).image
    return Example(instruction, [canvas(old)], [result(new)], after, target, difference(old, new), extra)


def _free_pairs(draw: Draw, scene: Scene) -> list[tuple[str, str]]:
    """Colours and shapes that an edit may make: none that the scene has, none that training must not show."""
    taken = {thing.pair for thing in scene.things}
    return [p for p in SEEN_PAIRS if p not in taken]


def recolor(draw: Draw) -> Example:
    scene = draw.scene()
    i = draw.target(scene)
    thing = scene.things[i]
    color = draw.choice(c for c, s in _free_pairs(draw, scene) if s == thing.shape)
    phrase = draw.choice(("Make the {} {}.", "Change the color of the {} to {}.", "Turn the {} {}.", "Paint the {} {}."))
    return _edited(draw, scene, scene.swap(scene.things[i], replace(thing, color=color)), thing, phrase.format(thing.name, color))


def remove(draw: Draw) -> Example:
    scene = draw.scene()
    i = draw.target(scene)
    phrase = draw.choice(("Remove the {}.", "Delete the {}.", "Erase the {}.", "Take away the {}."))
    return _edited(draw, scene, scene.swap(scene.things[i], None), scene.things[i], phrase.format(scene.things[i].name))


def add(draw: Draw) -> Example:
    scene = replace(draw.scene(), things=draw.scene().things[:2]) if draw.unseen else draw.scene()
    thing = draw.thing(scene).at(draw.choice(scene.free_positions()))
    phrase = draw.choice(("Add a {} {} at the {}.", "Put a {} {} at the {}.", "Place a {} {} at the {}."))
    return _edited(draw, scene, scene.add(thing), thing, phrase.format(thing.size_word, thing.name, thing.position_word))


def move(draw: Draw) -> Example:
    scene = draw.scene()
    i = draw.target(scene)
    thing = scene.things[i]
    moved = thing.at(draw.choice(scene.free_positions()))
    phrase = draw.choice(("Move the {} to the {}.", "Shift the {} to the {}.", "Put the {} at the {}."))
    return _edited(draw, scene, scene.swap(scene.things[i], moved), thing, phrase.format(thing.name, moved.position_word))


def replace_shape(draw: Draw) -> Example:
    scene = draw.scene()
    i = draw.target(scene)
    thing = scene.things[i]
    shape = draw.choice(s for c, s in _free_pairs(draw, scene) if c == thing.color)
    phrase = draw.choice(("Replace the {} with a {}.", "Turn the {} into a {}.", "Change the {} to a {}."))
    after = scene.swap(scene.things[i], replace(thing, shape=shape, angle=0.0))
    return _edited(draw, scene, after, thing, phrase.format(thing.name, shape), shape=shape)


def resize(draw: Draw) -> Example:
    scene = draw.scene()
    i = draw.target(scene)
    thing = scene.things[i]
    size = "large" if thing.size_word == "small" else "small"
    phrase = draw.choice(("Make the {} {}.", "Make the {} {} in size.")).format(
        thing.name, "larger" if size == "large" else "smaller"
    )
    return _edited(draw, scene, scene.swap(scene.things[i], replace(thing, radius=SIZES[size])), thing, phrase)


def background(draw: Draw) -> Example:
    scene = replace(draw.scene(), photo=None)
    room = draw.choice(r for r in ROOMS if r != scene.room)
    phrase = draw.choice(("Change the room to {}.", "Make the room {}.", "Paint the room {}."))
    return _edited(draw, scene, replace(scene, room=room), scene.things[0], phrase.format(room))


def edit_mask(draw: Draw) -> Example:
    example = draw.choice((recolor, remove, add, move, replace_shape))(draw)
    phrase = "; Predict the mask of the edited region in RES2."
    mask = result(grey(example.mask), "mask")
    return replace(example, instruction=example.instruction.rstrip(".") + phrase, results=[*example.results, mask])


def join_words(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


# --- reference objects ------------------------------------------------------------------------------------------------


def _turned(draw: Draw, thing: Thing) -> Thing:
    return thing if draw.rng.random() < 0.5 else replace(thing, angle=float(draw.rng.uniform(-0.44, 0.44)))


def insert(draw: Draw) -> Example:
    scene = replace(draw.scene(), things=draw.scene().things[:2])
    thing = draw.thing(scene).at(draw.choice(scene.free_positions()))
    phrase = draw.choice(("Add the object from IMG2 to IMG1, {}, at the {}.", "Put the object of IMG2 into IMG1, {}, at the {}."))
    instruction = phrase.format(thing.size_word, thing.position_word)
    example = _edited(draw, scene, scene.add(thing), thing, instruction)
    return replace(example, inputs=[*example.inputs, asset(_turned(draw, thing), draw.size)])


def tryon(draw: Draw) -> Example:
    scene = draw.scene()
    i = draw.target(scene)
    thing = scene.things[i]
    cloth = Thing("square", draw.choice(COLORS), sample_pattern(draw.rng))
    dressed = replace(thing, color=cloth.color, pattern=cloth.pattern)
    example = _edited(draw, scene, scene.swap(scene.things[i], dressed), thing, f"Dress the {thing.name} of IMG1 in the pattern of IMG2.")
    half = (draw.size[0] // 2, draw.size[1] // 2)
    return replace(example, inputs=[*example.inputs, Frame(pattern_swatch(cloth, half), Role.ASSET)])


def _customize(draw: Draw, count: int) -> Example:
    scene = replace(draw.scene(1), things=(), photo=None)
    cells = draw.rng.permutation(len(POSITIONS))
    for i in range(count):
        thing = draw.thing(scene)
        scene = scene.add(thing.at(list(POSITIONS)[cells[i]]))
    parts = [f"the object from IMG{i + 1}, {t.size_word}, at the {t.position_word}" for i, t in enumerate(scene.things)]
    instruction = f"{join_words(parts)} in a {scene.room} room."
    inputs = [asset(_turned(draw, t), draw.size) for t in scene.things]
    image = render(scene, draw.size).image
    return Example(instruction[0].upper() + instruction[1:], inputs, [result(image)], scene, scene.things[0])


def customize1(draw: Draw) -> Example:
    return _customize(draw, 1)


def customize2(draw: Draw) -> Example:
    return _customize(draw, 2)


def customize_mask(draw: Draw) -> Example:
    example = _customize(draw, 1)
    mask = grey(render(example.scene, draw.size).masks[0])
    instruction = example.instruction.rstrip(".") + "; Predict the mask of the object in RES2."
    return replace(example, instruction=instruction, results=[*example.results, result(mask, "mask")])


# --- perception, control, restoration, completion, text ---------------------------------------------------------------


def depth(draw: Draw) -> Example:
    scene = draw.scene()
    seen = render(scene, draw.size)
    phrase = draw.choice(("Predict the depth map of IMG1.", "Predict the depth map of this image.", "Estimate the depth."))
    return Example(phrase, [canvas(seen.image)], [result(encode_depth(seen.depth), "depth")], scene)


def segment(draw: Draw) -> Example:
    scene = draw.scene()
    i = draw.target(scene)
    seen = render(scene, draw.size)
    phrase = draw.choice(("Segment the {}.", "Segment the {} in IMG1.", "Predict the mask of the {}."))
    instruction = phrase.format(scene.things[i].name)
    return Example(instruction, [canvas(seen.image)], [result(grey(seen.masks[i]), "mask")], scene, scene.things[i])


def colorize(draw: Draw) -> Example:
    return _restored(draw, ("Colorize IMG1; {}.", "Add the colors to IMG1; {}."), _to_grey)


def deblur(draw: Draw) -> Example:
    return _restored(draw, ("Deblur IMG1.", "Sharpen IMG1.", "Restore IMG1."), _blur)


def _restored(draw: Draw, phrases: tuple[str, ...], degrade: Callable[[np.ndarray], np.ndarray]) -> Example:
    scene = draw.scene()
    image = render(scene, draw.size).image
    instruction = draw.choice(phrases).format(describe(scene))
    return Example(instruction, [canvas(degrade(image))], [result(image)], scene)


def _to_grey(image: np.ndarray) -> np.ndarray:
    luma = (image @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=2)


def _blur(image: np.ndarray) -> np.ndarray:
    """Three box filters of 3 pixels, about a Gaussian of 1.4."""
    x = image.astype(np.float32)
    for axis in (0, 1) * 3:
        padded = np.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        n = x.shape[axis]
        x = sum(np.take(padded, range(k, k + n), axis=axis) for k in range(3)) / 3
    return x.round().astype(np.uint8)


def _completed(draw: Draw, hole: np.ndarray, phrase: str) -> Example:
    scene = draw.scene()
    image = render(scene, draw.size).image
    holed = np.where(hole[..., None], np.uint8(HOLE), image)
    inputs = [canvas(holed), control(grey(hole), "mask")]
    return Example(phrase.format(describe(scene)), inputs, [result(image)], scene, mask=hole)


def inpaint(draw: Draw) -> Example:
    height, width = draw.size
    h, w = (int(draw.rng.uniform(0.15, 0.45) * side) for side in draw.size)
    top, left = int(draw.rng.integers(height - h)), int(draw.rng.integers(width - w))
    y, x = np.mgrid[:height, :width]
    hole = (y >= top) & (y < top + h) & (x >= left) & (x < left + w)
    if draw.rng.random() < 0.5:
        hole &= ((y + 0.5 - top - h / 2) / (h / 2)) ** 2 + ((x + 0.5 - left - w / 2) / (w / 2)) ** 2 <= 1
    return _completed(draw, hole, "Fill the hole in IMG1; {}.")


def outpaint(draw: Draw) -> Example:
    hole = np.zeros(draw.size, dtype=bool)
    for side in draw.rng.permutation(4)[: draw.rng.integers(1, 3)]:
        n = int(draw.rng.uniform(0.15, 0.35) * draw.size[side // 2])
        view = hole if side < 2 else hole.T
        view[slice(0, n) if side % 2 else slice(view.shape[0] - n, None)] = True
    return _completed(draw, hole, "Extend IMG1; {}.")


def t2i(draw: Draw) -> Example:
    scene = replace(draw.scene(), photo=None)
    text = describe(scene)
    return Example(text[0].upper() + text[1:] + ".", [], [result(render(scene, draw.size).image)], scene, scene.things[0])


def _controlled(draw: Draw, kind: str, show: Callable[[Scene, Rendering], np.ndarray]) -> Example:
    scene = replace(draw.scene(), photo=None)
    seen = render(scene, draw.size)
    instruction = f"The result follows the {kind} of IMG1; {describe(scene)}."
    inputs = [control(show(scene, seen), kind)]
    return Example(instruction, inputs, [result(seen.image)], scene, scene.things[0])


def control_depth(draw: Draw) -> Example:
    return _controlled(draw, "depth", lambda scene, seen: encode_depth(seen.depth))


def control_mask(draw: Draw) -> Example:
    return _controlled(draw, "mask", lambda scene, seen: grey(np.any(seen.masks, axis=0)))


def control_segmentation(draw: Draw) -> Example:
    return _controlled(draw, "segmentation", _segmentation)


def control_edge(draw: Draw) -> Example:
    return _controlled(draw, "edge", lambda scene, seen: grey(_borders(seen)))


def control_sketch(draw: Draw) -> Example:
    return _controlled(draw, "sketch", lambda scene, seen: 255 - grey(_borders(seen)))


def control_layout(draw: Draw) -> Example:
    return _controlled(draw, "layout", _layout)


def _segmentation(scene: Scene, seen: Rendering) -> np.ndarray:
    image = np.zeros((*seen.depth.shape, 3), np.uint8)
    for thing, mask in zip(scene.things, seen.masks, strict=True):
        image[mask] = COLORS[thing.color]
    return image


def _borders(seen: Rendering) -> np.ndarray:
    """Outlines of all things, one pixel wide; bool (H, W)."""
    return np.any([grow(mask) & ~mask for mask in seen.masks], axis=0)


def _layout(scene: Scene, seen: Rendering) -> np.ndarray:
    """Bounding boxes, outlined in the things' colours, on black."""
    image = np.zeros((*seen.depth.shape, 3), np.uint8)
    for thing, mask in zip(scene.things, seen.masks, strict=True):
        if not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        inner = box[1:-1, 1:-1].copy()
        box[:] = COLORS[thing.color]
        box[1:-1, 1:-1] = inner
    return image


def control_drag(draw: Draw) -> Example:
    """The picture at half brightness with an arrow: a grey line from a white dot to a grey one."""
    scene = draw.scene()
    i = draw.target(scene)
    thing = scene.things[i]
    moved = thing.at(draw.choice(scene.free_positions()))
    after = scene.swap(scene.things[i], moved)
    image = (render(scene, draw.size).image // 2).astype(np.uint8)
    height, width = draw.size
    for step in np.linspace(0, 1, 2 * max(draw.size)):
        x = int((thing.x + step * (moved.x - thing.x)) * width)
        y = int((thing.y + step * (moved.y - thing.y)) * height)
        near = step < 0.08
        image[max(y - near, 0) : y + 1 + near, max(x - near, 0) : x + 1 + near] = 255 if near else 190
    instruction = f"The result follows the drag of IMG1; {describe(after)}."
    return Example(instruction, [control(image, "drag")], [result(render(after, draw.size).image)], after, thing)


def frame2frame(draw: Draw) -> Example:
    """Two frames of a video in which things move a little: the video prior's own task (UniReal, section 3.2)."""
    from data_builders.world.video import WorldVideo

    video = WorldVideo.draw(draw.rng, draw.scene(), num_frames=8)
    before, after = video.scenes[0], video.scenes[-1]
    return _edited(draw, before, after, before.things[video.mover], video.caption)


RECIPES: dict[str, Recipe] = {
    "recolor": Recipe("edit", 2.0, recolor),
    "remove": Recipe("edit", 1.0, remove),
    "add": Recipe("edit", 1.5, add),
    "move": Recipe("edit", 2.0, move),
    "replace": Recipe("edit", 2.0, replace_shape),
    "resize": Recipe("edit", 0.7, resize),
    "background": Recipe("edit", 0.5, background),
    "frame2frame": Recipe("edit", 0.3, frame2frame, "realistic style, dynamic scenario"),
    "insert": Recipe("insert", 2.0, insert),
    "tryon": Recipe("tryon", 0.6, tryon),
    "customize1": Recipe("customize", 1.5, customize1),
    "customize2": Recipe("customize", 0.6, customize2),
    "control_depth": Recipe("control", 0.2, control_depth),
    "control_edge": Recipe("control", 0.2, control_edge),
    "control_segmentation": Recipe("control", 0.2, control_segmentation),
    "control_sketch": Recipe("control", 0.2, control_sketch),
    "control_layout": Recipe("control", 0.2, control_layout),
    "control_mask": Recipe("control", 0.2, control_mask),
    "control_drag": Recipe("control", 0.2, control_drag),
    "depth": Recipe("depth", 1.5, depth),
    "segment": Recipe("segment", 3.0, segment),
    "colorize": Recipe("restore", 0.4, colorize),
    "deblur": Recipe("restore", 0.4, deblur),
    "inpaint": Recipe("inpaint", 0.8, inpaint),
    "outpaint": Recipe("outpaint", 0.6, outpaint),
    "t2i": Recipe("t2i", 0.6, t2i),
    "edit_mask": Recipe("compose", 0.8, edit_mask),
    "customize_mask": Recipe("compose", 0.4, customize_mask),
}


def world_sample(
    name: str, seed: int, size: Size = (64, 64), *, unseen: bool = False, photo_share: float = 0.0
) -> Sample:
    """The sample of a recipe, determined by the arguments alone. Raises ValueError for an unknown recipe."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; choose from: {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    rng = np.random.default_rng((seed, list(RECIPES).index(name)))
    example = recipe.make(Draw(rng, size, unseen, photo_share))
    return Sample(
        task=recipe.task,
        instruction=example.instruction,
        context=recipe.context or TASKS[recipe.task].context,
        inputs=tuple(example.inputs),
        results=tuple(example.results),
        mask=example.mask,
        source={
            "video": f"world-{name}-{seed}",
            "builder": "world",
            "version": 1,
            "recipe": name,
            "seed": seed,
            "scene": asdict(example.scene),
            "target": None if example.target is None else asdict(example.target),
            **example.extra,
        },
    )


def mixture_weights() -> dict[str, float]:
    return {name: recipe.weight for name, recipe in RECIPES.items()}
