"""The benchmark `world`: every recipe of the procedural world on scenes that training never reaches.

Which samples and which baselines are the tables SUBSETS and BASELINES; what is measured is in unireal.evaluation.exams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from tqdm import tqdm

from data_builders.world.recipes import RECIPES, TRAINED, VERSION, sample_and_scene, world_sample
from data_builders.world.render import render
from data_builders.world.stream import TEST_SEEDS
from unireal.evaluation.benchmarks.sources import safe_id
from unireal.evaluation.exams import BARS, EXAMS, Outputs, WorldItem, WorldMetric, frame_similarity
from unireal.evaluation.grading import BENCHMARK, Graded, size_text
from unireal.evaluation.measures.frames import FrameEncoder
from unireal.evaluation.report import Report
from unireal.evaluation.results import COPY, MODEL
from unireal.evaluation.unfinished import Unfinished
from unireal.names import lookup
from unireal.request import check_size
from unireal.sample import Role, Sample
from unireal.tasks import TASKS
from unireal.transforms import HOLE, resize

Generate = Callable[[list[Sample], int], list[Outputs]]  # samples of one layout and a seed -> results

TRAINING_SEEDS = range(256)  # of which the mean baseline is made; below TEST_SEEDS
EXAMPLES = 3  # per line of the sheet
SIZE = (64, 64)  # (H, W) of the pictures, in pixels
PICTURED = 6  # scenes per recipe and subset on the page


@dataclass(frozen=True)
class Subset:
    """Some of the recipes' samples, reported apart: a share of the limit, of these recipes."""

    name: str
    share: float = 1.0
    recipes: tuple[str, ...] = TRAINED
    unseen: bool = False
    photo_share: float = 0.0

    def items(self, recipe: str, limit: int, size: tuple[int, int]) -> list[WorldItem]:
        """The held-out samples of a recipe: share * limit of them, at least one."""
        options: dict[str, Any] = {"size": size, "unseen": self.unseen, "photo_share": self.photo_share}
        seeds = range(TEST_SEEDS, TEST_SEEDS + max(1, int(limit * self.share)))
        return [WorldItem(*sample_and_scene(recipe, seed, **options)) for seed in seeds]

    def category(self, recipe: str) -> str:
        """What a recipe's samples are called in a run folder."""
        return recipe if self is STANDARD else f"{recipe}, {self.name}"


STANDARD = Subset("standard")
SUBSETS = (
    STANDARD,
    Subset("unseen pairs", 1 / 2, ("recolor", "segment", "insert", "add", "customize1"), unseen=True),
    Subset("photographs", 1 / 4, ("recolor", "remove", "segment"), photo_share=1.0),
    Subset("never trained together", 1 / 2, tuple(name for name in RECIPES if name not in TRAINED)),
)


def copy(item: WorldItem) -> Outputs:
    """Every result is its canvas (of several), the only canvas, else the first asset, else mid-grey."""
    by_role = {role: [f.image for f in item.sample.inputs if f.role is role] for role in Role}
    grey = np.full((*item.size, 3), HOLE, np.uint8)
    shown = by_role[Role.CANVAS] or by_role[Role.ASSET][:1] or [grey]
    sizes = [result.size for result in item.sample.results]
    return [resize(shown[min(i, len(shown) - 1)], size) for i, size in enumerate(sizes)]


def mean(item: WorldItem) -> Outputs:
    """The mean truth of the recipe's training samples with the same sort of background."""
    return list(_mean_truth(item.sample.source["recipe"], item.size, float(item.scene.background == "photo")))


@cache
def _mean_truth(recipe: str, size: tuple[int, int], photo_share: float) -> tuple[np.ndarray, ...]:
    total: Any = 0.0
    for seed in TRAINING_SEEDS:
        results = world_sample(recipe, seed, size, photo_share=photo_share).results
        total = total + np.stack([frame.image for frame in results]).astype(np.float64)
    return tuple((total / len(TRAINING_SEEDS) + 0.5).astype(np.uint8))


def oracle(item: WorldItem) -> Outputs:
    """The truth itself: the ceiling."""
    return item.truth


def random_object(item: WorldItem) -> Outputs:
    """The true mask of any of the scene's things, which may be the asked one."""
    rng = np.random.default_rng(item.sample.source["seed"])
    mask = render(item.scene, item.size).masks[rng.integers(len(item.scene.things))]
    return [np.where(mask[..., None], np.uint8(255), np.zeros_like(truth)) for truth in item.truth]


Baseline = Callable[[WorldItem], Outputs]
BASELINES: dict[str, Baseline] = {COPY: copy, "mean": mean, "oracle": oracle}
EXTRA_BASELINES: dict[str, dict[str, Baseline]] = {"segment": {"random object": random_object}}


def frame_by_frame(item: WorldItem) -> list[Sample]:
    """The canvases as pictures, each to be edited alone by the same words."""
    spec, asked = TASKS["edit"], item.question()
    canvases = (frame for frame in asked.inputs if frame.role is Role.CANVAS)
    return [
        Sample(spec.name, asked.instruction, spec.context, (canvas,), (result,))
        for canvas, result in zip(canvases, asked.results, strict=True)
    ]


# Other ways to ask the same model: samples with one result each, which together answer the item.
_PER_FRAME: dict[str, Callable[[WorldItem], list[Sample]]] = {"per frame": frame_by_frame}
OTHER_WAYS: dict[str, dict[str, Callable[[WorldItem], list[Sample]]]] = {
    "video_edit": _PER_FRAME,
    "video_edit_reference": _PER_FRAME,
}


@dataclass(frozen=True)
class World:
    """The benchmark.

    limit: samples per recipe of the standard set; batch_size: samples per call of the model; seed: of its noise.
    only: recipes, all if empty; size: (H, W) of canvases and results in pixels.
    pictured: scenes of each recipe and subset whose pictures are on the page.
    frame_encoder: what videos' frames are compared with each other by; None leaves that out.
    Raises ValueError for an unknown recipe, numbers below 1, or a size that infer.py refuses too.
    """

    limit: int = 256
    batch_size: int = 32
    seed: int = 0
    only: tuple[str, ...] = ()
    size: tuple[int, int] = SIZE
    pictured: int = PICTURED
    frame_encoder: FrameEncoder | None = None

    def __post_init__(self) -> None:
        numbers = (("limit", self.limit), ("batch size", self.batch_size), ("number of pictures", self.pictured))
        for name, value in numbers:
            if value < 1:
                raise ValueError(f"the {name} must be at least 1, got {value}")
        for recipe in self.only:
            lookup(RECIPES, recipe, "recipe")
        check_size(self.size)

    @property
    def sets(self) -> list[tuple[Subset, str]]:
        """What is scored: the recipes of each subset."""
        every = [(subset, recipe) for subset in SUBSETS for recipe in subset.recipes]
        return [(subset, recipe) for subset, recipe in every if not self.only or recipe in self.only]

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples and the noise depend on."""
        facts = {"world version": VERSION, "first seed": TEST_SEEDS, "limit": self.limit}
        return facts | {"size": size_text(self.size), "noise seed": self.seed}

    def run(self, generate: Generate, unfinished: Unfinished | None = None) -> Report:
        """Scores of a model. Its results must have the sizes that it is asked for, else ValueError.

        unfinished: where its results are kept, and taken from after the run was killed.
        """

        def made(recipe: str, items: list[WorldItem]) -> dict[str, list[Outputs]]:
            found = {MODEL: self._generated(generate, [item.question() for item in items])}
            for name, questions in OTHER_WAYS.get(recipe, {}).items():
                asked = [questions(item) for item in items]
                results = iter(self._generated(generate, [sample for samples in asked for sample in samples]))
                found[name] = [[next(results)[0] for _ in samples] for samples in asked]
            return found

        def answers(subset: Subset, recipe: str, items: list[WorldItem]) -> dict[str, list[Outputs]]:
            if unfinished is None:
                return made(recipe, items)
            return unfinished.answers(safe_id(recipe, subset.name), lambda: made(recipe, items))

        return self._report(answers)

    def run_baseline(self, name: str) -> Report:
        """Scores of a baseline instead of a model. Raises ValueError for an unknown one."""
        baseline = self.baseline(name)
        return self._report(lambda subset, recipe, items: {MODEL: [baseline(item) for item in items]})

    @staticmethod
    def baseline(name: str) -> Baseline:
        """The baseline of that name. Raises ValueError with the nearest name for an unknown one."""
        return lookup(BASELINES, name, "baseline")

    def _report(self, answers: Callable[[Subset, str, list[WorldItem]], dict[str, list[Outputs]]]) -> Report:
        """answers: of the model, and of the same model that was asked in another way, by its name."""
        settings = self.settings | ({"frame encoder": self.frame_encoder.name} if self.frame_encoder else {})
        report = Report(BENCHMARK, settings)
        for subset, recipe in tqdm(self.sets, desc="world", unit="set"):
            items = subset.items(recipe, self.limit, self.size)
            graded = self._graded(subset, recipe, items, answers(subset, recipe, items))
            report.rows += graded.rows()
            report.examples.append(graded.examples(EXAMPLES))
            report.lines += graded.lines(self.pictured)
            report.summary += graded.summary()
            report.pictures |= graded.pictures(self.pictured)
        return report

    def _graded(self, subset: Subset, recipe: str, items: list[WorldItem], answers: dict[str, list[Outputs]]) -> Graded:
        ways = {name: outputs for name, outputs in answers.items() if name != MODEL}
        baselines = BASELINES | EXTRA_BASELINES.get(recipe, {})
        asked = {MODEL: answers[MODEL]} | {name: [answer(i) for i in items] for name, answer in baselines.items()}
        systems = {
            name: [item.finished(output) for item, output in zip(items, found, strict=True)]
            for name, found in asked.items()
        }
        return Graded(
            recipe=recipe,
            subset=subset.name,
            category=subset.category(recipe),
            exam=self._exam(recipe),
            items=items,
            systems=systems | ways,
            bars={metric: bar for (asked, metric), bar in BARS.items() if asked == recipe and subset is STANDARD},
            shown=(COPY, *ways),
        )

    def _exam(self, recipe: str) -> tuple[WorldMetric, ...]:
        if self.frame_encoder is None or not TASKS[RECIPES[recipe].task].video:
            return EXAMS[recipe]
        return *EXAMS[recipe], frame_similarity(self.frame_encoder)

    def _generated(self, generate: Generate, samples: list[Sample]) -> list[Outputs]:
        """Results in the samples' order. The seed of a sample's noise does not depend on the batch size."""
        results: dict[int, Outputs] = {}
        for start, numbers in self._batches(samples):
            results |= dict(zip(numbers, generate([samples[i] for i in numbers], self.seed + start), strict=True))
        return [results[i] for i in range(len(samples))]

    def _batches(self, samples: list[Sample]) -> Iterator[tuple[int, list[int]]]:
        """Numbers of samples of one layout, at most batch_size at a time, and how many of that layout came before."""
        groups: dict[Any, list[int]] = {}
        for number, sample in enumerate(samples):
            groups.setdefault(sample.layout, []).append(number)
        for group in groups.values():
            yield from ((i, group[i : i + self.batch_size]) for i in range(0, len(group), self.batch_size))
