"""Makes the pictures and the video of this folder anew: python examples/make_examples.py

They are frames of the procedural world's samples, of seeds that training never reaches. When a recipe changes
(data_builders.world.recipes.VERSION), so do they: look at them, and correct the prompts that name what they show.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data_builders.world.recipes import world_sample
from data_builders.world.stream import TEST_SEEDS
from data_builders.world.video import WorldVideo
from unireal.sample import Frame, Sample
from unireal.video.files import VideoWriter

FOLDER = Path(__file__).parent
GREY_KINDS = ("mask", "depth")


@dataclass(frozen=True)
class Example:
    """One sample, and which of its frames become pictures.

    number: the seed, counted from the first that training never reaches; size: (height, width) in pixels.
    inputs, results: file names by the frame's index in the sample.
    """

    recipe: str
    number: int
    inputs: dict[int, str]
    results: dict[int, str]
    size: tuple[int, int] = (64, 64)

    def sample(self) -> Sample:
        return world_sample(self.recipe, TEST_SEEDS + self.number, self.size)

    def frames(self) -> dict[str, Frame]:
        sample = self.sample()
        named = {name: sample.inputs[i] for i, name in self.inputs.items()}
        return named | {name: sample.results[i] for i, name in self.results.items()}


EXAMPLES = (
    Example("insert", 18694, {0: "room.png", 1: "asset.png"}, {}),
    Example("tryon", 528, {1: "swatch.png"}, {}),
    Example("control_depth", 9, {0: "depth.png"}, {}),
    Example("deblur", 9, {0: "blurred.png"}, {}),
    Example("inpaint", 65, {1: "hole_mask.png"}, {0: "room_wide.png"}, size=(64, 96)),
)


VIDEO_NUMBER = 797  # the seed of video.mp4, counted likewise


def write_video() -> None:
    video = WorldVideo(TEST_SEEDS + VIDEO_NUMBER)
    with VideoWriter(FOLDER / "video.mp4") as writer:
        for frame in video.frames:
            writer.write(frame)
    print(f"video.mp4: {writer.count} frames, {video.caption}")


def main() -> None:
    for example in EXAMPLES:
        print(f"{example.recipe}: {example.sample().instruction}")
        for name, frame in example.frames().items():
            picture = Image.fromarray(frame.image)
            (picture.convert("L") if frame.kind in GREY_KINDS else picture).save(FOLDER / name)
            print(f"  {name}: {frame.role} {picture.width}x{picture.height}")
    write_video()


if __name__ == "__main__":
    main()
