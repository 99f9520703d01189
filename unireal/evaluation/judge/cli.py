"""python -m unireal.evaluation judge DIR --protocol gedit --model gpt-4.1-2025-04-14 --base-url https://...

DIR is a run folder with items.jsonl and pictures. What was rated is written into it, and a page to look at.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unireal.arguments import Parser, at_least_one, failed
from unireal.evaluation import html
from unireal.evaluation.judge.endpoint import Endpoint
from unireal.evaluation.judge.protocols import PROTOCOLS
from unireal.evaluation.judge.replies import Budget, Judge, Kept
from unireal.evaluation.judge.scoring import Judgement, judge_items, judgeable, write_judgement
from unireal.evaluation.results import COPY, MODEL, UNFILTERED, RunFolder, SummaryRow, write_text
from unireal.evaluation.summary import to_markdown
from unireal.names import lookup


def _parser() -> Parser:
    parser = Parser(
        prog="python -m unireal.evaluation judge",
        description="Lets a vision-language model rate the edits of a run folder, those that have a picture before and"
        " after the edit there; of videos the first frames, by the protocol ditto several of each.",
        epilog="The key of an endpoint is read from OPENAI_API_KEY; local servers need none.",
    )
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="run folder with items.jsonl and pictures")
    add("--protocol", required=True, metavar="NAME", help=f"one of: {', '.join(PROTOCOLS)}")
    add("--model", required=True, metavar="M", help="the judge, with its date or version; --local: folder or hub id")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--base-url", metavar="URL", help="OpenAI-compatible endpoint (default: OpenAI's)")
    where.add_argument("--local", action="store_true", help="run the judge here, with transformers")
    add("--max-calls", metavar="N", type=at_least_one, help="stop asking after N requests, repeated ones included")
    add("--max-tokens", metavar="N", type=at_least_one, help="stop asking after N tokens, read and written")
    add("--max-reply", metavar="N", type=at_least_one, default=1024, help="tokens of one reply (default: 1024)")
    add("--retries", metavar="N", type=int, help="repetitions of a request that failed (default: 5)")
    add("--backoff", metavar="S", type=float, help="seconds before the first one (default: 1)")
    add("--timeout", metavar="S", type=float, help="seconds for one request (default: 120)")
    add("--workers", metavar="N", type=at_least_one, default=4, help="requests at a time (default: 4)")
    add("--replies", metavar="DIR", type=Path, help="where replies are kept (default: DIR/replies)")
    add("--no-copy", action="store_true", help="do not rate the unedited input as a baseline")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 if nothing could be rated, 2 bad input."""
    try:
        options = _parser().parse_args(arguments)
        judgement, rows, budget, without = run(options)
    except (ValueError, OSError, ImportError) as error:
        return failed(error)
    print(_text(judgement, rows, budget))
    if without:
        print(f"not judged: {without} items of which the folder keeps no picture before or after the edit")
    return 0 if any(row.n for row in rows) else 1


def run(options: argparse.Namespace) -> tuple[Judgement, list[SummaryRow], Budget, int]:
    """Judges the folder and writes what was found. Returns it with the number of items that are not judged.

    Raises ValueError or OSError for bad input, and if there are no pictures at all."""
    protocol = lookup(PROTOCOLS, options.protocol, "protocol")
    folder = RunFolder(options.folder)
    items, without = judgeable(folder.items())
    if not items:
        raise ValueError(
            f"{folder.path} keeps of none of its {without} items a picture before and after the edit; judge a run that "
            "does (world: --pictures N keeps those of N scenes per recipe)"
        )
    budget = Budget(options.max_calls, options.max_tokens)
    patience = _patience(options)
    if options.local:
        from unireal.evaluation.judge.local import LocalVLM

        judge: Judge = LocalVLM(options.model, budget, max_reply=options.max_reply)
    else:
        judge = Endpoint(
            options.model,
            options.base_url,
            budget=budget,
            max_reply=options.max_reply,
            **patience,
        )
    kept = Kept(judge, options.replies or options.folder / "replies")
    systems = (MODEL,) if options.no_copy else (MODEL, COPY)
    with tqdm(total=len(items) * len(systems), disable=not sys.stderr.isatty(), unit="item") as bar:
        judgement = judge_items(folder, items, protocol, kept, systems, options.workers, bar.update)
    rows = write_judgement(folder, judgement, protocol, judge.model)
    settings = folder.settings() | {"judge": judge.model, "answered by": ", ".join(judgement.models) or "none"}
    if judgement.own_temperature:
        settings["judge's temperature"] = "the endpoint's own"
    write_text(
        folder.path / f"judge-{protocol.name}.md", to_markdown(f"Judged by {protocol.name}'s protocol", rows, settings)
    )
    html.write(options.folder)
    return judgement, rows, budget, without


def _patience(options: argparse.Namespace) -> dict[str, Any]:
    """What is given of an endpoint's retries, backoff and timeout. Raises ValueError for a local judge, which has none,
    and for numbers that make no sense."""
    given = {name: getattr(options, name) for name in ("retries", "backoff", "timeout")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.local and given:
        raise ValueError(f"--{next(iter(given))} is for an endpoint; leave it out with --local")
    if given.get("retries", 0) < 0 or given.get("backoff", 0) < 0 or not given.get("timeout", 1) > 0:
        raise ValueError("--retries and --backoff are at least 0, --timeout is above 0")
    return given


def _text(judgement: Judgement, rows: list[SummaryRow], budget: Budget) -> str:
    lines = [
        f"{row.system:6} {row.metric:32} {row.group:24} {'-' if row.value is None else f'{row.value:.3f}'}"
        f"  n {row.n}  failures {row.failures}" + f"  {row.filter}" * (row.filter != UNFILTERED)
        for row in rows
    ]
    lines.append(
        f"{budget.calls} requests, {budget.tokens} tokens, answered by {', '.join(judgement.models) or 'none'}"
    )
    if len(judgement.models) > 1:
        lines.append("the endpoint's model changed between replies: judge again with one version")
    if judgement.own_temperature:
        lines.append("the endpoint takes no temperature: replies are drawn at its own, and another run's may differ")
    if judgement.failures:
        counts = Counter(verdict.kind for verdict in judgement.failures)
        lines.append("without a rating: " + ", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
        lines += [f"  {v.system} {v.item} {v.question}: {v.failure}" for v in judgement.failures[:20]]
        if len(judgement.failures) > 20:
            lines.append(f"  ... and {len(judgement.failures) - 20} more in the judge's file")
    return "\n".join(lines)
