"""Grading the samples of one recipe of the world: each is measured, for the model and for every baseline beside it.

From that come the rows of the report, and what a run folder holds of every sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from unireal.evaluation import metrics
from unireal.evaluation.benchmarks.sources import safe_id
from unireal.evaluation.exams import Outputs, WorldItem, WorldMetric
from unireal.evaluation.report import Bar, Example, Row
from unireal.evaluation.results import COPY, MODEL, ItemResult, SummaryRow
from unireal.taxonomy import CATEGORIES, WORLD_EDITS, conditions_of, controls_of

BENCHMARK = "world"


@dataclass(frozen=True)
class Graded:
    """Samples of one recipe and what came out of them.

    subset: its name, category: of recipe and subset.
    systems: name ("model", "copy", "per frame", ...) -> the outputs of each item, the model's first.
    bars: metric -> what has to be reached, where anything is asked. shown: systems whose pictures are kept.
    """

    recipe: str
    subset: str
    category: str
    exam: Sequence[WorldMetric]
    items: Sequence[WorldItem]
    systems: Mapping[str, Sequence[Outputs]]
    bars: Mapping[str, Bar]
    shown: Sequence[str] = (COPY,)

    @cached_property
    def _measured(self) -> dict[str, list[list[Any]]]:
        """System -> item -> what each metric of the exam measures of it."""
        found: dict[str, list[list[Any]]] = {name: [] for name in self.systems}
        for number, item in enumerate(self.items):  # all systems at once: an item's candidates are drawn once
            for name, outputs in self.systems.items():
                found[name].append([metric.measure(item, outputs[number]) for metric in self.exam])
        return found

    def _combined(self, index: int) -> dict[str, tuple[float, float, int]]:
        """System -> mean, standard error and n of the metric of that number."""
        metric = self.exam[index]
        return {name: metric.combine([values[index] for values in table]) for name, table in self._measured.items()}

    @property
    def resolution(self) -> str:
        return size_text(self.items[0].size)

    def rows(self) -> Iterator[Row]:
        """One per metric that is defined for at least one item, with the baselines beside the model."""
        for index, metric in enumerate(self.exam):
            combined = self._combined(index)
            average, error, count = combined.pop(MODEL)
            if not count:
                continue
            beside = {name: value for name, (value, *_) in combined.items()}
            bar = self.bars.get(metric.name)
            if bar and isinstance(bar.limit, str) and bar.limit not in beside:
                bar = None  # a baseline was not asked in another way
            yield Row(
                recipe=self.recipe,
                subset=self.subset,
                metric=metric.name,
                unit=metric.unit,
                better=metric.better,
                primary=index == 0,
                n=count,
                mean=average,
                standard_error=error,
                baselines=beside,
                resolution=self.resolution,
                bar=None if bar is None else bar.text(metric.higher),
                passed=None if bar is None else bar.passes(average, metric.higher, beside),
            )

    def summary(self) -> Iterator[SummaryRow]:
        """The same as rows of a run folder, one per system; what a metric is made from has rows too."""
        for index, metric in enumerate(self.exam):
            for system, (value, error, count) in self._combined(index).items():
                yield self._summary_row(metric, metric.name, metric.better, system, (value, error, count), metric.unit)
            for part, (name, better) in enumerate(metric.parts):
                for system, table in self._measured.items():
                    found = metrics.mean(list(metric.scores(values[index]).values())[part] for values in table)
                    yield self._summary_row(metric, name, better, system, found, "")

    def _summary_row(
        self, metric: WorldMetric, name: str, better: str, system: str, found: tuple[float, float, int], unit: str
    ) -> SummaryRow:
        value, error, count = found
        return SummaryRow(
            benchmark=BENCHMARK,
            metric=name,
            value=value if count else None,
            n=count,
            failures=0,
            backbone=metric.backbone,
            reference="truth" if metric.backbone == "none" else "none",
            resolution=metric.seen or self.resolution,
            system=system,
            group=self.category,
            unit=unit,
            better=better,
            standard_error=error,
        )

    def lines(self, pictured: int) -> Iterator[ItemResult]:
        """Every item with its scores by all systems; the first `pictured` of them name their pictures."""
        for number, item in enumerate(self.items):
            scores = {system: self._scores(table[number]) for system, table in self._measured.items()}
            paths = _paths(self._pictures(number)) if number < pictured else {}
            truth, output = paths.get("truth", []), paths.get(MODEL, [])
            further = {name: found for name, found in paths.items() if name not in ("input", "truth", MODEL)}
            yield ItemResult(
                id=self._id(number),
                task=item.sample.task,
                instruction=item.sample.instruction,
                category=self.category,
                edit_type=self._edit_type(item),
                inputs=paths.get("input", []),
                truth=truth[0] if truth else None,
                output=output[0] if output else None,
                frames=len(item.truth),
                conditions=list(conditions_of(item.sample.inputs)),
                controls=list(controls_of(item.sample.inputs)),
                scores=scores.pop(MODEL),
                baselines=scores,
                further=({"truth": truth[1:]} if truth[1:] else {}) | further,
            )

    def _edit_type(self, item: WorldItem) -> str | None:
        """Some recipes make edits of several types, and say which."""
        return WORLD_EDITS.get(item.sample.source.get("edit", ""), CATEGORIES[BENCHMARK].get(self.recipe))

    def _scores(self, measured: Sequence[Any]) -> dict[str, float | None]:
        return {
            name: score
            for metric, value in zip(self.exam, measured, strict=True)
            for name, score in metric.scores(value).items()
        }

    def pictures(self, pictured: int) -> dict[str, np.ndarray]:
        """Path in the run folder -> uint8 (H, W, 3), of the first items."""
        count = min(pictured, len(self.items))
        return {path: pixels for number in range(count) for _, path, pixels in self._pictures(number)}

    def _pictures(self, number: int) -> Iterator[tuple[str, str, np.ndarray]]:
        """What it is ("input", "truth" or a system), path and pixels of each picture of an item."""
        item, name = self.items[number], self._id(number)
        for k, frame in enumerate(item.sample.inputs):
            yield "input", f"inputs/{name}_{k}.png", frame.image
        for k, pixels in enumerate(item.truth):
            yield "truth", f"inputs/{name}_truth{f'_{k}' if k else ''}.png", pixels
        for system, outputs in self.systems.items():
            for k, pixels in enumerate(outputs[number]):
                if system == MODEL:
                    yield system, f"images/{name}_{k}.png", pixels
                elif system in self.shown:
                    yield system, f"baselines/{safe_id(name, system)}_{k}.png", pixels

    def _id(self, number: int) -> str:
        return safe_id(self.recipe, self.subset, f"{number:04d}")

    def examples(self, count: int) -> list[Example]:
        """The first items, for the sheet."""
        shown = list(zip(self.items, self.systems[MODEL], strict=True))[:count]
        return [
            Example(
                f"{self.recipe}, {self.subset}",
                item.sample.instruction,
                [frame.image for frame in item.sample.inputs],
                item.truth,
                outputs,
            )
            for item, outputs in shown
        ]


def size_text(size: tuple[int, int]) -> str:
    """A size (H, W) as `--size` has it, width first: "64x48"."""
    return "{1}x{0}".format(*size)


def _paths(pictures: Iterator[tuple[str, str, np.ndarray]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, path, _ in pictures:
        found.setdefault(name, []).append(path)
    return found
