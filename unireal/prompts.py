"""Words that the model reads: the referring tokens and the context prompt (UniReal, section 3.1).

The context prompt is plain text from a small shared vocabulary, put before the instruction. Its keywords are shared
across tasks, unlike a task embedding, so that what is learned on one task's data carries over to another.
"""

from __future__ import annotations

import re

from unireal.names import lookup
from unireal.tasks import TaskSpec

CONTEXT_KEYWORDS = (
    "realistic style",
    "synthetic style",
    "static scenario",
    "dynamic scenario",
    "with reference object",
    "novel scenario",
    "perception task",
)
_SEPARATOR = "; "
_REFERRING = re.compile(r"\b(IMG|RES)(\d+)\b")


def referring_words(num_inputs: int, num_results: int) -> list[str]:
    """The special tokens IMG1..IMGk, RES1..RESr, in the order of the model's index embedding."""
    return [f"IMG{i + 1}" for i in range(num_inputs)] + [f"RES{i + 1}" for i in range(num_results)]


def parse_context(context: str) -> tuple[str, ...]:
    """Keywords of a context prompt, split at commas or semicolons, in lower case.

    Raises ValueError for a keyword outside CONTEXT_KEYWORDS: the model has never seen it.
    """
    words = tuple(w.strip().lower() for w in re.split(r"[,;]", context) if w.strip())
    for word in words:
        lookup(dict.fromkeys(CONTEXT_KEYWORDS), word, "context keyword")
    return words


def join(context: str, instruction: str) -> str:
    """The model's text: "<context keywords>; <instruction>", or the instruction alone without a context."""
    return _SEPARATOR.join(part for part in (", ".join(parse_context(context)), instruction.strip()) if part)


def instruction_for(spec: TaskSpec, prompt: str, kind: str | None = None) -> str:
    """The instruction that a task makes of what the user typed.

    A bare phrase is put into the task's template ("the red star" -> "Segment the red star."); a prompt that already
    starts like the template is left as it is. The task's own prompt is not said twice where the user typed it. Raises
    ValueError if the task needs a prompt and got none.
    """
    prompt, usual = prompt.strip(), spec.default_prompt
    if not prompt and usual is None:
        raise ValueError(f"task {spec.name!r} needs a prompt, for example: --prompt {spec.example!r}")
    if usual is not None and (not prompt or prompt.strip(" .").lower() == usual.strip(" .").lower()):
        return usual
    head = re.split(r"[{]", spec.template)[0].strip().lower()
    if head and prompt.lower().startswith(head):
        return prompt
    return spec.template.format(prompt=prompt.rstrip(".") if spec.template != "{prompt}" else prompt, kind=kind or "")


def check_referring(instruction: str, num_inputs: int, num_results: int) -> None:
    """Raises ValueError if the instruction names an image that is not there."""
    for word, number in _REFERRING.findall(instruction):
        have, what = (num_inputs, "input image") if word == "IMG" else (num_results, "result")
        if not 1 <= int(number) <= have:
            there = f"there is 1 {what}" if have == 1 else f"there are {have or 'no'} {what}s"
            known = f"{word}1" if have == 1 else f"{word}1..{word}{have}"
            remedy = f"give more {what}s, or name {known}" if have else "add them or drop the word"
            raise ValueError(f"the prompt names {word}{number}, but {there}; {remedy}")
