"""ImgEdit-Bench's protocols. Basic suite: three criteria that depend on the kind of edit, from 1 to 5; a score is their
mean. Understanding-grounding-editing (UGE): one number from 1 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping

from unireal.evaluation.judge.protocol import Criterion, Protocol, Question, Ratings
from unireal.evaluation.results import ItemResult

_TASK = "You judge how well a picture was edited. The first picture is the original, the second one the edited version."
_RULES = (
    "The second and the third number must not be higher than the first: what looks good but is not what was asked for "
    "is no good edit."
)
_COMPLIANCE = "prompt compliance"

# Category -> its criteria; the first one says whether what was asked for was done.
_CRITERIA: dict[str, dict[str, str]] = {
    "add": {
        _COMPLIANCE: "is the new object there, with the attributes, number and place that were asked for.",
        "visual naturalness": "does it blend in: edges, style, resolution, and nothing else disturbed.",
        "physical coherence": "do its size, perspective, light, shadow and contact with other things make sense.",
    },
    "remove": {
        _COMPLIANCE: "is exactly the named object gone, entirely, and nothing else.",
        "visual naturalness": "does the filled place look like its surroundings, without seams or smears.",
        "physical integrity": "did shadows and reflections go with it, and are textures and lines behind it continued.",
    },
    "replace": {
        _COMPLIANCE: "is the named object, and only that, replaced by what was asked for.",
        "visual naturalness": "does the new object blend in: edges, style and resolution.",
        "physical integrity": "do size, perspective, light and shadow fit, and are details intact.",
    },
    "adjust": {
        _COMPLIANCE: "does the named object have the new attribute (colour, material, size, shape ...), and only that.",
        "visual seamlessness": "is the change free of spill-over, seams and leftovers of the old look.",
        "detail fidelity": "are identity, texture, shading and shape kept where they should be.",
    },
    "background": {
        _COMPLIANCE: "is the background what was asked for, while the things in front are as they were.",
        "visual seamlessness": "are the outlines of the things in front clean, without halos or leftovers.",
        "physical consistency": "do light, perspective and scale of both parts fit together.",
    },
    "style": {
        "style fidelity": "is the whole picture in the style that was asked for: strokes, palette, texture.",
        "content preservation": "are layout, things and people still recognisable as in the original.",
        "rendering quality": "is the picture clean: no artifacts, even treatment, no broken details.",
    },
    "action": {
        "action fidelity": "does the subject do what was asked for: pose, movement or expression.",
        "identity preservation": "is it still the same subject: face, clothes, proportions.",
        "anatomical coherence": "are limbs, joints, contacts and the surroundings plausible.",
    },
    "extract": {
        "object identity": "is the named object, whole and as it was, what the result shows.",
        "mask precision": "are its outlines exact, and is the rest a plain background.",
        "visual quality": "is it sharp and free of artifacts.",
    },
    "compose": {
        _COMPLIANCE: "was every one of the several changes made, each on the right thing.",
        "visual naturalness": "do all changes blend in and fit each other.",
        "physical consistency": "do light, perspective, scale and fine details make sense together.",
    },
}
# For benchmarks with other categories. Movement and viewpoint are none of ImgEdit's kinds.
_CATEGORY_OF_TYPE = {
    "object addition": "add",
    "object removal": "remove",
    "object replacement": "replace",
    "background change": "background",
    "emotional expression change": "action",
    "color change": "adjust",
    "texture change": "adjust",
    "object size and shape change": "adjust",
    "overall style change": "style",
    "object action and pose change": "action",
}


def _questions(item: ItemResult) -> tuple[Question, ...]:
    category = item.category if item.category in _CRITERIA else _CATEGORY_OF_TYPE.get(item.edit_type or "")
    if category is None:
        what = f"category {item.category!r} and edit type {item.edit_type!r}"
        raise ValueError(f"imgedit has no criteria for {what}; it knows {', '.join(_CRITERIA)}")
    criteria = tuple(Criterion(name, meaning) for name, meaning in _CRITERIA[category].items())
    return (Question("rating", ("source", "output"), _TASK, criteria, (1, 5), _RULES),)


def _mean(ratings: Mapping[str, Ratings | None]) -> dict[str, float | None]:
    given = ratings["rating"]
    return {"score": None if given is None else sum(given.values()) / len(given)}


_WHOLE = Question(
    "rating",
    ("source", "output"),
    _TASK,
    (
        Criterion(
            "score",
            "how well was the edit made as a whole: was exactly what the instruction names found and changed, in the "
            "number, place and colours that it asks for; does it look natural, without seams, distortions or sudden "
            "changes of colour; is it no larger than necessary; is the rest as it was. 1: not what was asked for, or "
            "badly made; 2: far from it; 3: small deviations or visible traces; 4: nearly all of it, cleanly; "
            "5: all of it, and nothing looks edited.",
        ),
    ),
    (1, 5),
    "If anything was altered that the instruction does not ask for, the number must not be higher than 3.",
)

IMGEDIT = Protocol(name="imgedit", questions=_questions, combine=_mean, scores=("score",), scale=(1, 5))
IMGEDIT_UGE = Protocol(
    name="imgedit_uge", questions=lambda item: (_WHOLE,), combine=_mean, scores=("score",), scale=(1, 5)
)
