"""A judge in this process: a vision-language model of transformers, of the class of Qwen2.5-VL."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from unireal.arguments import usable_device
from unireal.evaluation.judge.replies import Budget, Reply
from unireal.model.folder import fingerprint


class LocalVLM:
    """A judge that runs on this machine.

    name:   folder or hub id of an image-text-to-text model with its processor, safetensors only.
    device: None for cuda if there is one. max_reply: tokens. Replies are the likeliest ones (greedy).

    Raises ValueError if there is no such model.
    """

    def __init__(self, name: str, budget: Budget | None = None, device: str | None = None, max_reply: int = 1024):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self._processor = AutoProcessor.from_pretrained(name)
            self._model = AutoModelForImageTextToText.from_pretrained(name, use_safetensors=True, dtype="auto")
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"local judge {name!r} cannot be loaded ({reason}); give a folder or hub id") from error
        self._model.to(device or usable_device("auto")).eval()
        commit = getattr(self._model.config, "_commit_hash", None)
        self.model = f"{name}@{commit}" if commit else str(name)
        self.budget = budget or Budget()
        self.settings: dict[str, Any] = {"local": True, "max_tokens": max_reply, "dtype": str(self._model.dtype)}
        if Path(name).is_dir():  # whose content may change
            self.settings["weights"] = fingerprint(Path(name), "*.safetensors", "*.json", "*.jinja")
        self._lock = Lock()

    def ask(self, text: str, pictures: Sequence[bytes]) -> Reply:
        """Raises JudgeError if the budget is spent."""
        self.budget.call()
        content: list[dict[str, Any]] = [
            {"type": "image", "image": Image.open(io.BytesIO(picture)).convert("RGB")} for picture in pictures
        ]
        content.append({"type": "text", "text": text})
        with self._lock:
            return self._generate([{"role": "user", "content": content}])

    def _generate(self, messages: list[dict[str, Any]]) -> Reply:
        import torch

        inputs = self._processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self._model.device)
        limit = self.settings["max_tokens"]
        with torch.no_grad():
            tokens = self._model.generate(**inputs, do_sample=False, max_new_tokens=limit)[0]
        written = tokens[inputs["input_ids"].shape[1] :]
        ends = self._model.generation_config.eos_token_id
        ended = bool(len(written)) and int(written[-1]) in (ends if isinstance(ends, list) else [ends])
        self.budget.spend(len(tokens))
        said = self._processor.decode(written, skip_special_tokens=True)
        return Reply(said, self.model, len(tokens), "end" if ended else "length")
