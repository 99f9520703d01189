"""Ditto's VLM score of edited videos: effect of the edit, what was to stay, and looks; a score is their mean.

The paper (arXiv 2510.15742) names these three and prints means up to 8.10. Its prompt and judge, how many frames that
saw and how one number comes of three are not published: the scale from 1 to 10, the frames and the mean are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from unireal.evaluation.judge.protocol import Criterion, Protocol, Question, Ratings
from unireal.evaluation.results import ItemResult
from unireal.tasks import TASKS

FRAMES = 8  # of each of both videos

_CRITERIA = (
    Criterion(
        "edit effectiveness",
        "is what the instruction asks for done, all of it, in every frame, and the same from frame to frame.",
    ),
    Criterion(
        "semantic preservation",
        "are the things, people, motion and layout that the instruction does not mention as they are in the original "
        "at the same time.",
    ),
    Criterion(
        "aesthetic quality",
        "does the edited video look good: sharp and natural, without artifacts, distortions or flicker.",
    ),
)
_VIDEO = Question(
    "VLM",
    ("source", "output"),
    "You judge how well a video was edited. The first half of the pictures are frames of the original video in their "
    "order, the second half are frames of the edited video at the same times.",
    _CRITERIA,
    (1, 10),
    "The instruction may be a description of what the edited video shows.",
)


def _questions(item: ItemResult) -> tuple[Question, ...]:
    task = TASKS.get(item.task)
    if task is None or not task.video or min(item.frames, len(item.inputs)) < 2:
        raise ValueError(
            f"ditto rates edited videos, not task {item.task!r} with {len(item.inputs)} pictures before and "
            f"{item.frames} after the edit; take another protocol"
        )
    return (_VIDEO,)


def _mean(ratings: Mapping[str, Ratings | None]) -> dict[str, float | None]:
    given = ratings[_VIDEO.name]
    names = [criterion.name for criterion in _CRITERIA]
    if given is None:
        return dict.fromkeys((_VIDEO.name, *names))
    return {_VIDEO.name: sum(given.values()) / len(given), **{name: given[name] for name in names}}


DITTO = Protocol(
    name="ditto",
    questions=_questions,
    combine=_mean,
    scores=(_VIDEO.name, *(criterion.name for criterion in _CRITERIA)),
    scale=(1, 10),
    pictures="JPEG",
    frames=FRAMES,
)
