"""From the scores of items to the rows of a summary, and the summary as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from unireal.evaluation.benchmarks.base import Benchmark
from unireal.evaluation.measures.base import Metric, Scores, combined
from unireal.evaluation.results import COPY, MODEL, UNFILTERED, ItemResult, SummaryRow

ALL, MACRO = "all", "macro"


def summarise(
    benchmark: Benchmark, metrics: Sequence[Metric], lines: Sequence[ItemResult], scores: Sequence[dict[str, Scores]]
) -> list[SummaryRow]:
    """For every metric: the model and the copy baseline over all items, the same without the items of known faults, and
    by category with the mean of the categories."""
    rows = []
    for metric in metrics:
        for wanted, kept in _filters(benchmark, lines):
            for system in (MODEL, COPY):
                rows.append(_row(benchmark, metric, [scores[i][system] for i in kept], system, wanted))
        if benchmark.groups:
            for system in (MODEL, COPY):
                rows += _by_category(benchmark, metric, lines, [found[system] for found in scores], system)
    return rows


def _filters(benchmark: Benchmark, lines: Sequence[ItemResult]) -> list[tuple[str, list[int]]]:
    """Name of a filter and numbers of the items that pass it."""
    found = [(UNFILTERED, list(range(len(lines))))]
    if benchmark.faults:
        good = [i for i, line in enumerate(lines) if not set(line.faults) & set(benchmark.faults)]
        found.append((f"without {', '.join(benchmark.faults)}", good))
    return found


def _row(
    benchmark: Benchmark, metric: Metric, scores: list[Scores], system: str, wanted: str, group: str = ALL
) -> SummaryRow:
    value, error, count, failures = combined(metric, scores)
    return SummaryRow(
        benchmark=benchmark.name,
        metric=metric.name,
        value=value,
        n=count,
        failures=failures,
        backbone=metric.backbone,
        reference=metric.reference,
        resolution=metric.resolution,
        filter=wanted,
        system=system,
        group=group,
        unit=metric.unit,
        better=metric.better,
        standard_error=error,
    )


def _by_category(
    benchmark: Benchmark, metric: Metric, lines: Sequence[ItemResult], scores: list[Scores], system: str
) -> list[SummaryRow]:
    categories = list(dict.fromkeys(line.category for line in lines))
    if len(categories) < 2:
        return []
    rows = []
    for category in categories:
        members = [score for score, line in zip(scores, lines, strict=True) if line.category == category]
        rows.append(_row(benchmark, metric, members, system, UNFILTERED, category))
    values = [row.value for row in rows if row.value is not None]
    everything = _row(benchmark, metric, scores, system, UNFILTERED, MACRO)
    everything.value = sum(values) / len(values) if values else None
    everything.standard_error = None
    return [*rows, everything]


_HEAD = ["metric", "group", "better", "n", "failures", "value", "s.e.", "copy", "backbone", "reference", "resolution"]


def to_markdown(title: str, rows: Sequence[SummaryRow], settings: dict[str, Any], left_out: Sequence[str] = ()) -> str:
    """One table per filter, with the copy baseline beside every value, and its n where that is another one: it has a
    score where the model failed, too. left_out: metrics without captions."""
    facts = [f"{key} {_plain(value)}" for key, value in settings.items() if value is not None]
    text = f"# {title}\n\n{', '.join(facts)}\n"
    if left_out:
        text += f"\nLeft out, since no item has captions for it: {', '.join(left_out)}\n"
    copies = {_key(row): row for row in rows if row.system == COPY}
    shown = [row for row in rows if row.system == MODEL]
    for wanted in dict.fromkeys(row.filter for row in shown):
        heading = "All items" if wanted == UNFILTERED else wanted.capitalize()
        table = [_HEAD, ["---"] * len(_HEAD)]
        for row in shown:
            if row.filter == wanted:
                beside = copies.get(_key(row))
                copied = _number(beside.value if beside else None)
                copied += f" (n {beside.n})" if beside and beside.n != row.n else ""
                numbers = [_number(row.value), _number(row.standard_error), copied]
                counts = [row.metric, row.group, row.better, str(row.n), str(row.failures)]
                table.append([*counts, *numbers, row.backbone, row.reference, row.resolution])
        text += f"\n## {heading}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in table)
    return text


def _key(row: SummaryRow) -> tuple[Any, ...]:
    values = asdict(row)
    return tuple(values[name] for name in ("metric", "group", "filter", "backbone", "reference"))


def _plain(value: Any) -> str:
    return " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
