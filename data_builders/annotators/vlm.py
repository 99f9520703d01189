"""A vision-language model as captioner, instructor and judge: the questions, and what a usable answer is.

Answers that are not prose are JSON, checked against a schema. An answer that does not fit is asked for again, with what
was wrong with it and another seed; after the last attempt, or when the model declines, the question counts as refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_builders.annotators.chat import Chat, Unusable
from data_builders.annotators.protocols import CRITERIA, Frames, Instruction, Refused, VideoInstruction, sequence

_TEXT = {"type": "string", "minLength": 3, "maxLength": 600}
_PHRASES = {"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 80}, "maxItems": 8}
_SCORE = {"type": "integer", "minimum": 1, "maximum": 10}


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


_OBJECTS = _object(objects=_PHRASES)
_INSTRUCTION = _object(instruction=_TEXT, reverse=_TEXT, objects=_PHRASES)
_VIDEO = _object(
    scope={"type": "string", "enum": ["global", "local"]}, key_frame_instruction=_TEXT, video_instruction=_TEXT
)
_SCORES = _object(**dict.fromkeys(CRITERIA, _SCORE))

_CAPTION = (
    "These are {count} frames of one video, in order. Describe in one or two plain sentences what is seen and how it "
    "changes from the first frame to the last. Answer with the description alone."
)
_CAPTION_ONE = "Describe this picture in one or two plain sentences. Answer with the description alone."
_FIND_OBJECTS = (
    "The caption of this picture is: {caption}\nName the separate, clearly visible objects, at most 8, each by a short "
    'phrase that fits nothing else in the picture, such as "the red car".'
)
_INSTRUCT = (
    "The first picture is before and the second after, both from a video with this caption: {caption}\n"
    "Write the precise instruction to an image editor that turns the first picture into the second, the reverse "
    "instruction that turns the second into the first, and short phrases of the objects that change. If nothing that "
    'can be seen changes, both instructions are "nothing".'
)
_VIDEO_INSTRUCT = (
    "These are {count} frames of a video with this caption: {caption}\n"
    "Invent one edit that suits it: global (style or environment) or local (replace, add or remove one object). Write "
    "it as an instruction for the first frame alone, and as an instruction for the whole video."
)
_JUDGE = (
    "The first {before} pictures are the source, the last {after} are the same after this edit: {instruction}\n"
    "Give whole scores from 1 (worst) to 10 (best): instruction_fidelity, the edit is done as asked; source_fidelity, "
    "all else is kept; visual_quality, no artefacts or flicker; safety, nothing sexual, violent or hateful."
)
_AS_JSON = "\nAnswer with one JSON object of this schema and nothing else: {schema}"
_AGAIN = "\nYour last answer could not be used: {problem}"
# How models begin that decline in words, which would become the caption of the record
_DECLINES = re.compile(
    r"(I[’']?m|I am) (sorry|unable|not able)|sorry\b|I (can[’']?t|can ?not)\b|as an AI\b|unfortunately, I\b",
    re.IGNORECASE,
)
# How an instruction begins that asks for nothing, and would teach that some words are to be left undone
_NOTHING = re.compile(
    r"(nothing|none)\b|(there (is|are) |make )?no (\w+ )?(changes?|differences?|edits?)\b"
    r"|keep \w+ \w+ (the same|unchanged)",
    re.IGNORECASE,
)
_THOUGHTS_END = "</think>"  # of models that think aloud; some chat templates open the thoughts in the question


class VisionLanguageAnnotator:
    """Captioner, Instructor and Judge of the protocols.

    num_frames: how many frames of a video the model is shown, evenly spaced.
    attempts: how often a question is asked until the answer fits; seed: another seed, other answers.
    counts: questions "asked", answers asked for again ("retried"), and questions "refused" in the end.
    """

    def __init__(self, chat: Chat, num_frames: int = 8, attempts: int = 3, seed: int = 0):
        if min(num_frames, attempts) < 1:
            raise ValueError(f"num_frames and attempts are at least 1, got {num_frames} and {attempts}")
        self.chat, self.name = chat, chat.name
        self.num_frames, self.attempts, self.seed = num_frames, attempts, seed
        self.counts: Counter[str] = Counter()

    def caption(self, frames: Frames) -> str:
        images = self._chosen(frames)
        question = _CAPTION.format(count=len(images)) if len(images) > 1 else _CAPTION_ONE
        return self._ask(question, images, None)

    def objects(self, frames: Frames, caption: str) -> tuple[str, ...]:
        images = sequence(frames)[:1]
        return _phrases(self._ask(_FIND_OBJECTS.format(caption=caption), images, _OBJECTS)["objects"])

    def instruct(self, before: np.ndarray, after: np.ndarray, caption: str) -> Instruction:
        answer = self._ask(_INSTRUCT.format(caption=caption), [before, after], _INSTRUCTION)
        if any(_NOTHING.match(answer[way].strip()) for way in ("instruction", "reverse")):
            raise Refused(f"{self.name} sees no change between the two frames")
        return Instruction(answer["instruction"].strip(), answer["reverse"].strip(), _phrases(answer["objects"]))

    def video_instruction(self, frames: Frames, caption: str, seed: int = 0) -> VideoInstruction:
        images = self._chosen(frames)
        answer = self._ask(_VIDEO_INSTRUCT.format(count=len(images), caption=caption), images, _VIDEO, seed)
        return VideoInstruction(**answer)

    def judge(self, before: Frames, after: Frames, instruction: str) -> dict[str, float]:
        """The model's 1..10 as 0..1."""
        source, edited = self._chosen(before), self._chosen(after)
        question = _JUDGE.format(before=len(source), after=len(edited), instruction=instruction)
        answer = self._ask(question, [*source, *edited], _SCORES)
        return {name: (answer[name] - 1) / 9 for name in CRITERIA}

    def _chosen(self, frames: Frames) -> list[np.ndarray]:
        images = sequence(frames)
        count = min(len(images), self.num_frames)
        return [images[round(i)] for i in np.linspace(0, len(images) - 1, count)]

    def _ask(self, question: str, images: Sequence[np.ndarray], schema: dict[str, Any] | None, seed: int = 0) -> Any:
        """The checked answer: a string without a schema, else what the JSON holds. Raises Refused.

        seed: another one, another answer to the same question.
        """
        self.counts["asked"] += 1
        text = question if schema is None else question + _AS_JSON.format(schema=json.dumps(schema))
        note = ""
        try:
            for attempt in range(self.attempts):
                self.counts["retried"] += attempt > 0
                try:
                    answer = self.chat.reply(text + note, images, schema, self._seed_for(text, images, attempt, seed))
                    answer = answer.rpartition(_THOUGHTS_END)[2]
                    return _prose(answer) if schema is None else _parse(answer, schema)
                except Unusable as error:
                    note = _AGAIN.format(problem=error)
            raise Refused(f"{self.name} gave no usable answer in {self.attempts} attempts;{note.split(':', 1)[1]}")
        except Refused:
            self.counts["refused"] += 1
            raise

    def _seed_for(self, text: str, images: Sequence[np.ndarray], attempt: int, seed: int) -> int:
        """From the question itself, so that a build that is run again asks the same, in whatever order."""
        digest = hashlib.blake2b(f"{self.seed + seed} {attempt} {text}".encode(), digest_size=4)
        for image in images:
            digest.update(np.ascontiguousarray(image).data)
        return int.from_bytes(digest.digest()) >> 1


def _prose(answer: str) -> str:
    words = " ".join(answer.split()).strip('" ')
    if not words:
        raise Unusable("it was empty")
    if _DECLINES.match(words):
        raise Unusable(f"it declines, {words[:80]!r}")
    return words


def _parse(answer: str, schema: dict[str, Any]) -> Any:
    """The JSON of an answer, also from a Markdown fence. Raises Unusable that says what does not fit."""
    import jsonschema

    fenced = re.search(r"```(?:json)?\s*(.*?)```", answer, re.DOTALL)
    try:
        found = json.loads(fenced[1] if fenced else answer)
    except ValueError as error:
        raise Unusable(f"it is not JSON ({error})") from error
    try:
        jsonschema.validate(found, schema)
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "the answer"
        raise Unusable(f"{where}: {error.message[:200]}") from error
    return found


def _phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    """Without repetitions, in order."""
    return tuple(dict.fromkeys(phrase.strip() for phrase in phrases if phrase.strip()))
