"""A judge behind any OpenAI-compatible HTTP endpoint: OpenAI's own, vLLM, llama.cpp, ..."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unireal.evaluation.judge.replies import Budget, JudgeError, Reply
from unireal.notices import one_line

MAX_WAIT = 60.0  # seconds between two tries, whatever the server asks for
LIMIT, NEW_LIMIT, TEMPERATURE = "max_tokens", "max_completion_tokens", "temperature"
INSTEAD = {LIMIT: NEW_LIMIT, TEMPERATURE: None}  # by what new models replace a setting that they reject; None: nothing
_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class Endpoint:
    """A judge behind a URL that speaks OpenAI's chat protocol.

    model:    its name with a date or version, so that it stays the same.
    base_url: None for OpenAI's own (or OPENAI_BASE_URL). api_key: None for OPENAI_API_KEY; local servers need none.
    retries:  how often a request is repeated after a time-out, a dropped connection, a malformed answer, 429 or 5xx.
    backoff:  seconds before the first repetition, doubled each time and varied, unless the server names a time.
    timeout:  seconds for one request. max_reply: tokens.

    Raises ValueError without the openai package, without a key for OpenAI's endpoint, or for a URL that is none.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        budget: Budget | None = None,
        retries: int = 5,
        backoff: float = 1.0,
        timeout: float = 120.0,
        temperature: float | None = 0.0,
        max_reply: int = 1024,
    ):
        try:
            import openai
        except ImportError as error:
            raise ValueError("a judge behind a URL needs openai: pip install 'unireal[eval]'") from error
        if base_url is not None and not base_url.lower().startswith(("http://", "https://")):
            raise ValueError(f"the address {base_url!r} of the endpoint does not begin with http:// or https://")
        self._errors = openai
        self.model, self.budget = model, budget or Budget()
        self.retries, self.backoff = retries, backoff
        self.settings = {TEMPERATURE: temperature, LIMIT: max_reply}
        self._names: dict[str, str | None] = {}  # of INSTEAD, what this endpoint wants
        try:
            # The client's own repetitions are off: the budget would not count them.
            self._client = openai.OpenAI(
                api_key=api_key or (None if base_url is None else "none"),
                base_url=base_url,
                timeout=timeout,
                max_retries=0,
            )
        except (openai.OpenAIError, ValueError, TypeError) as error:
            raise ValueError(f"no client for {base_url or 'the OpenAI endpoint'}: {_line(error)}") from error

    def ask(self, text: str, pictures: Sequence[bytes]) -> Reply:
        """Raises JudgeError if there is no answer after all retries, if the server rejects or refuses the request, or
        if the budget is spent; ValueError for a wrong key, address or model name, and a spent quota."""
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        content += [{"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in pictures]
        messages: Any = [{"role": "user", "content": content}]
        attempt = 0
        while True:
            self.budget.call()
            given = self._given()
            try:
                answer = self._client.chat.completions.create(model=self.model, messages=messages, **given)
                own = self.settings[TEMPERATURE] is not None and TEMPERATURE not in given
                return replace(self._reply(answer), own_temperature=own)
            except (self._errors.APIError, json.JSONDecodeError, _MalformedError) as error:
                rejected = _rejected(error)
                if rejected in given:
                    self._names[rejected] = INSTEAD[rejected]  # for the rest of the run
                    continue
                self._check_hope(error)
                if attempt == self.retries:
                    tries = f"{attempt + 1} {'try' if attempt == 0 else 'tries'}"
                    raise JudgeError("unreachable", f"no answer after {tries}: {_line(error)}") from error
                self.budget.wait(self._wait(error, attempt))
                attempt += 1

    def _given(self) -> dict[str, Any]:
        """The settings by the names that the endpoint has for them."""
        names = {name: self._names.get(name, name) for name, value in self.settings.items() if value is not None}
        return {known: self.settings[name] for name, known in names.items() if known is not None}

    def _reply(self, answer: Any) -> Reply:
        choices = getattr(answer, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise _MalformedError(f"the answer has no choices: {str(answer)[:80]}")
        tokens = getattr(getattr(answer, "usage", None), "total_tokens", None) or 0
        self.budget.spend(tokens)
        message, reason = choices[0].message, choices[0].finish_reason
        refusal = getattr(message, "refusal", None)
        stopped = {"length": "length", "content_filter": "refused"}.get(reason, "end")
        text = message.content if isinstance(message.content, str) else ""
        return Reply(refusal or text, answer.model or self.model, tokens, "refused" if refusal else stopped)

    def _check_hope(self, error: Exception) -> None:
        """Raises unless it may help to ask again."""
        errors = self._errors
        lost = (errors.AuthenticationError, errors.PermissionDeniedError, errors.NotFoundError)
        code = str(getattr(error, "code", None))
        if isinstance(error, lost) or code == "insufficient_quota":
            raise ValueError(f"the endpoint does not serve {self.model!r} ({_line(error)}); check key, URL and name")
        if code in ("content_filter", "content_policy_violation"):
            raise JudgeError("refused", f"the endpoint refused: {_line(error)}") from error
        status = getattr(error, "status_code", None)
        if status is not None and status < 500 and status not in (408, 409, 429):
            raise JudgeError("rejected", f"the endpoint rejected the request: {_line(error)}") from error

    def _wait(self, error: Exception, attempt: int) -> float:
        """Seconds: what the server asks for, else twice as long each time, of which half is chance."""
        headers = getattr(getattr(error, "response", None), "headers", {})
        try:
            return min(max(float(headers.get("retry-after", "")), 0.0), MAX_WAIT)
        except ValueError:
            return min(self.backoff * 2**attempt, MAX_WAIT) * random.uniform(0.5, 1.0)


class _MalformedError(Exception):
    """An answer of status 200 that is none."""


def _rejected(error: Exception) -> str | None:
    """Which setting of INSTEAD the server does not take: LIMIT for its name, not for its value, or any temperature."""
    if getattr(error, "status_code", None) != 400:
        return None
    unsupported = (getattr(error, "param", None), getattr(error, "code", None)) == (LIMIT, "unsupported_parameter")
    if unsupported or NEW_LIMIT in str(error):
        return LIMIT
    return TEMPERATURE if TEMPERATURE in str(error) and re.search("support|allow|deprecat", str(error)) else None


def _data_url(picture: bytes) -> str:
    kind = next((name for start, name in _TYPES.items() if picture.startswith(start)), None)
    if kind is None:
        raise ValueError("pictures are sent as PNG or JPEG files; encode them first")
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def _line(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 200)
