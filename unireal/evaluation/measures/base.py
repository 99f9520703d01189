"""What a metric and a measure are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from unireal.evaluation import metrics as averages
from unireal.evaluation.pictures import Case

Scores = dict[str, float | None]  # NaN where undefined by its definition, None where it could not be had


@dataclass(frozen=True)
class Metric:
    """One number of the summary and everything that it depends on, as in `SummaryRow`.

    of:      the scores of an item that it is made from; its own name by default.
    combine: the scores of all items, each a number or as many as `of` has, to mean, standard error and n.
    """

    name: str
    unit: str = ""
    better: str = "higher"
    backbone: str = "none"
    reference: str = "none"
    resolution: str = "own"
    of: tuple[str, ...] = ()
    combine: Callable[[list[Any]], tuple[float, float, int]] = averages.mean

    @property
    def parts(self) -> tuple[str, ...]:
        return self.of or (self.name,)


class Measure(Protocol):
    """Scores of cases, for one or more metrics.

    texts:   which of an item's texts it needs.
    prepare: what can be done for one case alone, in a loading thread. Raises ValueError for a case that cannot be
             measured, which becomes a failure and is not scored.
    score:   the rest, for a batch of cases.
    """

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    @property
    def texts(self) -> tuple[str, ...]: ...

    @property
    def prepare(self) -> Callable[[Case], Any]: ...

    def score(self, cases: Sequence[Case]) -> list[Scores]: ...


@dataclass(eq=False)
class PerItem:
    """A measure that needs no network: all of it is done in the loading thread.

    compute: a case to scores by name. Raises ValueError for what cannot be measured.
    """

    metrics: tuple[Metric, ...]
    compute: Callable[[Case], Scores]
    texts: tuple[str, ...] = ()

    def prepare(self, case: Case) -> None:
        case.memo[self] = self.compute(case)

    def score(self, cases: Sequence[Case]) -> list[Scores]:
        return [case.memo[self] for case in cases]


@dataclass(eq=False)
class Networked:
    """A measure with one score that comes from a network.

    compute: cases to their scores, a tensor (N,). prepare: makes the network's input, in the loading thread.
    """

    metric: Metric
    compute: Callable[[Sequence[Case]], torch.Tensor]
    prepare: Callable[[Case], Any]
    texts: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (self.metric,)

    def score(self, cases: Sequence[Case]) -> list[Scores]:
        return [{self.metric.name: value} for value in self.compute(cases).tolist()]


def combined(metric: Metric, scores: Sequence[Scores]) -> tuple[float | None, float | None, int, int]:
    """Value (perhaps infinite), standard error, n and failures of a metric over the scores of items; None if undefined.

    An item without one of the parts is a failure; one whose parts are NaN is left out and is none.
    """
    values = [tuple(score.get(name) for name in metric.parts) for score in scores]
    kept = [value for value in values if all(part is not None for part in value)]
    defined = [value for value in kept if not any(part is None or math.isnan(part) for part in value)]
    mean, error, count = metric.combine([value[0] if len(value) == 1 else value for value in defined])
    return averages.known(mean), averages.known(error), count, len(values) - len(kept)
