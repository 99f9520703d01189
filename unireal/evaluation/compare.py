"""Which of two runs of one benchmark is better, and how sure that is:

python -m unireal.evaluation compare A B [--output DIR]

A and B are run folders. Every metric is compared on the items that have a score in both, by a paired bootstrap of the
mean difference B - A (scipy.stats.bootstrap, BCa).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from unireal.arguments import Parser, failed
from unireal.evaluation.breakdown import Tags, categories, conditions, controls, known_edit_types, metrics_of, number
from unireal.evaluation.results import MODEL, ItemResult, RunFolder, SummaryRow, write_json, write_text
from unireal.names import lookup

RESAMPLES = 9999
MIN_ITEMS = 8  # a bootstrap of fewer is far too sure of itself
UNKNOWN = "unknown"
BY: dict[str, Tags] = {
    "edit-type": known_edit_types,
    "condition": conditions,
    "control": controls,
    "category": categories,
}
_SAME = ("backbone", "reference", "resolution", "unit", "better")
_ASKED = ("benchmark", "split", "world version", "first seed")  # settings that make items of one id other ones


@dataclass(frozen=True)
class Comparison:
    """One metric on one group of items ("all", or those with a tag: an edit type, a category, ...).

    a, b: means over the n common items; difference: b - a.
    low, high: its confidence interval, None below MIN_ITEMS.
    only_a, only_b, neither: items left out because a score is missing in B, in A, in both.
    verdict: "B better", "A better", "no difference shown" if the interval holds 0, or "too few items"; "B higher",
        "A higher" if neither run's summary says what is better.
    """

    metric: str
    group: str
    better: str
    n: int
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    only_a: int
    only_b: int
    neither: int
    verdict: str


def compare(
    a: RunFolder,
    b: RunFolder,
    metrics: Sequence[str] = (),
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    tags: Tags = known_edit_types,
) -> tuple[list[Comparison], list[str]]:
    """The comparisons, and notes on what cannot be compared.

    metrics: names, all common ones if empty. tags: what items are grouped by, beside all of them together.
    Raises ValueError if the runs have no items or metrics in common, or ask for different things under the same id, as
    runs of different benchmarks do.
    """
    asked = _asked(a, b)
    pairs = _pairs(a, b)
    known = [m for m in metrics_of([x for x, _ in pairs]) if m in metrics_of([y for _, y in pairs])]
    wanted = [lookup({name: name for name in known}, metric, "common metric") for metric in metrics] or known
    rows, notes = [], []
    facts = [_facts(run) for run in (a, b)]
    for metric in wanted:
        mine, other = (f.get(metric) for f in facts)
        if mine and other and (differ := [name for name in _SAME if getattr(mine, name) != getattr(other, name)]):
            what = ", ".join(f"{name} {getattr(mine, name)!r} and {getattr(other, name)!r}" for name in differ)
            notes.append(f"{metric} cannot be compared: the runs have {what}")
            continue
        better = mine.better if mine else UNKNOWN
        groups: dict[str, list[tuple[ItemResult, ItemResult]]] = {"all": pairs}
        for pair in pairs:
            for tag in tags(pair[0]):
                groups.setdefault(tag, []).append(pair)
        groups = {group: members for group, members in groups.items() if _scored(metric, members)}
        rows += [_compare(metric, g, better, members, confidence, resamples, seed) for g, members in groups.items()]
    if not rows:
        raise ValueError("; ".join(notes) or f"{a.path} and {b.path} have no metric in common; score both alike")
    return rows, [asked, *notes] if asked else notes


def _asked(a: RunFolder, b: RunFolder) -> str:
    """A note if the runs are of other splits or scenes, else "". Raises ValueError for runs of different benchmarks."""
    mine, other = (run.settings() for run in (a, b))
    differ = [key for key in _ASKED if key in mine and key in other and mine[key] != other[key]]
    what = ", ".join(f"{key} {mine[key]!r} and {other[key]!r}" for key in differ)
    if "benchmark" in differ:
        raise ValueError(f"{a.path} and {b.path} are runs of {what}; compare runs of one benchmark")
    return f"the runs have {what}: what has the same id may be another item" if differ else ""


def _pairs(a: RunFolder, b: RunFolder) -> list[tuple[ItemResult, ItemResult]]:
    mine, other = ({item.id: item for item in run.items()} for run in (a, b))
    pairs = [(item, other[name]) for name, item in mine.items() if name in other]
    if not pairs:
        raise ValueError(f"{a.path} and {b.path} have no item in common; compare runs of one benchmark")
    for x, y in pairs:
        if (x.task, x.instruction) != (y.task, y.instruction):
            raise ValueError(f"item {x.id!r} is {x.instruction!r} in {a.path} and {y.instruction!r} in {b.path}")
    return pairs


def _scored(metric: str, pairs: Sequence[tuple[ItemResult, ItemResult]]) -> bool:
    """Whether the metric is one of these items; those of other kinds may have other metrics."""
    return any(metric in item.scores for pair in pairs for item in pair)


def _facts(run: RunFolder) -> Mapping[str, SummaryRow]:
    """What each metric of the run depends on."""
    rows = run.summary() if (run.path / "summary.json").exists() else []
    return {row.metric: row for row in reversed(rows) if row.system == MODEL}


def _compare(
    metric: str,
    group: str,
    better: str,
    pairs: Sequence[tuple[ItemResult, ItemResult]],
    confidence: float,
    resamples: int,
    seed: int,
) -> Comparison:
    pairs = [pair for pair in pairs if _scored(metric, [pair])]
    scores = [(x.scores.get(metric), y.scores.get(metric)) for x, y in pairs]
    both = np.array([(x, y) for x, y in scores if x is not None and y is not None], float).reshape(-1, 2)
    present = Counter((x is not None, y is not None) for x, y in scores)
    low, high = interval(both[:, 1] - both[:, 0], confidence, resamples, seed)
    mean_a, mean_b = (float(column.mean()) if len(both) else None for column in both.T)
    verdict = "no difference shown" if len(both) >= MIN_ITEMS else "too few items"
    if low is not None and high is not None and (low > 0 or high < 0):
        first = "B" if (low > 0) == (better != "lower") else "A"
        verdict = f"{first} {'higher' if better == UNKNOWN else 'better'}"
    difference = float((both[:, 1] - both[:, 0]).mean()) if len(both) else None
    means = mean_a, mean_b, difference
    only_a, only_b, neither = present[True, False], present[False, True], present[False, False]
    return Comparison(metric, group, better, len(both), *means, low, high, only_a, only_b, neither, verdict)


def interval(
    differences: np.ndarray, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float | None, float | None]:
    """Confidence interval of the mean of paired differences (N,); (None, None) for fewer than MIN_ITEMS."""
    from scipy.stats import bootstrap

    if len(differences) < MIN_ITEMS:
        return None, None
    if np.allclose(differences, differences[0], rtol=1e-9, atol=1e-12):  # BCa is not defined if all resamples are equal
        return float(differences[0]), float(differences[0])
    found = bootstrap(
        (differences,), np.mean, n_resamples=resamples, confidence_level=confidence, method="BCa",
        rng=np.random.default_rng(seed), batch=max(1, 2_000_000 // len(differences)),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def to_markdown(a: Path, b: Path, rows: Sequence[Comparison], notes: Sequence[str], confidence: float) -> str:
    head = ["metric", "group", "better", "n", "A", "B", "B - A", f"{confidence:.0%} interval", "left out", "verdict"]
    lines = [f"A: {a}", "", f"B: {b}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        bounds = "-" if row.low is None else f"{number(row.low)} .. {number(row.high)}"
        cells = [row.metric, row.group, row.better, str(row.n), number(row.a), number(row.b), number(row.difference)]
        lines.append(f"| {' | '.join([*cells, bounds, str(row.only_a + row.only_b + row.neither), row.verdict])} |")
    return "\n".join([*lines, "", *notes])


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    parser = Parser(prog="python -m unireal.evaluation compare", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("a", metavar="A", type=Path, help="run folder")
    add("b", metavar="B", type=Path, help="run folder of the same benchmark")
    add("--metric", metavar="NAME", nargs="+", default=[], help="what to compare (default: all common metrics)")
    add("--by", choices=BY, default="edit-type", help="what items are grouped by (default: %(default)s)")
    add("--confidence", metavar="P", type=float, default=0.95, help="of the intervals, above 0 and below 1")
    add("--resamples", metavar="N", type=int, default=RESAMPLES, help="bootstrap samples (default: %(default)s)")
    add("--seed", metavar="N", type=int, default=0)
    add("--output", metavar="DIR", type=Path, help="folder for compare.json and compare.md")
    try:
        options = parser.parse_args(arguments)
        if not 0 < options.confidence < 1 or options.resamples < 100 or options.seed < 0:
            raise ValueError("--confidence is above 0 and below 1, --resamples at least 100, --seed at least 0")
        runs = RunFolder(options.a), RunFolder(options.b)
        rows, notes = compare(
            *runs, options.metric, options.confidence, options.resamples, options.seed, BY[options.by]
        )
        text = to_markdown(options.a, options.b, rows, notes, options.confidence)
        if options.output is not None:
            settings = {"a": str(options.a), "b": str(options.b), "confidence": options.confidence, "by": options.by}
            settings |= {"resamples": options.resamples, "seed": options.seed, "notes": notes}
            write_json(options.output / "compare.json", settings | {"rows": [asdict(row) for row in rows]})
            write_text(options.output / "compare.md", text + "\n")
    except (ValueError, OSError, ImportError) as error:
        return failed(error)
    print(text)
    return 0
