"""Which settings a transformer can have, and which go together."""

from __future__ import annotations

from typing import Any

from unireal.names import lookup

CHOICES = {
    "position_embedding": ("rotary", "sincos", "both"),
    "condition_attention": ("full", "isolated"),
    "prediction_type": ("velocity", "sample", "v_prediction"),
}


def check_config(config: Any) -> None:
    """config: that of a UniRealTransformer. Raises ValueError for values that it does not know or that do not fit."""
    for setting, values in CHOICES.items():
        lookup(dict.fromkeys(values), config[setting], setting)
    if (config.prediction_type == "v_prediction") != (config.noise_schedule is not None):
        raise ValueError(
            "noise_schedule belongs to prediction_type 'v_prediction' and to no other, got "
            f"{config.noise_schedule!r} for {config.prediction_type!r}"
        )
    if config.attention_head_dim % 16:
        raise ValueError(f"attention_head_dim must be a multiple of 16 (3D positions), got {config.attention_head_dim}")
    if config.position_span is not None and (config.position_span < 1 or config.base_grid is not None):
        raise ValueError(
            f"position_span is at least 1, or None where a base_grid tells the positions; got {config.position_span} "
            f"with base_grid={config.base_grid}"
        )
    heads, bias = config.place_heads, config.attention_bias
    if not 0 <= heads <= config.num_attention_heads or (heads and not bias):
        raise ValueError(
            f"place_heads must be 0 to {config.num_attention_heads}, the number of heads, and needs attention_bias; "
            f"got {heads} with attention_bias={bias}"
        )
