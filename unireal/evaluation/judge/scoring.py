"""A run folder is judged: scores of every item into items.jsonl, means into summary.json, verdicts into their own file.

DIR/judge-NAME.json says for every item and question what was rated and, where there is no rating, why.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image

from unireal.evaluation.judge.protocol import Protocol, Question
from unireal.evaluation.judge.replies import JudgeError, Kept, read_ratings
from unireal.evaluation.judge.summary import summarise
from unireal.evaluation.results import COPY, MODEL, ItemResult, RunFolder, SummaryRow, check_texts, write_json
from unireal.transforms import load_image

ATTEMPTS = 2  # times that a question is asked if the reply cannot be read
_AGAIN = "\nYour last reply could not be read. Make sure that it ends with the JSON object, each value one number."


@dataclass
class Verdict:
    """The answer to one question about one item.

    system:  "model", or "copy" for the source in the output's place.
    ratings: criterion -> number, None if there is none; then kind and failure say why (JudgeError).
    model:   which one says to have answered. own_temperature: as in Reply.
    """

    item: str
    system: str
    question: str
    ratings: dict[str, float] | None = None
    model: str = ""
    kind: str | None = None
    failure: str | None = None
    own_temperature: bool = False


@dataclass
class Judgement:
    """All verdicts of a run; scores: (item, system) -> score name -> number or None."""

    verdicts: list[Verdict] = field(default_factory=list)
    scores: dict[tuple[str, str], dict[str, float | None]] = field(default_factory=dict)

    @property
    def failures(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.kind is not None]

    @property
    def models(self) -> list[str]:
        """Who answered, usually one; several mean that the endpoint changed its model meanwhile."""
        return sorted({verdict.model for verdict in self.verdicts if verdict.model})

    @property
    def own_temperature(self) -> bool:
        """Whether replies were drawn at the endpoint's own temperature, as it takes no other."""
        return any(verdict.own_temperature for verdict in self.verdicts)


def judgeable(items: Sequence[ItemResult]) -> tuple[list[ItemResult], int]:
    """Items that a judge is asked about, and the number of the others: what the folder keeps no picture of before or
    after the edit, although nothing failed (the world benchmark keeps those of some scenes)."""
    asked = [item for item in items if item.failure or (item.inputs and item.output)]
    return asked, len(items) - len(asked)


def judge_items(
    run: RunFolder,
    items: Sequence[ItemResult],
    protocol: Protocol,
    judge: Kept,
    systems: Sequence[str] = (MODEL, COPY),
    workers: int = 4,
    progress: Callable[[], object] = lambda: None,
) -> Judgement:
    """Asks about every item, the model's outputs first. Whatever fails is a Verdict with the reason.

    progress: called after every item. Raises ValueError for what stops the whole run: a wrong key, model or address.
    """
    todo = [(item, system) for system in systems for item in items]
    judgement = Judgement()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        jobs = [pool.submit(_judge_item, run, item, system, protocol, judge) for item, system in todo]
        try:
            for (item, system), job in zip(todo, jobs, strict=True):
                verdicts = job.result()
                judgement.verdicts += verdicts
                scores = dict.fromkeys(protocol.scores, None)
                if all(verdict.question for verdict in verdicts):
                    scores = protocol.combine({verdict.question: verdict.ratings for verdict in verdicts})
                judgement.scores[item.id, system] = scores
                progress()
        except BaseException:
            judge.judge.budget.stop()  # else an interrupted run would wait for all retries of what is being asked
            pool.shutdown(cancel_futures=True)
            raise
    return judgement


def _judge_item(run: RunFolder, item: ItemResult, system: str, protocol: Protocol, judge: Kept) -> list[Verdict]:
    """One verdict per question; a single one with an empty question if there is nothing to ask."""
    try:
        check_texts(item.instruction)
        shown = _shown(run, item, system, protocol.frames)
        questions = protocol.questions(item)
        pictures = _encoded(shown, protocol)
    except JudgeError as error:
        return [Verdict(item.id, system, "", kind=error.kind, failure=str(error))]
    except ValueError as error:
        return [Verdict(item.id, system, "", kind="no criteria", failure=str(error))]
    return [_ask(judge, item, system, question, pictures) for question in questions]


def _shown(run: RunFolder, item: ItemResult, system: str, most: int) -> dict[str, list[Path]]:
    """The pictures before and after the edit, of videos as many frames of both, at most `most`. A later turn starts
    from what came out of the turn before. Raises JudgeError if there are none."""
    if not item.inputs or (item.output is None and system != COPY):
        missing = "output" if item.inputs else "input"
        raise JudgeError("no output", f"the item has no {missing}" + (f" ({item.failure})" * bool(item.failure)))
    assets = "reference image" in item.conditions  # they come after the frames
    sources = [item.before] if item.before else item.inputs[: item.frames] if assets else item.inputs
    outputs = [item.output or "", *(f"images/{run.image(item.id, k).name}" for k in range(1, item.frames))]
    count = min(most, len(sources), len(outputs))
    before = [run.path / path for path in _spread(sources, count)]
    after = [run.path / path for path in _spread(outputs, count)]
    return {"source": before, "output": before if system == COPY else after}


def _spread(paths: Sequence[str], count: int) -> list[str]:
    """`count` of them, evenly spread from the first to the last."""
    return [paths[round(i * (len(paths) - 1) / max(count - 1, 1))] for i in range(count)]


def _ask(judge: Kept, item: ItemResult, system: str, question: Question, pictures: dict[str, list[bytes]]) -> Verdict:
    verdict = Verdict(item.id, system, question.name)
    text = question.text(item.instruction)
    for attempt in range(ATTEMPTS):
        try:
            reply = judge.ask(text + _AGAIN * attempt, [file for name in question.pictures for file in pictures[name]])
            verdict.model, verdict.own_temperature = reply.model, reply.own_temperature
            verdict.ratings, verdict.kind, verdict.failure = read_ratings(reply, question), None, None
            break
        except JudgeError as error:
            verdict.kind, verdict.failure = error.kind, str(error)
            if error.kind not in ("unreadable", "cut off"):
                break
    return verdict


def _encoded(paths: dict[str, list[Path]], protocol: Protocol) -> dict[str, list[bytes]]:
    """The pictures as the protocol sends them. Raises JudgeError if one cannot be read."""
    try:  # as metrics see them, which matters for those with transparency or 16 bits
        images = {name: [Image.fromarray(load_image(path)) for path in given] for name, given in paths.items()}
    except ValueError as error:
        raise JudgeError("no output", f"a picture cannot be read ({error})") from error
    if protocol.same_size:
        size = images["source"][0].size
        images["output"] = [image.resize(size, Image.Resampling.BICUBIC) for image in images["output"]]
    return {name: [_file(image, protocol.pictures) for image in given] for name, given in images.items()}


def _file(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def write_judgement(run: RunFolder, judgement: Judgement, protocol: Protocol, backbone: str) -> list[SummaryRow]:
    """Puts scores into items.jsonl and rows into summary.json, in place of this protocol's earlier ones, and writes
    DIR/judge-NAME.json. Returns the rows."""
    items = run.items()
    judged = [item for item in items if (item.id, MODEL) in judgement.scores]
    metrics = [protocol.metric(name) for name in protocol.scores]
    for scores in (scores for item in items for scores in (item.scores, *item.baselines.values())):
        for metric in metrics:
            scores.pop(metric, None)  # another judge's, perhaps of a system or an item that is not judged now
    for item in judged:
        for name in protocol.scores:
            item.scores[protocol.metric(name)] = judgement.scores[item.id, MODEL].get(name)
            if (item.id, COPY) in judgement.scores:
                copied = item.baselines.setdefault(COPY, {})
                copied[protocol.metric(name)] = judgement.scores[item.id, COPY].get(name)
    benchmark = str(run.settings().get("benchmark", run.path.name))
    rows = summarise(judged, judgement.scores, protocol, benchmark, backbone)
    old = run.summary() if (run.path / "summary.json").exists() else []
    kept = [row for row in old if not row.metric.startswith(f"{protocol.name} ")]
    write_json(
        run.path / f"judge-{protocol.name}.json",
        {
            "protocol": protocol.name,
            "judge": backbone,
            "answered_by": judgement.models,
            "failures": dict(Counter(str(verdict.kind) for verdict in judgement.failures)),
            "verdicts": [asdict(verdict) for verdict in judgement.verdicts],
        },
    )
    run.write_items(items)
    run.write_summary([*kept, *rows])
    return rows
