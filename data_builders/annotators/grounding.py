"""Boxes for phrases: GroundingDINO, or Florence-2, through transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from data_builders.annotators.boxes import clipped
from data_builders.annotators.protocols import Detection
from data_builders.annotators.weights import load_model, load_processor, model_type

DEFAULT = "IDEA-Research/grounding-dino-base"
_FLORENCE_TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
# What a phrase begins with before it names the thing, and what it goes on with after it
_BEFORE = re.compile(r"^(the |an? |some )*((pair|group|crowd|bunch|set|row|stack|pile|piece|slice)s? of (the )?)?")
_AFTER = re.compile(
    r"[;:(]| (in|on|with|without|of|at|by|near|next|behind|beside|between|among|under|below|above|over|inside|outside"
    r"|against|across|along|around|from|to|for|that|which|who|whose|made|dressed|wearing|holding|carrying|riding"
    r"|driving|pushing|pulling|using|sitting|standing|lying|leaning|hanging|walking|running|jumping|flying|swimming"
    r"|moving|playing|dancing|eating|drinking|reading|talking|looking|facing|containing) "
)


class GroundingDino:
    """GroundingDINO, or another zero-shot detector of transformers whose processor finds phrases.

    threshold: of a box's score; text_threshold: of a word's, to be in the label; both 0..1.
    """

    def __init__(self, model: Any, processor: Any, name: str, threshold: float = 0.35, text_threshold: float = 0.25):
        self.model, self.processor, self.name = model, processor, name
        self.threshold, self.text_threshold = threshold, text_threshold

    @classmethod
    def from_pretrained(cls, source: str = DEFAULT, device: str = "cpu", **options: float) -> GroundingDino:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        model = load_model(AutoModelForZeroShotObjectDetection, source, device)
        return cls(model, load_processor(AutoProcessor, source), source, **options)

    def ground(self, image: np.ndarray, phrase: str) -> list[Detection]:
        import torch

        # It was trained on lower-case phrases that end with a full stop.
        text = phrase.lower().strip().rstrip(".") + "."
        inputs = self.processor(images=image, text=text, return_tensors="pt").to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        found = self.processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=self.threshold,
            text_threshold=self.text_threshold,
            target_sizes=[image.shape[:2]],
        )[0]
        boxes, scores = found["boxes"].float().tolist(), found["scores"].float().tolist()
        labels = [self._label(text) or phrase for text in found["text_labels"]]
        return _detections(image, phrase, boxes, scores, labels)

    def _label(self, words: str) -> str:
        """Without [SEP] and the like, which a box may match as well."""
        special = self.processor.tokenizer.all_special_tokens
        return " ".join(word for word in words.split() if word not in special).rstrip(" .")


class Florence2:
    """Florence-2's phrase grounding. It tells no scores, so each is 1."""

    def __init__(self, model: Any, processor: Any, name: str, max_new_tokens: int = 512, num_beams: int = 3):
        self.model, self.processor, self.name = model, processor, name
        self.max_new_tokens, self.num_beams = max_new_tokens, num_beams

    @classmethod
    def from_pretrained(
        cls, source: str = "florence-community/Florence-2-large", device: str = "cpu", **options: int
    ) -> Florence2:
        from transformers import AutoProcessor, Florence2ForConditionalGeneration

        model = load_model(Florence2ForConditionalGeneration, source, device)
        return cls(model, load_processor(AutoProcessor, source), source, **options)

    def ground(self, image: np.ndarray, phrase: str) -> list[Detection]:
        import torch
        from PIL import Image

        inputs = self.processor(images=Image.fromarray(image), text=f"{_FLORENCE_TASK}{phrase}", return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        limits = {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams}
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, do_sample=False, **limits)
        text = self.processor.batch_decode(tokens, skip_special_tokens=False)[0]
        size = (image.shape[1], image.shape[0])
        found = self.processor.post_process_generation(text=text, task=_FLORENCE_TASK, image_size=size)
        boxes, labels = found[_FLORENCE_TASK]["bboxes"], found[_FLORENCE_TASK]["labels"]
        return _detections(image, phrase, boxes, [1.0] * len(boxes), labels)


def load_grounder(source: str = DEFAULT, device: str = "cpu") -> GroundingDino | Florence2:
    """The grounder that this folder or hub id holds."""
    kind = Florence2 if model_type(source) == "florence2" else GroundingDino
    return kind.from_pretrained(source, device)


def _detections(
    image: np.ndarray, phrase: str, boxes: Iterable[list[float]], scores: Iterable[float], labels: Iterable[str]
) -> list[Detection]:
    """Best first; what lies outside the picture is cut off. Boxes of other words of the phrase are left out."""
    corners = (tuple(map(float, box)) for box in boxes)
    parts = (clipped((x1, y1, x2, y2), image.shape[:2]) for x1, y1, x2, y2 in corners)
    found = zip(parts, scores, labels, strict=True)
    nouns = named(phrase)
    named_boxes = (one for one in found if any(_says(one[2], noun) for noun in nouns))
    detections = [Detection(box, score, label) for box, score, label in named_boxes if box is not None]
    return sorted(detections, key=lambda detection: -detection.score)


def named(phrase: str) -> set[str]:
    """The nouns of what a phrase names: "wheel" of "the front wheel of the car", both of "the man and the dog"."""
    told = _AFTER.split(_BEFORE.sub("", phrase.lower().strip()) + " ")[0]
    parts = [part.split() for part in re.split(",| and | or ", told)]
    return {words[-1].rstrip(".") for words in parts if words} or {""}


def _says(label: str, noun: str) -> bool:
    """Whether a label holds the noun, or a piece of it: detectors know rare words by their pieces."""
    words = (word.strip("#.,") for word in label.lower().split())
    return any(word == noun or (len(word) > 2 and (word in noun or noun in word)) for word in words)
