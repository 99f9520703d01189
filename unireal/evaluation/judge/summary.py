"""Means of a judge's scores: over all items (micro), over the data set's categories (macro), and of each category."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from unireal.evaluation import metrics
from unireal.evaluation.judge.protocol import Protocol
from unireal.evaluation.results import UNFILTERED, ItemResult, SummaryRow

Scores = Sequence[float | None]


def summarise(
    items: Sequence[ItemResult],
    scores: Mapping[tuple[str, str], Mapping[str, float | None]],
    protocol: Protocol,
    benchmark: str,
    judge: str,
) -> list[SummaryRow]:
    """The rows of every score and system. scores: (item id, system) -> name of the score -> number.

    Items without a score are counted in `failures` and are in no mean. Where items have known faults (GEdit's that are
    not in the intersection set), all rows come again without these.
    """
    rows: list[SummaryRow] = []
    low, high = protocol.scale
    systems = list(dict.fromkeys(system for _, system in scores))
    for (chosen, kept), system, name in itertools.product(_filters(items), systems, protocol.scores):
        groups: dict[str, list[float | None]] = defaultdict(list)
        for item in kept:
            groups[item.category].append(scores[item.id, system][name])
        fixed: dict[str, Any] = {
            "benchmark": benchmark,
            "backbone": judge,
            "system": system,
            "filter": chosen,
            "unit": f"{low}..{high}",
        }
        metric = protocol.metric(name)
        rows += _means(groups, partial(_row, metric=metric, **fixed))
        if protocol.deviation:
            rows += _deviations(groups, partial(_row, metric=f"{metric} deviation", better="lower", **fixed))
    return rows


def _filters(items: Sequence[ItemResult]) -> Iterator[tuple[str, Sequence[ItemResult]]]:
    """All items, and where some have known faults, those without any."""
    yield UNFILTERED, items
    faults = sorted({fault for item in items for fault in item.faults})
    if faults:
        yield f"without {', '.join(faults)}", [item for item in items if not item.faults]


def _means(groups: Mapping[str, Scores], row: Callable[..., SummaryRow]) -> Iterator[SummaryRow]:
    everything = [score for scores in groups.values() for score in scores]
    yield row("all", everything, mean(everything), standard_error=_error(everything))
    named = {name: scores for name, scores in groups.items() if name}
    if named:
        means = {name: mean(scores) for name, scores in named.items()}
        yield row("macro", [score for scores in named.values() for score in scores], mean(means.values()))
        yield from (row(name, scores, means[name], standard_error=_error(scores)) for name, scores in named.items())


def _deviations(groups: Mapping[str, Scores], row: Callable[..., SummaryRow]) -> Iterator[SummaryRow]:
    """Standard deviations, as EditEval reports them beside the means."""
    everything = [score for scores in groups.values() for score in scores]
    yield row("all", everything, _deviation(everything))
    yield from (row(name, scores, _deviation(scores)) for name, scores in groups.items() if name)


def _row(group: str, scores: Scores, value: float | None, **fixed: Any) -> SummaryRow:
    scored = len(_known(scores))
    return SummaryRow(group=group, value=value, n=scored, failures=len(scores) - scored, reference="source", **fixed)


def mean(scores: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    return metrics.known(metrics.mean(_known(scores))[0])


def _deviation(scores: Scores) -> float | None:
    known = _known(scores)
    return statistics.stdev(known) if len(known) > 1 else None


def _error(scores: Scores) -> float | None:
    return metrics.known(metrics.mean(_known(scores))[1])


def _known(scores: Iterable[float | None]) -> list[float]:
    return [score for score in scores if score is not None]
