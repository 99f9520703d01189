"""Masks and tracklets for boxes: SAM 2 (arXiv 2408.00714).

The model is transformers' Sam2VideoModel, whose weights are safetensors. The `sam2` package's SAM2VideoPredictor is the
same network, but it is built from source, unpickles its .pt files and takes frames only as JPEG or MP4: it is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_builders.annotators.protocols import Box, Frames, sequence
from data_builders.annotators.weights import load_model, load_processor

DEFAULT = "facebook/sam2.1-hiera-large"


class Sam2:
    """SAM 2 with boxes as prompts; a picture is a video of one frame."""

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
