"""Prompts to features: a T5 encoder whose tokenizer knows IMG1.. and RES1.. (UniReal, section 3.1).

A large T5 stays frozen and its features are cached per prompt; the tiny T5 is trained jointly and never cached.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from unireal.prompts import referring_words

_FIELDS = ("features", "mask", "referring")
# how much less a head attends to a word with every token of distance: (before it, after it)
_SLOPES = ((0.7, 0.7), (0.5, 3.0), (3.0, 0.5))  # both sides, mostly before, mostly after
_LOWEST = 20.0
_CACHE_SIZE = 512  # prompts; those of T5-XXL take 4 MB each
# (prompt, length that it is padded to) -> features
_CACHES: WeakKeyDictionary[T5EncoderModel, OrderedDict[tuple[str, int], TextFeatures]] = WeakKeyDictionary()


@dataclass(frozen=True)
class TextFeatures:
    """features: (B, L, D); mask: bool (B, L), False for padding; referring: int64 (B, L), 1 + index of the image that
    a token names (IMG1.., then RES1..), else 0."""

    features: torch.Tensor
    mask: torch.Tensor
    referring: torch.Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> TextFeatures:
        return TextFeatures(self.features.to(device, dtype), self.mask.to(device), self.referring.to(device))


def add_referring_tokens(tokenizer: PreTrainedTokenizerBase, model: T5EncoderModel, max_inputs: int, max_results: int):
    """Adds IMGk and RESk to a tokenizer as special tokens and grows the model's embedding by their rows."""
    words = referring_words(max_inputs, max_results)
    tokenizer.add_special_tokens({"additional_special_tokens": words}, replace_extra_special_tokens=False)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


@torch.no_grad()
def start_with_word_order(model: T5EncoderModel) -> None:
    """Lets most heads of a fresh T5 see neighbouring words best: their bias falls with the distance, as in ALiBi.

    T5's own start says nothing of the order of words, and a small one that is trained with images hardly finds it: it
    reads captions as sets of words (docs/training-log.md). The bias is learned further; every fourth head stays T5's.
    """
    attention = model.encoder.block[0].layer[0].SelfAttention  # the other blocks add the same bias
    reach, buckets = attention.relative_attention_max_distance, attention.relative_attention_num_buckets
    offsets = torch.arange(-reach, reach + 1)  # where a word lies that is looked at, in tokens
    bucket = attention._relative_position_bucket(offsets, num_buckets=buckets, max_distance=reach)
    count = torch.bincount(bucket, minlength=buckets).clamp(min=1)  # one bucket is never used
    bias = attention.relative_attention_bias.weight  # (bucket, head)
    for head in range(bias.shape[1]):
        if head % 4 < len(_SLOPES):
            before, after = _SLOPES[head % 4]
            fall = torch.where(offsets < 0, -before * offsets, after * offsets).clamp(max=_LOWEST)
            bias[:, head] = -torch.bincount(bucket, fall, buckets) / count


class TextEncoder:
    """Tokenizer and T5 as one function of prompts.

    max_length: tokens that a prompt is cut to; pad_to_max pads to it always, as CogVideoX was trained.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: T5EncoderModel,
        max_length: int,
        max_inputs: int,
        max_results: int,
        pad_to_max: bool = False,
    ):
        self.tokenizer, self.model, self.max_length, self.pad_to_max = tokenizer, model, max_length, pad_to_max
        ids = tokenizer.convert_tokens_to_ids(referring_words(max_inputs, max_results))
        if None in ids or tokenizer.unk_token_id in ids:
            raise ValueError(
                "the tokenizer lacks IMG and RES tokens; call unireal.model.text_encoder.add_referring_tokens"
            )
        self._referring = {token: i + 1 for i, token in enumerate(ids)}

    @property
    def frozen(self) -> bool:
        return not any(p.requires_grad for p in self.model.parameters())

    def tokenize(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and referring, int64 (B, L) each."""
        tokens = self.tokenizer(
            prompts,
            padding="max_length" if self.pad_to_max else "longest",
            max_length=self.max_length,
            truncation=True,
            return_tensors="pt",
        )
        ids = tokens["input_ids"]
        referring = torch.zeros_like(ids)
        for token, index in self._referring.items():
            referring[ids == token] = index
        return {"input_ids": ids, "attention_mask": tokens["attention_mask"], "referring": referring}

    def cut_off(self, prompt: str) -> tuple[int, str]:
        """How many tokens a prompt has, and the end of it for which max_length has no room: "" if it fits."""
        tokens = self.tokenizer(prompt, return_offsets_mapping=True, verbose=False)
        count, room = len(tokens["input_ids"]), self.max_length - self.tokenizer.num_special_tokens_to_add()
        return count, prompt[tokens["offset_mapping"][room][0] :] if count > self.max_length else ""

    def encode_tokens(self, tokens: dict[str, torch.Tensor]) -> TextFeatures:
        """Features of tokenized prompts, with gradients if they are enabled."""
        device = _execution_device(self.model)
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        seen_by_t5 = None if self.pad_to_max else mask  # CogVideoX's T5 saw its padding
        features = self.model(input_ids=ids, attention_mask=seen_by_t5).last_hidden_state  # (B, L, D)
        # CogVideoX attends to its padding: there is no mask when everything is padded to one length
        seen = torch.ones_like(mask, dtype=torch.bool) if self.pad_to_max else mask.bool()
        return TextFeatures(features, seen, tokens["referring"].to(ids.device))

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> TextFeatures:
        """Features of prompts without gradients; a frozen model's are cached, on the CPU, when all have one length."""
        if not self.pad_to_max or not self.frozen:
            return self.encode_tokens(self.tokenize(prompts))
        cache = _CACHES.setdefault(self.model, OrderedDict())
        new = [p for p in dict.fromkeys(prompts) if (p, self.max_length) not in cache]
        if new:
            fresh = self.encode_tokens(self.tokenize(new)).to(torch.device("cpu"), self.model.dtype)
            for i, prompt in enumerate(new):
                row = TextFeatures(*(getattr(fresh, f)[i : i + 1].clone() for f in _FIELDS))
                cache[prompt, self.max_length] = row
        rows = [cache[prompt, self.max_length] for prompt in prompts]
        while len(cache) > _CACHE_SIZE:
            cache.popitem(last=False)
        return TextFeatures(*(torch.cat([getattr(r, f) for r in rows]) for f in _FIELDS))


def _execution_device(model: T5EncoderModel) -> torch.device:
    """Where inputs belong: offloading keeps the weights elsewhere between calls, or nowhere (device meta)."""
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((device for device in devices if device is not None), model.device))
