"""What all builders share: the frames of a clip that one works on, and the value that says what a builder is.

A builder first draws views, the stretches of a clip that samples are made of (single frames, pairs of frames with what
is between them, windows of consecutive frames), and then makes samples of each view. Both follow from the clip, the
seed and the options alone.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from data_builders.annotators.protocols import Annotators, Refused
from data_builders.clips.clip import Clip
from unireal.data.records import check_sample
from unireal.sample import Frame, Sample
from unireal.tasks import TASKS


@dataclass(frozen=True)
class Footage:
    """Frames of one clip and the only source of chance.

    images: T times uint8 (H, W, 3) RGB, in temporal order; times: their seconds in the video.
    """

    clip: Clip
    images: list[np.ndarray]
    times: list[float]
    rng: np.random.Generator

    @property
    def first(self) -> np.ndarray:
        return self.images[0]

    @property
    def last(self) -> np.ndarray:
        return self.images[-1]

    def cut(self, start: int, stop: int) -> Footage:
        """Frames start <= t < stop."""
        return replace(self, images=self.images[start:stop], times=self.times[start:stop])


@dataclass(frozen=True)
class Options:
    """How many views are drawn from a clip. Builders add fields; each is an option of the command line."""

    views: int = field(default=2, metadata={"help": "views that are drawn from each clip"})

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"--views must be at least 1, got {self.views}")

    def require(self, annotators: Annotators) -> None:
        """Raises ValueError if nothing can come of these options with these annotators."""


Views = Callable[[Footage, Any], Iterator[Footage]]
Make = Callable[[Footage, Any, Any], Iterator[Sample]]


@dataclass(frozen=True)
class VideoBuilder:
    """One family of data sets that is made from clips.

    draw: (footage, options) -> views; make: (view, annotators, options) -> samples, whose source holds what the family
    tells; both may raise Refused, which drops what is left of the clip, or of the view.
    needs, uses: parts of Annotators that it cannot do without, or makes use of if they are given.
    fps, frames: at which rate a clip is read, and how many frames at most; fps None is the clip's own.
    version: raised whenever the same clip gives other samples.
    """

    name: str
    summary: str
    draw: Views
    make: Make
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    options: type[Options] = Options
    fps: float | None = 4.0
    frames: int = 64
    version: int = 1

    def require(self, annotators: Annotators) -> None:
        """Raises ValueError that tells which options give the missing annotators."""
        try:
            annotators.require(*self.needs)
        except ValueError as error:
            raise ValueError(f"builder {self.name!r} has {error}") from error

    def build(self, footage: Footage, annotators: Annotators, options: Options, dropped: Counter[str]) -> list[Sample]:
        """Valid samples of one clip; why views came to nothing is counted in `dropped`.

        Raises ValueError for an annotator that is missing or whose answer makes a sample that its task does not allow.
        """
        self.require(annotators)
        samples: list[Sample] = []
        seed = int(footage.rng.integers(2**63))
        try:
            for number, view in enumerate(self.draw(footage, options)):
                view = replace(view, rng=np.random.default_rng((seed, number)))
                try:
                    for sample in self.make(view, annotators, options):
                        samples.append(self._finished(sample, view, annotators))
                except Refused as error:
                    dropped[str(error)] += 1
        except Refused as error:
            dropped[str(error)] += 1
        return samples

    def _finished(self, sample: Sample, view: Footage, annotators: Annotators) -> Sample:
        """With its origin; checked."""
        names = {part: name for part, name in annotators.names.items() if part in self.needs + self.uses}
        times = [round(time, 6) for time in view.times]
        origin: dict[str, Any] = {"video": view.clip.video, "clip": view.clip.id, "times": times}
        origin |= {"builder": self.name, "version": self.version, "annotators": names}
        finished = replace(sample, source=origin | sample.source)
        check_sample(finished)
        return finished


def clip_rng(seed: int, builder: str, clip: Clip) -> np.random.Generator:
    """The chance of one clip in one builder: other clips and the order of work do not matter."""
    return np.random.default_rng((seed, zlib.crc32(builder.encode()), zlib.crc32(clip.id.encode())))


def singles(footage: Footage, options: Options) -> Iterator[Footage]:
    """Different frames, in temporal order, as many as there are views."""
    count = min(options.views, len(footage.images))
    for index in sorted(footage.rng.choice(len(footage.images), count, replace=False).tolist()):
        yield footage.cut(index, index + 1)


def pairs(footage: Footage, options: Options) -> Iterator[Footage]:
    """From one random frame to a later one, with the frames between them. Raises Refused for fewer than two frames."""
    if len(footage.images) < 2:
        raise Refused("the clip has one frame, and pairs take two")
    count = len(footage.images)
    every = [(a, b) for a in range(count) for b in range(a + 1, count)]
    for number in footage.rng.choice(len(every), min(options.views, len(every)), replace=False).tolist():
        first, last = every[number]
        yield footage.cut(first, last + 1)


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


def make_sample(task: str, instruction: str, inputs: tuple[Frame, ...], *results: Frame, **rest: Any) -> Sample:
    """A sample with the task's own context prompt, unless `context` is among the rest."""
    rest = {"context": TASKS[task].context} | rest
    return Sample(task, instruction, inputs=inputs, results=results, **rest)


def instruct(task: str, prompt: str = "", **words: str) -> str:
    """The task's template around the prompt, or its default prompt where there is none."""
    spec = TASKS[task]
    if not prompt.strip():
        return spec.default_prompt or sentence(spec.template.format(prompt="", **words).strip("; "))
    return sentence(spec.template.format(prompt=prompt.strip().rstrip("."), **words))


def describe(annotators: Annotators, images: list[np.ndarray]) -> str:
    """The captioner's words without the last full stop, or "" if there is no captioner."""
    return annotators.captioner.caption(images).strip().rstrip(".") if annotators.captioner else ""


def settings(options: Options) -> dict[str, Any]:
    """As values that JSON takes."""
    return asdict(options)
