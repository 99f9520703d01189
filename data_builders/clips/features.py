"""What a clip looks like as one unit vector, so that near-duplicates have a large cosine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_builders.annotators.weights import load_model, load_processor

if TYPE_CHECKING:
    import torch

ENCODER = "openai/clip-vit-large-patch14"  # Ditto, section 3.1: features of a ViT-L/14
_COLOUR_SHARE = 0.1  # of the mean colour, which tells flat pictures apart
_FAINT = 1.0  # grey values: gradients of fainter pictures are not blown up
# Brightness and two differences of colours, of R, G, B
_OPPONENTS = np.array([[1, 1, 1], [1, -1, 0], [0.5, 0.5, -1]], np.float32).T / 3


def colour_gradients(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """float32 (867,), of length 1: gradients of brightness and colour of small pictures, averaged over a clip's.

    thumbnails: uint8 (18, 32, 3) RGB, at least one. Needs no weights. Gradients, since most pictures are alike in the
    large: bright above, dark below. It finds what has been coded anew, scaled, made brighter or darker, or cut a
    little; it does not find what only means the same.
    """
    pictures = np.stack(thumbnails).astype(np.float32)
    count, height, width, _ = pictures.shape
    halved = pictures.reshape(count, height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4)) @ _OPPONENTS
    slopes = np.concatenate([s.reshape(count, -1) for s in np.gradient(halved, axis=(1, 2))], axis=1)
    norms = np.linalg.norm(slopes, axis=1, keepdims=True)
    shape = (slopes / np.maximum(norms, _FAINT * np.sqrt(slopes.shape[1]))).mean(axis=0)
    colour = (pictures.mean(axis=(0, 1, 2)) - 127.5) / 127.5
    return _unit(np.concatenate([shape, _COLOUR_SHARE * colour]))


class ImageEncoder:
    """A CLIP vision model of transformers.

    source: a hub id, or a folder with its config.json, safetensors and preprocessor_config.json.
    Raises ValueError if there is none.
    """

    def __init__(self, source: str = ENCODER, device: str = "cpu"):
        from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

        try:
            self._processor = load_processor(AutoImageProcessor, source)
            self._model: torch.nn.Module = load_model(CLIPVisionModelWithProjection, source, device, "float32")
        except (ValueError, KeyError) as error:
            where = "folder" if Path(source).is_dir() else "hub id"
            raise ValueError(f"{where} {source!r} gives no CLIP image encoder ({error})") from error
        self._device = device

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (D,), of length 1: the mean over uint8 (H, W, 3) RGB frames of their features, at least one."""
        import torch

        pixels = self._processor(images=list(frames), return_tensors="pt")["pixel_values"].to(self._device)
        with torch.inference_mode():
            features = self._model(pixel_values=pixels).image_embeds.float()
        features = features / features.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return _unit(features.mean(dim=0).cpu().numpy())


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
