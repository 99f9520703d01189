"""Rewrites the generated parts of README.md and docs/reproducibility.md: the table of tasks from TASKS, the results
from the shipped benchmark runs, and the papers' headlines beside ours.

python docs/update_readme.py            # after changing TASKS, or after a new run of the world benchmark
python docs/update_readme.py --check    # exit 1 if a page is not up to date
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from headlines import headlines

from unireal.model.folder import ADAPTERS, SHIPPED
from unireal.tasks import TASKS, TaskSpec

DOCS = Path(__file__).parent
PAGES = (DOCS.parent / "README.md", DOCS / "reproducibility.md")
RESULTS = SHIPPED["unireal-tiny"] / "world.json"


def tasks_table() -> str:
    rows = ["| task | what it does | pictures | example prompt |", "|---|---|---|---|"]
    for spec in TASKS.values():
        rows.append(f"| `{spec.name}` | {spec.summary} | {_pictures(spec)} | {spec.example or spec.default_prompt} |")
    return "\n".join(rows)


def _pictures(spec: TaskSpec) -> str:
    parts = [f"`{slot}`" + (" (optional)" if slot.optional else "") for slot in spec.slots]
    if spec.prepare == "expand":
        parts.append("`--expand L,T,R,B`")
    return ", ".join(parts) or "none"


def results_table() -> str:
    """One row per primary score of the shipped model, with its baselines."""
    run = json.loads(RESULTS.read_text(encoding="utf-8"))
    names = ["copy", "mean", "random object", "per frame"]
    head = ["recipe", "scenes", "n", "metric", "unireal-tiny", *names, "bar"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in run["rows"]:
        if not _is_shown(row):
            continue
        arrow = "↑" if row["better"] == "higher" else "↓"
        bar = "" if row["bar"] is None else f"{row['bar']} {'reached' if row['passed'] else 'missed'}"
        cells = [row["recipe"], row["subset"], str(row["n"]), f"{row['metric']} {row['unit']} {arrow}"]
        cells += [f"**{_number(row['mean'])}**", *(_number(row["baselines"].get(n)) for n in names), bar]
        lines.append(f"| {' | '.join(cells)} |")
    settings = run["settings"]
    lines.append("")
    guidance = f"guidance {settings['guidance_scale']}, image guidance {settings['image_guidance_scale']}"
    size = run["rows"][0]["resolution"]
    lines.append(f"Sampling steps: {settings['num_inference_steps']}, {guidance}, {size} pixels.")
    return "\n".join(lines)


def sizes_table() -> str:
    """The standard scenes' scores of every run of the model (world.json, world-WxH.json) and of its adapters, with
    copy's beside them."""
    paths = (path for folder in (RESULTS.parent, *ADAPTERS.values()) for path in sorted(folder.glob("world*.json")))
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    runs.sort(key=lambda run: [int(side) for side in run["rows"][0]["resolution"].split("x")])
    found = [{(row["recipe"], row["metric"]): row for row in run["rows"] if _is_shown(row, "standard")} for run in runs]
    head = ["recipe", "metric", *map(_size_of, runs)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for recipe, metric in (scored for scored in found[0] if any(scored in scores for scores in found[1:])):
        rows = [scores.get((recipe, metric)) for scores in found]
        cells = [f"**{_number(row['mean'])}** ({_number(row['baselines']['copy'])})" if row else "-" for row in rows]
        arrow = "↑" if found[0][recipe, metric]["better"] == "higher" else "↓"
        lines.append(f"| {recipe} | {metric} {found[0][recipe, metric]['unit']} {arrow} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _size_of(run: dict[str, Any]) -> str:
    adapter = f", `{run['settings']['lora']}`" if "lora" in run["settings"] else ""
    return f"{run['rows'][0]['resolution']}{adapter} (n {run['settings']['limit']})"


def _is_shown(row: dict[str, Any], subset: str | None = None) -> bool:
    return bool(row["primary"] or row["bar"]) and subset in (None, row["subset"])


def headlines_tables() -> str:
    return headlines(json.loads(RESULTS.read_text(encoding="utf-8")))


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def updated(text: str) -> str:
    """The text with everything between <!-- NAME --> and <!-- /NAME --> made anew."""
    tables = {"tasks": tasks_table, "results": results_table, "sizes": sizes_table, "headlines": headlines_tables}
    for name, make in tables.items():
        table = make().replace("\\", r"\\")
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(pattern, rf"\g<1>{table}\n\g<2>", text, flags=re.DOTALL)
    return text


def main() -> int:
    status = 0
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = updated(old)
        if "--check" not in sys.argv[1:]:
            page.write_text(new, encoding="utf-8")
        elif new != old:
            print(f"{page.name} is not up to date; run: python docs/update_readme.py", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
