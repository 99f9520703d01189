"""What a protocol is: which questions it asks about an edit, and what score it makes of the answers.

The criteria, scales and formulas are those of the benchmarks; the words are ours, and replies are JSON. Scores of one
judge and one wording can be compared with each other, not with published ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from unireal.evaluation.results import ItemResult

Ratings = Mapping[str, float]  # criterion -> number


@dataclass(frozen=True)
class Criterion:
    """name: the key in the reply. meaning: what is rated, in words."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Question:
    """One call of the judge about one edit.

    name:     unique in the protocol. pictures: what the judge sees, in this order; of videos all frames of the one,
              then all of the other.
    task:     what the pictures are and what to look at.
    criteria: what is rated, each on the scale, both ends included.
    rules:    further sentences about how to rate. told: whether the judge reads the instruction.
    """

    name: str
    pictures: tuple[Literal["source", "output"], ...]
    task: str
    criteria: tuple[Criterion, ...]
    scale: tuple[int, int]
    rules: str = ""
    told: bool = True

    def text(self, instruction: str) -> str:
        """The prompt. The instruction is quoted, so that it cannot pass for a part of the question."""
        low, high = self.scale
        lines = [self.task]
        if self.told:
            lines.append(f"The instruction of the edit, quoted: {json.dumps(instruction, ensure_ascii=False)}")
        lines.append(f"Rate each of the following with a number from {low} (worst) to {high} (best).")
        lines += [f"- {criterion.name}: {criterion.meaning}" for criterion in self.criteria]
        if self.rules:
            lines.append(self.rules)
        shape = ", ".join(f'"{criterion.name}": <number>' for criterion in self.criteria)
        lines.append(f"Give a short reason first, then one JSON object with exactly these keys: {{{shape}}}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Protocol:
    """One benchmark's way of judging.

    questions:  about one item. Raises ValueError for an item that the protocol has no criteria for.
    combine:    ratings by question, None where there is no readable answer -> scores, None where undefined.
    scores:     what `combine` gives, the main score first. scale: of these scores.
    pictures:   format in which pictures are sent. same_size: the output is resized to the source's size first.
    deviation:  the standard deviation of the scores is reported too.
    frames:     how many frames of a video are sent, evenly spread from its first to its last; 1 is the first alone.
    """

    name: str
    questions: Callable[[ItemResult], tuple[Question, ...]]
    combine: Callable[[Mapping[str, Ratings | None]], dict[str, float | None]]
    scores: tuple[str, ...]
    scale: tuple[int, int]
    pictures: Literal["PNG", "JPEG"] = "PNG"
    same_size: bool = False
    deviation: bool = False
    frames: int = 1

    def metric(self, score: str) -> str:
        """What a score is called in items.jsonl and summary.json."""
        return f"{self.name} {score}"
