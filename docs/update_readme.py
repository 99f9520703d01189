"""Rewrites the generated parts of README.md and docs/reproducibility.md: the table of tasks from TASKS, the results
from the shipped benchmark run, and the papers' headlines beside ours.

python docs/update_readme.py            # after changing TASKS, or after a new run of the world benchmark
python docs/update_readme.py --check    # exit 1 if a page is not up to date
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from headlines import headlines

from unireal.model.folder import SHIPPED
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
        if not (row["primary"] or row["bar"]):
            continue
        arrow = "↑" if row["better"] == "higher" else "↓"
        bar = "" if row["bar"] is None else f"{row['bar']} {'reached' if row['passed'] else 'missed'}"
        cells = [row["recipe"], row["subset"], str(row["n"]), f"{row['metric']} {row['unit']} {arrow}"]
        cells += [f"**{_number(row['mean'])}**", *(_number(row["baselines"].get(n)) for n in names), bar]
        lines.append(f"| {' | '.join(cells)} |")
    settings = run["settings"]
    lines.append("")
    guidance = f"guidance {settings['guidance_scale']}, image guidance {settings['image_guidance_scale']}"
    lines.append(f"Sampling steps: {settings['num_inference_steps']}, {guidance}, 64x64 pixels.")
    return "\n".join(lines)


def headlines_tables() -> str:
    return headlines(json.loads(RESULTS.read_text(encoding="utf-8")))


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def updated(text: str) -> str:
    """The text with everything between <!-- NAME --> and <!-- /NAME --> made anew."""
    for name, make in (("tasks", tasks_table), ("results", results_table), ("headlines", headlines_tables)):
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
