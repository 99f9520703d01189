"""The protocols of GEdit and EditEval, and the table of all."""

from __future__ import annotations

import math
from collections.abc import Mapping

from unireal.evaluation.judge.ditto import DITTO
from unireal.evaluation.judge.imgedit import IMGEDIT, IMGEDIT_UGE
from unireal.evaluation.judge.protocol import Criterion, Protocol, Question, Ratings

_CONSISTENCY = Question(
    "SC",
    ("source", "output"),
    "You judge how well a picture was edited. The first picture is the original, the second one the edited version.",
    (
        Criterion(
            "editing success",
            "does the edited picture show what the instruction asks for; 0: nothing of it can be seen, 10: all of it.",
        ),
        Criterion(
            "minimal change",
            "is everything that the instruction does not mention as it was; 0: another picture altogether, "
            "10: the least edit that does what was asked for.",
        ),
    ),
    (0, 10),
    "An edit that does nothing keeps everything, but has no editing success.",
)
_QUALITY = Question(
    "PQ",
    ("output",),
    "You judge the quality of one generated picture, whatever it was meant to show.",
    (
        Criterion(
            "naturalness",
            "do scene, light, shadow, distances and proportions look natural; 0: not at all, 10: completely.",
        ),
        Criterion(
            "absence of artifacts",
            "is the picture free of distortions, smears, seams, watermarks, malformed faces, hands or bodies, and "
            "parts that do not fit together; 0: full of them, 10: free of them.",
        ),
    ),
    (0, 10),
    told=False,
)


def _viescore(ratings: Mapping[str, Ratings | None]) -> dict[str, float | None]:
    """Each part is the lowest of its ratings; overall is their geometric mean."""
    parts = {name: None if given is None else min(given.values()) for name, given in ratings.items()}
    consistency, quality = parts["SC"], parts["PQ"]
    overall = None if consistency is None or quality is None else math.sqrt(consistency * quality)
    return {"O": overall, **parts}


GEDIT = Protocol(
    name="gedit",
    questions=lambda item: (_CONSISTENCY, _QUALITY),
    combine=_viescore,
    scores=("O", "SC", "PQ"),
    scale=(0, 10),
    pictures="JPEG",
    same_size=True,
)

_WEIGHTS = {
    "editing accuracy": 0.4,
    "contextual preservation": 0.3,
    "visual quality": 0.2,
    "logical realism": 0.1,
}
_LMM = Question(
    "LMM",
    ("source", "output"),
    "You judge how well a picture was edited. The first picture is the original, the second one the edited version.",
    (
        Criterion("editing accuracy", "how closely the edit follows the instruction, in every detail that it names."),
        Criterion("contextual preservation", "how well the parts that should stay did stay as they were."),
        Criterion("visual quality", "sharpness, colours, and how smoothly edited and untouched parts join."),
        Criterion("logical realism", "whether light, perspective, sizes and physics of the edited scene make sense."),
    ),
    (1, 10),
)


def _lmm_score(ratings: Mapping[str, Ratings | None]) -> dict[str, float | None]:
    given = ratings[_LMM.name]
    total = None if given is None else sum(weight * given[name] for name, weight in _WEIGHTS.items())
    return {"LMM": total, **{name: None if given is None else given[name] for name in _WEIGHTS}}


# Published LMM scores compare all methods in one chat; this is the variant with one method at a time.
EDITEVAL = Protocol(
    name="editeval",
    questions=lambda item: (_LMM,),
    combine=_lmm_score,
    scores=("LMM", *_WEIGHTS),
    scale=(1, 10),
    deviation=True,
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol for protocol in (IMGEDIT, IMGEDIT_UGE, GEDIT, EDITEVAL, DITTO)
}
