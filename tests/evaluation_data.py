"""Tiny random backbones, as folders, for the tests of the public benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

START, END = "<|startoftext|>", "<|endoftext|>"
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def clip_folder(folder: Path, seed: int = 0) -> Path:
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = {token: i for i, token in enumerate([*letters, *(f"{c}</w>" for c in letters), START, END])}
    first, last = vocabulary[START], vocabulary[END]
    text = SMALL | {"vocab_size": len(vocabulary), "bos_token_id": first, "eos_token_id": last, "pad_token_id": last}
    vision = SMALL | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    _randomised(CLIPModel(config), 7 + seed).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def dino_folder(folder: Path, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    model = ViTModel(ViTConfig(**SMALL, image_size=224, patch_size=32), add_pooling_layer=False)
    _randomised(model).save_pretrained(folder)
    return folder


def dinov2_folder(folder: Path, seed: int = 2) -> Path:
    torch.manual_seed(seed)
    size = {name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    _randomised(Dinov2Model(Dinov2Config(**size, image_size=56, patch_size=28))).save_pretrained(folder)
    return folder


def _randomised(model: torch.nn.Module, seed: int = 7) -> torch.nn.Module:
    """Weights far from their start, so that pictures and texts do not all look alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or "class_embedding" in name or "cls_token" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def picture(size: tuple[int, int] = (48, 40), seed: int = 0) -> np.ndarray:
    """A smooth random picture, uint8 (H, W, 3), so that resizing keeps what it shows."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 6, 6)))
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 255)[0]
    return smooth.permute(1, 2, 0).round().byte().numpy()
