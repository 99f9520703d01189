"""Models that answer a text with pictures: one loaded through transformers, or any OpenAI-compatible endpoint."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from data_builders.annotators.protocols import Refused
from data_builders.annotators.weights import load_model, load_processor
from data_builders.errors import one_line

DEFAULT = "Qwen/Qwen2.5-VL-7B-Instruct"
TEMPERATURE, TOP_P = 0.7, 0.9  # Ditto's, for captions and instructions
# Settings that models or servers reject, and by what they replace them; None: by nothing, they have their own.
_INSTEAD = {"max_tokens": "max_completion_tokens", "temperature": None, "top_p": None, "top_k": None}
_JPEG_QUALITY = 95
_PATIENCE = 10.0  # seconds, with a server that is only to show that it is there
_BOUNDS = ("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum")


class Unusable(ValueError):  # noqa: N818 - it is an answer, not a mistake
    """An answer of which nothing can be made, so that it is asked for again; the message says what is wrong with it."""


class Chat(Protocol):
    """name: of the model."""

    name: str

    def reply(self, text: str, images: Sequence[np.ndarray], schema: dict[str, Any] | None, seed: int) -> str:
        """The model's answer, the same for the same arguments as far as the model allows.

        schema: JSON schema of the answer; a model may use it to decode, and need not obey it. None for prose.
        Raises Unusable for an answer that ends in the middle, Refused if the model declines, ConnectionError if it
        cannot be reached or rejects the request, both of which whoever runs the server can mend.
        """


class LocalChat:
    """An image-text-to-text model of transformers, such as Qwen2.5-VL. It does not see the schema but in the text."""

    def __init__(self, model: Any, processor: Any, name: str, max_new_tokens: int = 512, max_side: int = 768):
        self.model, self.processor, self.name = model, processor, name
        self.max_new_tokens, self.max_side = max_new_tokens, max_side

    @classmethod
    def from_pretrained(
        cls, source: str = DEFAULT, device: str = "cpu", dtype: str = "auto", **options: int
    ) -> LocalChat:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        model = load_model(AutoModelForImageTextToText, source, device, dtype)
        return cls(model, load_processor(AutoProcessor, source), source, **options)

    def reply(self, text: str, images: Sequence[np.ndarray], schema: dict[str, Any] | None, seed: int) -> str:
        import torch

        pictures = [{"type": "image", "image": _shrink(image, self.max_side)} for image in images]
        message = {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}
        inputs = self.processor.apply_chat_template(
            [message], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device, self.model.dtype)
        device = self.model.device
        with torch.inference_mode(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            # Without top_k, Qwen2.5-VL's own setting takes the likeliest word always, whatever the seed.
            sampling = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}
            tokens = self.model.generate(**inputs, **sampling, max_new_tokens=self.max_new_tokens)
        answer = tokens[0, inputs["input_ids"].shape[1] :]
        if len(answer) == self.max_new_tokens and answer[-1].item() not in self._ends():
            raise Unusable(_cut_off(self.max_new_tokens))
        return self.processor.decode(answer, skip_special_tokens=True)

    def _ends(self) -> list[int]:
        """The tokens that end an answer."""
        told = self.model.generation_config.eos_token_id
        return [] if told is None else [told] if isinstance(told, int) else list(told)


class EndpointChat:
    """A server that speaks OpenAI's chat completions, by the openai package.

    url: base URL, "http://localhost:8000/v1"; the key is read from OPENAI_API_KEY, for servers that ask for one.
    timeout: seconds for one request; retries: after a timeout, a dropped connection, status 408, 409, 429 or 5xx, with
    growing pauses or as the server's Retry-After says.
    structured: ask the server to decode by the schema (response_format); not every server can.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        structured: bool = True,
        timeout: float = 120.0,
        retries: int = 5,
        max_tokens: int = 1024,
        max_side: int = 768,
    ):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"an endpoint is a URL that starts with http:// or https://, got {url!r}")
        self.url, self.name, self.structured = url, model, structured
        self.timeout, self.retries, self.max_tokens = timeout, retries, max_tokens
        # top_k: no part of the protocol, but servers such as vLLM take what is not told from the model's folder, and
        # that of Qwen2.5-VL has the likeliest word taken always.
        self.settings = {"max_tokens": max_tokens, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": -1}
        self.max_side = max_side
        self._client: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None}  # connections stay in their process

    @property
    def client(self) -> Any:
        import openai

        if self._client is None:
            key = os.environ.get("OPENAI_API_KEY", "none")
            self._client = openai.OpenAI(base_url=self.url, api_key=key, timeout=self.timeout, max_retries=self.retries)
        return self._client

    def check(self) -> None:
        """Raises ValueError if nothing answers at the URL, or the key is not accepted."""
        import openai

        try:
            self.client.with_options(timeout=_PATIENCE, max_retries=0).models.list()
        except openai.APIConnectionError as error:
            raise ValueError(f"nothing answers at {self.url} ({one_line(error)}); start the server first") from error
        except openai.AuthenticationError as error:
            raise ValueError(f"{self.url} does not accept the key ({one_line(error)}); set OPENAI_API_KEY") from error
        except openai.OpenAIError:
            pass  # it is there; it need not tell its models

    def reply(self, text: str, images: Sequence[np.ndarray], schema: dict[str, Any] | None, seed: int) -> str:
        import openai

        try:
            answer = self._complete(self._request(text, images, schema, seed))
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
            raise ConnectionError(
                f"{self.url} did not answer after {self.retries} retries ({one_line(error)}); start it, or run again"
            ) from error
        except openai.APIStatusError as error:
            raise ConnectionError(
                f"{self.url} rejects the request ({one_line(error)}); check the model's name, OPENAI_API_KEY, and "
                "whether the server knows json_schema (endpoint-text: does without)"
            ) from error
        except (openai.APIError, ValueError) as error:
            raise Refused(
                f"{self.name} at {self.url} sent something that is no chat completion ({one_line(error)})"
            ) from error
        return self._content(answer)

    def _complete(self, request: dict[str, Any]) -> Any:
        import openai

        while True:
            try:
                return self.client.chat.completions.create(**request, extra_body=self.settings)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                rejected = next((name for name in self.settings if _rejects(str(error), name)), None)
                if rejected is None:
                    raise
            value, other = self.settings.pop(rejected), _INSTEAD[rejected]
            if other is not None:
                self.settings[other] = value

    def _request(
        self, text: str, images: Sequence[np.ndarray], schema: dict[str, Any] | None, seed: int
    ) -> dict[str, Any]:
        pictures = [
            {"type": "image_url", "image_url": {"url": _data_url(_shrink(image, self.max_side))}} for image in images
        ]
        content = [*pictures, {"type": "text", "text": text}]
        request = {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "seed": seed,
        }
        if schema and self.structured:
            named = {"name": "answer", "schema": _decodable(schema), "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        return request

    def _content(self, answer: Any) -> str:
        """The text of a completion. Raises Refused if it has none, and why."""
        choices = getattr(answer, "choices", None)
        message = choices[0].message if choices else None
        if message is None:
            raise Refused(f"{self.name} at {self.url} sent a completion without a message")
        if getattr(message, "refusal", None):
            raise Refused(f"{self.name} declined: {message.refusal[:120]}")
        if choices and choices[0].finish_reason == "content_filter":
            raise Refused(f"{self.name} declined: its content filter")
        if choices and choices[0].finish_reason == "length":
            raise Unusable(_cut_off(self.max_tokens))
        return message.content or ""


def _rejects(complaint: str, setting: str) -> bool:
    """Whether a server does not know a setting at all, whatever its value."""
    if (other := _INSTEAD.get(setting)) is not None:
        return other in complaint
    if setting == "top_k":  # no part of the protocol: a server that speaks of it does not know it, or not as it is
        return setting in complaint
    return setting in _INSTEAD and setting in complaint and bool(re.search("support|allow|deprecat|both", complaint))


def _cut_off(tokens: int) -> str:
    return f"it was longer than {tokens} tokens, thoughts included, and cut off"


def _decodable(schema: Any) -> Any:
    """The schema without bounds, which servers that decode by it may not know; the answer is checked against all."""
    if isinstance(schema, dict):
        return {key: _decodable(value) for key, value in schema.items() if key not in _BOUNDS}
    return [_decodable(value) for value in schema] if isinstance(schema, list) else schema


def _shrink(image: np.ndarray, max_side: int) -> Image.Image:
    picture = Image.fromarray(image)
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return picture


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
