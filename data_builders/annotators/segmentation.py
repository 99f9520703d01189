"""Masks and tracklets for boxes: SAM 2 (arXiv 2408.00714), the port in transformers or the package of its authors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_builders.annotators.protocols import Box, Frames, Segmenter, sequence
from data_builders.annotators.sam2_package import Sam2Package, require_package
from data_builders.annotators.weights import load_model, load_processor, model_type

DEFAULT = "facebook/sam2.1-hiera-large"


def load_segmenter(spec: str, device: str = "cpu") -> Segmenter:
    """spec: a folder or hub id; with "sam2:" before it, the `sam2` package runs these weights.

    "sam2:default" stands for the default model. Raises ValueError if it cannot be loaded.
    """
    kind, source = _kind(spec)
    return kind.from_pretrained(source, device)


def check_segmenter(spec: str) -> None:
    """Raises ValueError if there is no such model, or not the package that it takes. Weights are left alone."""
    kind, source = _kind(spec)
    if kind is Sam2Package:
        require_package(source)
    model_type(source)


def _kind(spec: str) -> tuple[type[Sam2 | Sam2Package], str]:
    """The class, and the folder or hub id of its weights."""
    before, colon, source = spec.partition(":")
    if before != "sam2" or not colon:
        return Sam2, spec
    if not source:
        raise ValueError(f"give a folder or hub id after 'sam2:', as in sam2:{DEFAULT}")
    return Sam2Package, DEFAULT if source == "default" else source


class Sam2:
    """transformers' Sam2VideoModel with boxes as prompts; a picture is a video of one frame."""

    def __init__(self, model: Any, processor: Any, name: str):
        self.model, self.processor, self.name = model, processor, name

    @classmethod
    def from_pretrained(cls, source: str = DEFAULT, device: str = "cpu") -> Sam2:
        from transformers import Sam2VideoModel, Sam2VideoProcessor

        model = load_model(Sam2VideoModel, source, device)
        return cls(model, load_processor(Sam2VideoProcessor, source), source)

    def segment(self, image: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
        return self.track([image], boxes)[:, 0]

    def track(self, frames: Frames, boxes: Sequence[Box]) -> np.ndarray:
        import torch
        from PIL import Image

        images = sequence(frames)
        size = images[0].shape[:2]
        if not boxes:
            return np.zeros((0, len(images), *size), bool)
        with torch.inference_mode():
            session = self.processor.init_video_session(
                video=[Image.fromarray(image) for image in images],
                inference_device=self.model.device,
                video_storage_device="cpu",  # of a long video only the frame at hand is on the device
                dtype=self.model.dtype,
            )
            self.processor.add_inputs_to_inference_session(
                session,
                frame_idx=0,
                obj_ids=list(range(len(boxes))),
                input_boxes=[[list(map(float, box)) for box in boxes]],
            )
            masks = [
                self.processor.post_process_masks([output.pred_masks], [size])[0][:, 0].cpu().numpy()
                for output in self.model.propagate_in_video_iterator(session, start_frame_idx=0)
            ]
        return np.stack(masks, axis=1)
