"""Means of item scores by the survey's edit types and input conditions and by what control frames show, for any run
folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unireal.evaluation import metrics
from unireal.evaluation.results import MODEL, ItemResult
from unireal.sample import Role
from unireal.tasks import CONTROL_KINDS, TASKS
from unireal.taxonomy import EDIT_TYPES, INPUT_CONDITIONS, TEXTUAL, accepted_conditions

OTHER = "other"  # items whose edit is none of the twelve types

Tags = Callable[[ItemResult], Sequence[str]]


@dataclass(frozen=True)
class Mean:
    """value: mean of the n items that have a score, None without any; error: its standard error, None below two.

    missing: items of the group without a score.
    """

    value: float | None
    error: float | None
    n: int
    missing: int

    @classmethod
    def of(cls, scores: Sequence[float | None]) -> Mean:
        value, error, count = metrics.mean(score for score in scores if score is not None)
        return cls(metrics.known(value), metrics.known(error), count, len(scores) - count)


def known_edit_types(item: ItemResult) -> tuple[str, ...]:
    return (item.edit_type,) if item.edit_type else ()


def edit_types(item: ItemResult) -> tuple[str, ...]:
    return known_edit_types(item) or (OTHER,)


def conditions(item: ItemResult) -> tuple[str, ...]:
    """What the item was tagged with; for untagged items, what its task cannot do without."""
    if item.conditions:
        return tuple(item.conditions)
    slots = TASKS[item.task].slots if item.task in TASKS else ()
    certain = ((s.role, s.kinds) for s in slots if s.minimum and (s.role is Role.ASSET or len(s.kinds) == 1))
    return ("text", *(c for c in accepted_conditions(certain) if c not in TEXTUAL))


def controls(item: ItemResult) -> tuple[str, ...]:
    return tuple(item.controls)


def categories(item: ItemResult) -> tuple[str, ...]:
    """The data set's own word for the kind of edit, if it has one."""
    return (item.category,) if item.category else ()


BREAKDOWNS: tuple[tuple[str, Tags], ...] = (
    ("Edit types", edit_types),
    ("Input conditions", conditions),
    ("Control frames", controls),
)


def metrics_of(items: Sequence[ItemResult]) -> list[str]:
    """Names of all scores, in the order of their first appearance."""
    return list(dict.fromkeys(name for item in items for name in item.scores))


def scores_of(items: Sequence[ItemResult], metric: str) -> dict[str, list[float | None]]:
    """System ("model", "copy", ...) -> the metric of every item of which it is measured, None where there is none.

    A baseline has none where the model has none, since its mean is to be looked at beside the model's. Baselines that
    never have the metric are left out.
    """
    items = [item for item in items if metric in item.scores]
    systems = list(dict.fromkeys(name for item in items for name in item.baselines))
    found = {MODEL: [item.scores.get(metric) for item in items]}
    for name in systems:
        beside = ((item.baselines[name].get(metric), item.scores[metric]) for item in items if name in item.baselines)
        found[name] = [None if ours is None else theirs for theirs, ours in beside]
    return {name: scores for name, scores in found.items() if name == MODEL or any(s is not None for s in scores)}


def breakdown(items: Sequence[ItemResult], tags: Tags) -> dict[str, dict[str, dict[str, Mean]]]:
    """metric -> tag -> system -> mean over the items with that tag, tags in the survey's order.

    An item with several tags counts for each. Metrics that are no mean of items (cIoU) differ here from the summary.
    """
    groups: dict[str, list[ItemResult]] = defaultdict(list)
    for item in items:
        for tag in tags(item):
            groups[tag].append(item)
    known = dict.fromkeys((*EDIT_TYPES, OTHER, *INPUT_CONDITIONS, *CONTROL_KINDS))
    ordered = [tag for tag in known if tag in groups]
    ordered += [tag for tag in groups if tag not in ordered]
    return {
        metric: {
            tag: {system: Mean.of(scores) for system, scores in scores_of(groups[tag], metric).items()}
            for tag in ordered
            if any(metric in item.scores for item in groups[tag])
        }
        for metric in metrics_of(items)
    }


def to_markdown(items: Sequence[ItemResult]) -> str:
    """A table for each of BREAKDOWNS that has groups."""
    lines = []
    for title, tags in BREAKDOWNS:
        if not any(map(tags, items)):
            continue
        lines += [
            f"## {title}",
            "",
            "| metric | group | system | mean | s.e. | n | without a score |",
            "|---" * 7 + "|",
        ]
        for metric, groups in breakdown(items, tags).items():
            for tag, systems in groups.items():
                for system, found in systems.items():
                    numbers = f"{number(found.value)} | {number(found.error)} | {found.n} | {found.missing}"
                    lines.append(f"| {metric} | {tag} | {system} | {numbers} |")
        lines.append("")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Four significant digits, "-" for None."""
    return "-" if value is None else f"{value:.4g}"


def by_system(found: Mapping[str, Mean]) -> dict[str, tuple[float, float | None]]:
    """System -> mean and error, to look at side by side: without those that have no mean, and without baselines that
    are measured of some of the model's items only."""
    items = found[MODEL].n + found[MODEL].missing
    alike = {system: mean for system, mean in found.items() if mean.n + mean.missing == items}
    return {system: (mean.value, mean.error) for system, mean in alike.items() if mean.value is not None}
