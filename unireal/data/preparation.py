"""What is trained on, and what is done to a sample before it joins a batch: size, scaffold, dropout.

All of it follows from the seed and the sample's number in the run, so that it is the same however many processes share
the data, and after a resumption.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten

import numpy as np
from PIL import Image

from unireal.data.encoded import EncodedSample
from unireal.data.sources import Source
from unireal.prompts import check_referring, join
from unireal.sample import Frame, Layout, Sample
from unireal.tasks import get_task
from unireal.transforms import resized

_log = logging.getLogger("unireal.data")
_SALT = 1  # what is drawn here is independent of what the mixture draws from the same number


@dataclass(frozen=True)
class DataConfig:
    """What is trained on. `scaffold` is Ditto's modality curriculum (arXiv 2510.15742)."""

    sources: tuple[Source, ...] = (Source("data_builders.world.stream:WorldStream"),)
    """The data sets and their weights."""
    batch_size: int = 64
    """Samples of a batch and process."""
    full_batch_side: int = 0
    """Side of results in pixels above which batches have fewer samples, about as many pixels in all; 0: never."""
    seed: int = 0
    """Of the order of samples and of what is dropped."""
    text_dropout: float = 0.05
    """Share of samples without instruction and context prompt, of those that keep their input frames."""
    input_dropout: float = 0.02
    """Share of samples with input frames that lose them and the text: what image guidance leads away from."""
    context_dropout: float = 0.1
    """Share of samples without context prompt alone, of those that keep their instruction."""
    side: int = 0
    """Frames are scaled to about side x side pixels in their own proportions; 0 leaves them as they are."""
    multiple: int = 16
    """Sides of scaled frames are multiples of it, so that few sizes occur."""
    scaffold: tuple[tuple[int, float], ...] = ()
    """Share of samples with their task's scaffold frames: (step of the stage, share) points; none: all."""
    bad_share: float = 0.01
    """Share of unusable records above which the run stops; they are skipped below."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {self.batch_size}")
        if self.full_batch_side < 0:
            raise ValueError(f"data.full_batch_side must be at least 0, got {self.full_batch_side}")
        if self.full_batch_side and self.scaffold:  # whose steps are told from how many samples were drawn
            raise ValueError("data.scaffold needs batches of one size; set data.full_batch_side 0")
        if self.seed < 0:
            raise ValueError(f"data.seed must be at least 0, got {self.seed}")
        for name in ("text_dropout", "input_dropout", "context_dropout", "bad_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name} is a share in 0..1, got {getattr(self, name)}")
        if self.multiple < 1 or self.side < 0 or 0 < self.side < self.multiple:
            raise ValueError(f"data.side is 0 or at least data.multiple ({self.multiple}), got {self.side}")
        steps = [step for step, _ in self.scaffold]
        if steps != sorted(steps) or not all(0 <= p <= 1 for _, p in self.scaffold):
            raise ValueError(
                f"data.scaffold has ascending (step, probability in 0..1) points, e.g. ((0, 1.0), (10000, 0.2)), "
                f"got {self.scaffold}"
            )

    def samples_of(self, layout: Layout) -> int:
        """Samples of a batch of that layout."""
        area, full = max(height * width for height, width in layout.results), self.full_batch_side**2
        return max(1, self.batch_size * full // area) if full and area > full else self.batch_size


class CutPrompts:
    """Counts the samples whose prompt is longer than the text encoder reads, and tells the first.

    cut_off: that of unireal.model.text_encoder.TextEncoder.
    """

    def __init__(self, cut_off: Callable[[str], tuple[int, str]]):
        self.cut_off, self.count, self.told = cut_off, 0, False

    def check(self, sample: Sample, where: Callable[[], str]) -> None:
        tokens, lost = self.cut_off(join(sample.context, sample.instruction))
        self.count += bool(lost)
        if lost and not self.told:
            self.told = True
            end = shorten(lost, 300, placeholder=" ...")
            _log.warning("%s: the prompt has %d tokens, more than the text encoder reads; cut off: %r; "
                         "more such prompts are counted, but not told", where(), tokens, end)  # fmt: skip


def prepared(sample: Sample, number: int, step: float, config: DataConfig) -> Sample:
    """The sample as it is trained on. number: of the sample; step: of the stage, about, for the scaffold's schedule.

    Raises ValueError if latents are to be scaled.
    """
    rng = np.random.default_rng((config.seed, number, _SALT))
    without_text, without_context, without_inputs, scaffold = rng.random(4)
    if scaffold >= value_at(step, config.scaffold):
        sample = without_scaffold(sample)
    if config.side:
        sample = fitted(sample, config.side, config.multiple)
    if sample.inputs and without_inputs < config.input_dropout:
        # no branch of guidance reads a text without the frames that it speaks of
        return replace(sample, instruction="", context="", inputs=())
    if without_text < config.text_dropout:
        return replace(sample, instruction="", context="")
    return replace(sample, context="") if without_context < config.context_dropout else sample


def value_at(step: float, points: Sequence[tuple[int, float]]) -> float:
    """The value at a step, on the straight lines between (step, value) points; two points at one step are a jump.

    1 if there are none.
    """
    if not points:
        return 1.0
    steps, values = zip(*points, strict=True)
    return float(np.interp(step, steps, values))


def without_scaffold(sample: Sample) -> Sample:
    """The sample without the frames of its task's scaffold slots, unless the instruction names them."""
    scaffolds = {(s.role, kind) for s in get_task(sample.task).slots if s.scaffold for kind in s.kinds}
    kept = tuple(f for f in sample.inputs if (f.role, f.kind) not in scaffolds)
    try:
        check_referring(sample.instruction, len(kept), len(sample.results))
    except ValueError:
        return sample
    return replace(sample, inputs=kept)


def fitted(sample: Sample, side: int, multiple: int) -> Sample:
    """The sample with frames of about side x side pixels. Frames of one size stay of one size."""
    if isinstance(sample, EncodedSample):
        raise ValueError("data.side cannot scale latents; give it to python -m unireal.data precompute instead")

    def fit(frame: Frame) -> Frame:
        size = fitted_size(frame.size, side, multiple)
        if frame.image.ndim == 2 and size == frame.size:
            return frame
        frame = _eight_bits(frame)
        if frame.kind == "edge" and size[0] * size[1] < frame.size[0] * frame.size[1]:
            return replace(frame, image=_brightest(frame.image, size))
        return resized(frame, size)

    mask = sample.mask
    if mask is not None:
        height, width = fitted_size(mask.shape, side, multiple)
        mask = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    return replace(sample, inputs=tuple(map(fit, sample.inputs)), results=tuple(map(fit, sample.results)), mask=mask)


def _brightest(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at a smaller size (height, width), each pixel the brightest of those that it stands for.

    Thin white lines stay white, where averages make them fade: those of 1280x720 pixels at 256 to a quarter.
    """
    for axis, length in enumerate(size):
        image = np.maximum.reduceat(image, np.arange(length) * image.shape[axis] // length, axis=axis)
    return image


def fitted_size(size: tuple[int, int], side: int, multiple: int) -> tuple[int, int]:
    """(height, width) of about side² pixels in about the proportions of `size`, both multiples of `multiple`."""
    height = side * (size[0] / size[1]) ** 0.5
    rows = max(round(height / multiple), 1)
    return rows * multiple, max(round(side * side / (rows * multiple) / multiple), 1) * multiple


def _eight_bits(frame: Frame) -> Frame:
    """Depth of 16 bits as grey of 8, which `resized` takes."""
    if frame.image.ndim == 3:
        return frame
    grey = (frame.image / 257 + 0.5).astype(np.uint8)
    return replace(frame, image=np.repeat(grey[..., None], 3, axis=2))
