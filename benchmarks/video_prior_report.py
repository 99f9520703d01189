"""What benchmarks/video_prior.py found, as results.json, a table and a chart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.pictures import line_chart
from unireal.evaluation.metrics import mean
from unireal.evaluation.results import write_json, write_text

QUALITY, KEPT = "changed PSNR", "unchanged PSNR"
BASELINES = ("copy", "mean")
# UniReal's ablations (table 4), and only video data: what is left out -> the run
ABLATIONS = {
    "nothing": "video prior, 100%",
    "context prompt": "without context prompt",
    "image prompt": "without image prompt",
    "video data (only expert data)": "scratch, 100%",
    "expert data (only video data)": "only video data",
}


@dataclass(frozen=True)
class Score:
    """One finished run: its name, the seed, the size of the runs, and the rows of the world benchmark."""

    run: str
    seed: int
    settings: dict[str, Any]
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Score:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def values(self, metric: str) -> dict[str, dict[str, Any]]:
        """Recipe -> its row of that metric."""
        return {row["recipe"]: row for row in self.rows if row["metric"] == metric}

    def average(self, metric: str) -> tuple[float, float]:
        """Over the recipes, and the standard error of the mean over scenes."""
        rows = self.values(metric).values()
        errors = [math.nan if row["standard_error"] is None else row["standard_error"] for row in rows]
        return mean(row["mean"] for row in rows)[0], math.sqrt(sum(e * e for e in errors)) / len(errors)


def quality(scores: Sequence[Score], metric: str = QUALITY) -> tuple[float, float]:
    """Of the runs of one kind: the mean, and its standard error over seeds, or over scenes if there is one seed."""
    averages = [score.average(metric) for score in scores]
    if len(averages) == 1:
        return averages[0]
    value, error, _ = mean(average for average, _ in averages)
    return value, error


def by_run(scores: Iterable[Score]) -> dict[str, list[Score]]:
    found: dict[str, list[Score]] = {}
    for score in scores:
        found.setdefault(score.run, []).append(score)
    return found


def baseline(score: Score, name: str, metric: str = QUALITY) -> float:
    """Mean over the recipes."""
    return mean(row["baselines"][name] for row in score.values(metric).values())[0]


def markdown(scores: Sequence[Score], chosen: Mapping[str, str], head: str) -> str:
    """A table with one row for each of the chosen runs that is finished, by its label, and for each baseline."""
    known = by_run(scores)
    recipes = list(scores[0].values(QUALITY))
    lines = [[head, "seeds", f"{QUALITY}, dB", "s.e.", *recipes, f"{KEPT}, dB"]]
    lines.append(["---"] * len(lines[0]))
    for label, runs in ((label, known[name]) for label, name in chosen.items() if name in known):
        value, error = quality(runs)
        cells = [mean(run.values(QUALITY)[recipe]["mean"] for run in runs)[0] for recipe in recipes]
        kept, _ = quality(runs, KEPT)
        lines.append([label, str(len(runs)), f"**{_number(value)}**", _number(error, 2), *map(_number, (*cells, kept))])
    for name in BASELINES:
        cells = [scores[0].values(QUALITY)[recipe]["baselines"][name] for recipe in recipes]
        # a copy keeps what does not change to the bit: infinitely many dB, which is null in JSON
        kept = None if name == "copy" else baseline(scores[0], name, KEPT)
        lines.append([name, "", _number(baseline(scores[0], name)), "", *map(_number, (*cells, kept))])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def about(scores: Sequence[Score]) -> str:
    """How the numbers came about, as a sentence."""
    size, seeds = scores[0].settings, len({score.seed for score in scores})
    errors = "over seeds" if seeds > 1 else "over scenes, so without what another seed would change"
    return (
        f"{size['steps']:,} optimizer steps of {size['batch_size']} samples in every run; 100% are {size['samples']:,} "
        f"supervised samples; {size['scenes']} held-out scenes for each recipe; {seeds} seed{'s' * (seeds > 1)}; "
        f"standard errors {errors}."
    )


def chart(scores: Sequence[Score]) -> str:
    """Edit quality over the share of supervision, as SVG."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, runs in by_run(scores).items():
        line, comma, share = name.partition(", ")
        if comma:
            lines.setdefault(line, []).append((math.log10(float(share.rstrip("%"))), quality(runs)[0]))
    xs = sorted({x for line in lines.values() for x, _ in line})
    lines |= {name: [(x, baseline(scores[0], name)) for x in xs] for name in BASELINES if xs}
    if not xs:
        raise ValueError("no run with a share of supervision is finished; there is nothing to plot")
    title = "Edits after training with and without a video prior"
    return line_chart(lines, title, "share of the supervised samples", f"{QUALITY}, dB", lambda x: f"{10**x:g}%")


def write_report(scores: Sequence[Score], output: Path) -> str:
    """Writes results.json, video-prior.md and, if a share of supervision was tried, video-prior.svg; returns the
    tables."""
    curve = {name: name for name in by_run(scores) if ", " in name}
    tables = [
        markdown(scores, chosen, head)
        for chosen, head in ((curve, "supervised samples"), (ABLATIONS, "left out"))
        if set(chosen.values()) & set(by_run(scores))
    ]
    text = "\n".join([f"{about(scores)}\n", *tables])
    write_json(output / "results.json", [asdict(score) for score in scores])
    write_text(output / "video-prior.md", text)
    if curve:
        write_text(output / "video-prior.svg", chart(scores))
    return text


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
