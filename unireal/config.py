"""Named model sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from unireal.names import lookup


@dataclass(frozen=True)
class ModelConfig:
    """A model to be built from nothing.

    transformer: arguments of UniRealTransformer; text_embed_dim and max_text_length follow from the rest.
    text:        arguments of transformers' T5Config for a T5 that is trained jointly, or a pipeline's folder or hub id
                 with a frozen one (T5-v1.1-XXL in CogVideoX; Google's own repository has it pickled only).
    vae:         a folder or hub id of a diffusers VAE, or None to work on pixels.
    native_size: (H, W) in pixels that the model is trained at, the default size of tasks without a canvas.
    asset_scale: sides of assets in its training, as a share of the results'.
    """

    transformer: dict[str, Any]
    text: dict[str, Any] | str
    vae: str | None
    native_size: tuple[int, int] = (64, 64)
    asset_scale: float = 1.0
    max_text_length: int = 64
    vae_class: Literal["AutoencoderDC", "AutoencoderKL", "AutoencoderKLCogVideoX"] = "AutoencoderDC"


_TINY_TEXT = {
    "d_model": 192,
    "d_kv": 48,
    "d_ff": 512,
    "num_layers": 3,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}

_TINY = {
    "num_layers": 8,
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "time_embed_dim": 96,
    "prediction_type": "sample",
    "pooled_text": True,
    "place_heads": 2,
    "condition_attention": "isolated",
    # 8x8 tokens: positions that differ more from neighbour to neighbour; no gain was shown (docs/training-log.md)
    "position_embedding": "both",
    "rope_theta": 100.0,
    "rope_spacing": 2.0,
    "spatial_interpolation_scale": 0.25,
    "position_span": 8,  # any size, though most of the training is at 64x64
}

MODELS: dict[str, ModelConfig] = {
    "debug": ModelConfig(
        transformer={
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "patch_size": 8,
            "in_channels": 3,
            "time_embed_dim": 16,
            "prediction_type": "sample",
        },
        text=_TINY_TEXT | {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
        vae=None,
    ),
    "tiny": ModelConfig(
        transformer=_TINY | {"patch_size": 8, "in_channels": 3},
        text=_TINY_TEXT,
        vae=None,
        asset_scale=0.5,
    ),
    # needs: python -m unireal.training.autoencoder --output runs/vae
    "tiny-latent": ModelConfig(
        transformer=_TINY | {"patch_size": 1, "in_channels": 32},
        text=_TINY_TEXT,
        vae="runs/vae",
        asset_scale=0.5,
    ),
    "2b": ModelConfig(
        transformer={
            "num_layers": 30,
            "num_attention_heads": 30,
            "attention_head_dim": 64,
            "patch_size": 2,
            "in_channels": 16,
            "attention_bias": True,
            "pad_text": True,
            "position_embedding": "sincos",
            "spatial_interpolation_scale": 1.875,
        },
        text="zai-org/CogVideoX-2b",
        vae="zai-org/CogVideoX-2b",
        native_size=(256, 256),
        max_text_length=226,
        vae_class="AutoencoderKLCogVideoX",
    ),
    "5b": ModelConfig(
        transformer={
            "num_layers": 42,
            "num_attention_heads": 48,
            "attention_head_dim": 64,
            "patch_size": 2,
            "in_channels": 16,
            "attention_bias": True,
            "pad_text": True,
        },
        text="zai-org/CogVideoX-5b",
        vae="zai-org/CogVideoX-5b",
        native_size=(256, 256),
        max_text_length=226,
        vae_class="AutoencoderKLCogVideoX",
    ),
}


def get_model(name: str) -> ModelConfig:
    """The model size of that name. Raises ValueError with the nearest name for an unknown one."""
    return lookup(MODELS, name, "model size")
