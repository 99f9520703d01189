"""Scoring a run: pictures are decoded and prepared by threads while the networks work on the batch before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from unireal.evaluation.benchmarks.base import Benchmark
from unireal.evaluation.generate import FAILURES
from unireal.evaluation.measures.base import Measure, Scores
from unireal.evaluation.pictures import Case, Given, Picture, ahead
from unireal.evaluation.results import (
    COPY,
    MODEL,
    Item,
    ItemResult,
    Load,
    RunFolder,
    SummaryRow,
    check_texts,
    save_picture,
)
from unireal.evaluation.summary import summarise
from unireal.sample import Frame
from unireal.tasks import TASKS
from unireal.taxonomy import conditions_of, controls_of
from unireal.transforms import load_image

BATCH = 16


@dataclass
class Loaded:
    """An item with the case of each system that has an output; failure: why the model has none."""

    item: Item
    cases: dict[str, Case]
    failure: str | None
    inputs: list[str]
    truth: str | None


@dataclass(frozen=True)
class Scorer:
    """Scores items with measures.

    batch: cases that a network sees at once, fewer of videos. workers: threads that decode; 0 does everything in turn.
    """

    measures: Sequence[Measure]
    run: RunFolder
    batch: int = BATCH
    workers: int = 2

    def results(self, items: Sequence[Item]) -> Iterator[tuple[ItemResult, dict[str, Scores]]]:
        """Every item's line and its scores by system, in the items' order; NaN is undefined, None is failed."""
        reasons = _reasons(self.run)
        # all frames of what is loaded are in memory: a batch of videos has about as many pictures as one of pictures
        count = max(1, self.batch // max((item.frames for item in items), default=1))
        loaded = ahead(lambda item: self._load(item, reasons), items, self.workers, 2 * count)
        while batch := list(islice(loaded, count)):
            scores = self._score(batch)
            yield from ((self._line(entry, found), found) for entry, found in zip(batch, scores, strict=True))

    def _load(self, item: Item, reasons: dict[str, str]) -> Loaded:
        """In a loading thread: decodes the pictures and prepares what the measures need of them."""
        given, cases, failure = Given(item), {}, None
        try:
            frames = output_frames(item, self.run)
            cases[MODEL] = Case(item, frames, given)
        except ValueError as error:
            failure = reasons.get(item.id, str(error))
        try:
            check_texts(item.instruction, *item.texts.values())
            if item.sources:
                cases[COPY] = Case(item, given.sources, given)
            inputs, truth = copy_inputs(given, self.run)
        except ValueError as error:
            return Loaded(item, {}, str(error), [], None)
        for case in cases.values():
            for measure in self.measures:
                self._prepare(measure, case)
        return Loaded(item, cases, failure, inputs, truth)

    @staticmethod
    def _prepare(measure: Measure, case: Case) -> None:
        lacking = [name for name in measure.texts if not case.item.texts.get(name)]
        if lacking:
            case.failed[measure] = f"it has no {' and no '.join(lacking)} caption"
            return
        try:
            measure.prepare(case)
        except ValueError as error:
            case.failed[measure] = str(error)

    def _score(self, batch: Sequence[Loaded]) -> list[dict[str, Scores]]:
        found: list[dict[str, Scores]] = [{system: self._nothing() for system in (MODEL, COPY)} for _ in batch]
        for measure in self.measures:
            places = [
                (i, system, case)
                for i, entry in enumerate(batch)
                for system, case in entry.cases.items()
                if measure not in case.failed
            ]
            if places:
                scores = measure.score([case for *_, case in places])
                for (i, system, _), score in zip(places, scores, strict=True):
                    found[i][system].update(score)
        return found

    def _nothing(self) -> Scores:
        return {name: None for measure in self.measures for metric in measure.metrics for name in metric.parts}

    def _line(self, entry: Loaded, scores: dict[str, Scores]) -> ItemResult:
        item, case = entry.item, entry.cases.get(MODEL)
        failed = [entry.failure] if entry.failure else list(dict.fromkeys(case.failed.values())) if case else []
        return ItemResult(
            id=item.id,
            task=item.task,
            instruction=item.instruction,
            category=item.category,
            edit_type=item.edit_type,
            inputs=entry.inputs,
            truth=entry.truth,
            output=f"images/{_output_path(item, self.run).name}" if case else None,
            frames=len(case.frames) if case else item.frames,
            conditions=list(conditions_of(asked_frames(item))),
            controls=list(controls_of(asked_frames(item))),
            texts=dict(item.texts),
            faults=list(item.faults),
            scores=scores[MODEL],
            baselines={COPY: scores[COPY]},
            failure="; ".join(failed) or None,
            before=f"images/{self.run.image(item.after).name}" if item.after else None,
        )


def score(
    benchmark: Benchmark, items: Sequence[Item], measures: Sequence[Measure], run: RunFolder, workers: int = 2
) -> list[SummaryRow]:
    """Scores the run and writes items.jsonl and summary.json."""
    asked = [item for item in items if item.scored]
    scorer = Scorer(measures, run, workers=workers)
    lines: list[ItemResult] = []
    scores: list[dict[str, Scores]] = []
    for line, found in tqdm(scorer.results(asked), total=len(asked), desc="scoring", unit="item"):
        lines.append(line)
        scores.append(found)
    run.write_items(lines)
    rows = summarise(benchmark, [metric for measure in measures for metric in measure.metrics], lines, scores)
    run.write_summary(rows)
    return rows


def usable(measures: Sequence[Measure], items: Sequence[Item]) -> tuple[list[Measure], list[str]]:
    """The measures for whose captions there is an item that has them, and the names of the other metrics."""
    found, left_out = [], []
    for measure in measures:
        if not measure.texts or any(set(measure.texts) <= item.texts.keys() for item in items if item.scored):
            found.append(measure)
        else:
            left_out += [metric.name for metric in measure.metrics]
    return found, left_out


def list_items(items: Sequence[Item], run: RunFolder, workers: int = 2) -> None:
    """Writes items.jsonl without scores and copies the inputs, so that a judge can work on the run."""
    run.write_items(line for line, _ in Scorer([], run, workers=workers).results([i for i in items if i.scored]))


def output_frames(item: Item, run: RunFolder) -> list[Picture]:
    """The item's pictures, with more than 8 bits as memo["values"] beside them. Raises ValueError if it has none."""
    path = _output_path(item, run)
    if item.video:
        paths = [path]
        while (following := run.image(item.id, len(paths))).exists():
            paths.append(following)
        return [Picture(load_image(path, "output")) for path in paths]
    values = _values(path)
    if values is not None and path.suffix == ".npy":
        span = np.ptp(values)
        grey = (values - values.min()) / (span if span else 1) * 255
        picture = Picture(np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2))
    else:
        picture = Picture(load_image(path, "output"))
    if values is not None:
        picture.memo["values"] = values
    return [picture]


def _output_path(item: Item, run: RunFolder) -> Path:
    path = run.image(item.id)
    return path.with_suffix(".npy") if path.with_suffix(".npy").exists() else path


def _values(path: Path) -> np.ndarray | None:
    """float (H, W) of a .npy file or a 16-bit picture, None for any other."""
    if path.suffix == ".npy":
        values = np.load(path, allow_pickle=False).squeeze().astype(np.float64)
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ValueError(f"{path} is not a finite map of two axes, got shape {values.shape}")
        return values
    if not path.exists():
        return None
    try:
        with Image.open(path) as image:
            return np.asarray(image).astype(np.float64) if image.mode.startswith("I") else None
    except OSError:
        return None  # load_image says what is wrong with it


def copy_inputs(given: Given, run: RunFolder) -> tuple[list[str], str | None]:
    """Copies inputs and truth into the run, and returns their paths there; what is scored is not decoded again."""
    item = given.item
    sources: list[Load] = [partial(lambda k: given.sources[k].pixels, k) for k in range(len(item.sources))]
    inputs = [_copied(run.input(item.id, k), load) for k, load in enumerate([*sources, *item.inputs[1:]])]
    truth = None if item.truth is None else _copied(run.input(item.id, "truth"), lambda: given.truth.pixels)
    return inputs, truth


def _copied(path: Path, load: Load) -> str:
    if not path.exists():
        save_picture(path, load())
    return f"inputs/{path.name}"


def asked_frames(item: Item) -> list[Frame]:
    """A dot for every slot of its task that the item fills: for a slot of several kinds one for each of the item's."""
    dot = np.zeros((1, 1, 3), np.uint8)
    slots = [slot for slot in TASKS[item.task].slots if not slot.optional]
    kinds = [(s.role, kind) for s in slots for kind in (s.kinds if len(s.kinds) == 1 else item.controls)]
    return [Frame(dot, role, kind) for role, kind in kinds]


def _reasons(run: RunFolder) -> dict[str, str]:
    from unireal.evaluation.benchmarks.sources import read_json

    path = run.path / FAILURES
    return read_json(path) if path.exists() else {}
