"""A run folder as a page to look at: python -m unireal.evaluation html DIR

DIR/index.html shows the summary, plots, means by edit type, input condition and control frames, and the items that
have pictures (of the world benchmark some scenes per recipe), which can be sorted by score. Pictures are linked, so the
folder can be moved or published as a whole. DIR/breakdown.md holds the same means.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from unireal.arguments import Parser, failed
from unireal.evaluation import plots
from unireal.evaluation.breakdown import (
    BREAKDOWNS,
    Tags,
    breakdown,
    by_system,
    conditions,
    controls,
    edit_types,
    metrics_of,
    number,
    scores_of,
    to_markdown,
)
from unireal.evaluation.results import MODEL, ItemResult, RunFolder, write_text

MAX_FRAMES = 8  # of a video, evenly spread


def write(folder: Path) -> Path:
    """Writes DIR/index.html and DIR/breakdown.md and returns the path of the first.

    Raises ValueError if the folder holds no items or they are damaged, and without the package jinja2.
    """
    run = RunFolder(Path(folder))
    items = run.items()
    summary = run.summary() if (run.path / "summary.json").exists() else []
    shown = [item for item in items if item.inputs or item.output or item.failure]
    settings, metrics = run.settings(), metrics_of(items)
    judges = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(run.path.glob("judge-*.json"))]
    content = {
        "title": str(settings.get("benchmark", run.path.resolve().name)),
        "settings": settings,
        "summary": summary,
        "count": len(items),
        "failures": sum(item.failure is not None for item in items),
        "parts": [
            _spread(items),
            *(_groups(title, items, tags) for title, tags in BREAKDOWNS if any(map(tags, items))),
        ],
        "judges": [found for found in judges if any(metric.startswith(f"{found['protocol']} ") for metric in metrics)],
        "metrics": metrics,
        "categories": list(dict.fromkeys(item.category for item in shown if item.category)),
        "types": sorted({tag for item in shown for tag in edit_types(item)}),
        "conditions": sorted({tag for item in shown for tag in conditions(item)}),
        "controls": sorted({tag for item in shown for tag in controls(item)}),
        "items": [_card(run, item) for item in shown],
    }
    write_text(run.path / "breakdown.md", to_markdown(items))
    return write_text(run.path / "index.html", _template().render(content))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    parser = Parser(prog="python -m unireal.evaluation html", description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", type=Path, help="run folder with items.jsonl")
    try:
        print(write(parser.parse_args(arguments).folder))
    except (ValueError, OSError) as error:
        return failed(error)
    return 0


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ValueError("the page needs jinja2: pip install 'unireal[eval]'") from error
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    return environment.from_string((files("unireal.evaluation") / "page.html").read_text(encoding="utf-8"))


def _spread(items: Sequence[ItemResult]) -> dict[str, Any]:
    """A histogram of every metric, of the systems that are measured of the same items as the model."""
    found = {}
    for metric in metrics_of(items):
        systems = scores_of(items, metric)
        alike = {name: scores for name, scores in systems.items() if len(scores) == len(systems[MODEL])}
        series = {name: [s for s in scores if s is not None] for name, scores in alike.items()}
        series = {name: scores for name, scores in series.items() if scores}
        if series:
            found[metric] = _markup(plots.histogram(series))
    return {"title": "Scores", "plots": found, "table": {}}


def _groups(title: str, items: Sequence[ItemResult], tags: Tags) -> dict[str, Any]:
    """Bars and a table of every metric by tag."""
    table, found = breakdown(items, tags), {}
    for metric, groups in table.items():
        shown = {tag: by_system(systems) for tag, systems in groups.items()}
        if any(shown.values()):
            found[metric] = _markup(plots.bars({tag: systems for tag, systems in shown.items() if systems}))
    return {"title": title, "plots": found, "table": table}


def _markup(svg: str) -> Any:
    from markupsafe import Markup

    return Markup(svg)  # made by unireal.evaluation.plots, which escapes its labels


def _card(run: RunFolder, item: ItemResult) -> dict[str, Any]:
    pictures = [(f"input {k}", path) for k, path in enumerate(item.inputs, start=1)]
    pictures += [("before this turn", item.before)] if item.before and (run.path / item.before).exists() else []
    pictures += [("truth", item.truth)] if item.truth else []
    pictures += _numbered("truth", item.further.get("truth", []), first=2)
    pictures += _outputs(run, item)
    for name, paths in item.further.items():
        pictures += _numbered(name, paths) if name != "truth" else []
    return {
        "id": item.id,
        "instruction": item.instruction,
        "task": item.task,
        "category": item.category,
        "type": edit_types(item)[0],
        "conditions": conditions(item),
        "controls": controls(item),
        "faults": item.faults,
        "pictures": [{"name": name, "source": quote(path)} for name, path in pictures],
        "scores": item.scores,
        "failure": item.failure,
    }


def _outputs(run: RunFolder, item: ItemResult) -> list[tuple[str, str]]:
    if item.output is None:
        return []
    if item.frames == 1:
        return [("output", item.output)]
    count = min(item.frames, MAX_FRAMES)
    chosen = sorted({round(i * (item.frames - 1) / max(count - 1, 1)) for i in range(count)})
    return [(f"output frame {k + 1}", run.image(item.id, k).relative_to(run.path).as_posix()) for k in chosen]


def _numbered(name: str, paths: Sequence[str], first: int = 1) -> list[tuple[str, str]]:
    """Captions of some pictures of one kind; a single one needs no number."""
    if first == 1 and len(paths) == 1:
        return [(name, paths[0])]
    return [(f"{name} {number}", path) for number, path in enumerate(paths, start=first)]
