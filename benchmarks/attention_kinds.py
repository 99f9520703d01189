"""Does it cost quality that text and input frames do not see the results? Both kinds of attention, trained alike.

    python -m benchmarks.attention_kinds --start unireal-tiny --steps 150 --limit 64 --output runs/attention

With `condition_attention="isolated"` the condition cache is exact; "full" is the paper's. Both start from the same
weights, see the same samples with the same noise, and are measured on the same held-out scenes of benchmark `world`.
The weights were trained with one of the kinds, so the other has to get used to the change first: its scores before
training say how much that is. The seed of training decides too; the standard errors know only of the scenes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_builders.world.recipes import RECIPES
from unireal.arguments import Parser, at_least_one, failed
from unireal.evaluation import metrics
from unireal.evaluation.report import Report
from unireal.evaluation.results import write_json, write_text
from unireal.evaluation.world import World
from unireal.experiments import EXPERIMENTS, OptimizerConfig, TrainConfig
from unireal.model.folder import check_model_folder, find_model
from unireal.pipeline import UniRealPipeline
from unireal.training.trainer import Trainer

KINDS = ("full", "isolated")
ASKED = ("recolor", "remove", "add", "move", "replace", "insert", "customize1", "control_depth", "depth", "segment",
         "inpaint", "t2i")  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """The main score of a recipe. difference: isolated - full of the n scenes, one by one; error: its standard error.
    full_before, isolated_before: the same weights before training."""

    recipe: str
    metric: str
    better: str
    n: int
    full_before: float
    isolated_before: float
    full: float
    isolated: float
    difference: float
    error: float


def with_attention(start: Path, kind: str, folder: Path) -> Path:
    """A copy of a model's folder whose transformer has the other kind of attention."""
    shutil.copytree(start, folder, dirs_exist_ok=True)
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"condition_attention": kind}, indent=2) + "\n")
    return folder


def training(start: Path, options: argparse.Namespace) -> TrainConfig:
    """The recipe of the shipped model with the gentle rates of fine-tuning."""
    experiment = EXPERIMENTS["tiny"]
    optimizer = OptimizerConfig(
        lr=options.lr, muon_lr=10 * options.lr, text_lr=options.lr, warmup=max(1, options.steps // 10),
        decay=options.steps // 2, ema=1 - 5 / max(options.steps, 10),
    )  # fmt: skip
    return replace(
        experiment,
        model=str(start),
        data=replace(experiment.data, batch_size=options.batch_size),
        optimizer=optimizer,
        steps=options.steps,
        precision=options.precision,
        compile=False,
        checkpoint_every=options.steps,
        sample_every=0,
        seed=options.seed,
    )


def score(folder: Path, options: argparse.Namespace) -> Report:
    pipeline = UniRealPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    world = World(limit=options.limit, only=tuple(options.only), size=(options.size, options.size), pictured=1)
    return world.run(lambda samples, seed: pipeline.generate(samples, seed=seed))


def main_scores(report: Report) -> dict[str, dict[str, float | None]]:
    """Recipe -> item -> the first score of its exam. What is not of the standard scenes is named apart."""
    found: dict[str, dict[str, float | None]] = {}
    for item in report.lines:
        found.setdefault(item.category, {})[item.id] = next(iter(item.scores.values()))
    return found


def differences(before: dict[str, Report], after: dict[str, Report]) -> list[Difference]:
    """One row for each recipe; the reports by kind of attention."""
    rows, scores = [], {kind: main_scores(report) for kind, report in after.items()}
    first = {kind: main_scores(report) for kind, report in before.items()}
    primary = {(row.recipe, row.subset): row for row in after["full"].rows if row.primary}
    for recipe, items in scores["full"].items():
        name, _, subset = recipe.partition(", ")
        row = primary[name, subset or "standard"]
        pairs = [(a, scores["isolated"][recipe][item]) for item, a in items.items()]
        change, error, n = metrics.mean(b - a for a, b in pairs if a is not None and b is not None)
        means = {k: metrics.mean(x for x in s[recipe].values() if x is not None)[0] for k, s in scores.items()}
        start = {k: metrics.mean(x for x in s[recipe].values() if x is not None)[0] for k, s in first.items()}
        rows.append(
            Difference(
                recipe=recipe,
                metric=row.metric,
                better=row.better,
                n=n,
                full_before=start["full"],
                isolated_before=start["isolated"],
                full=means["full"],
                isolated=means["isolated"],
                difference=change,
                error=error,
            )
        )
    return rows


def markdown(rows: Sequence[Difference]) -> str:
    head = "recipe | metric | n | full before | isolated before | full | isolated | isolated - full".split(" | ")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        metric = f"{row.metric} {'↑' if row.better == 'higher' else '↓'}"
        scores = [f"{x:.3f}" for x in (row.full_before, row.isolated_before, row.full, row.isolated)]
        cells = [row.recipe, metric, str(row.n), *scores, f"{row.difference:+.3f} ± {row.error:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        start = find_model(options.start, "--start")
        check_model_folder(start)
        if (options.output / "full").exists():
            raise ValueError(f"{options.output} holds an earlier run; give another --output")
        before, after, losses = {}, {}, {}
        for kind in KINDS:
            folder = options.output / kind
            changed = with_attention(start, kind, folder / "start")
            before[kind] = score(changed, options)
            losses[kind] = Trainer(training(changed, options), folder).train()
            after[kind] = score(folder / "model", options)
    except (ValueError, OSError) as error:
        return failed(error)
    rows = differences(before, after)
    table = markdown(rows)
    print(table)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    report = {"settings": settings, "rows": [asdict(row) for row in rows], "losses": losses}
    write_json(options.output / "attention_kinds.json", report)
    write_text(options.output / "attention_kinds.md", table + "\n")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.attention_kinds", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--start", default="unireal-tiny", help="a shipped model or a folder")
    add("--steps", type=at_least_one, default=150, help="of training, for each kind")
    add("--batch-size", type=at_least_one, default=16)
    add("--lr", type=float, default=2e-4)
    add("--precision", default="bf16", choices=("no", "bf16"))
    add("--seed", type=int, default=0, help="of the noise in training")
    add("--limit", type=at_least_one, default=64, help="held-out scenes for each recipe")
    add("--only", nargs="+", default=list(ASKED), choices=list(RECIPES), metavar="RECIPE")
    add("--size", type=at_least_one, default=64, help="side of the pictures in pixels")
    add("--output", type=Path, required=True, help="folder for models, attention_kinds.md and .json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
