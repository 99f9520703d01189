"""How the annotators' models are loaded: from a folder or a hub id, weights from safetensors, onto a device."""

from __future__ import annotations

from typing import Any

from data_builders.errors import one_line


def load_model(kind: Any, source: str, device: str = "cpu", dtype: str = "auto") -> Any:
    """kind.from_pretrained(source), for inference.

    kind: a class of transformers; source: a folder or hub id; dtype: "auto" (that of the file), "float16", ...
    Raises ValueError if there is nothing to load, it is another kind of model, or the file lacks some of its weights.
    """
    from safetensors import SafetensorError

    try:
        model, report = kind.from_pretrained(source, dtype=dtype, use_safetensors=True, output_loading_info=True)
    # RuntimeError for weights of other shapes, SafetensorError for a file that is cut off
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"cannot load {source!r} as {kind.__name__} ({one_line(error)}); give a folder or a hub id with safetensors"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{source!r} lacks {len(missing)} weights of {type(model).__name__}, as {missing[0]}")
    return on_device(model, device).eval()


def on_device(model: Any, device: str) -> Any:
    """Moved there. Raises ValueError if there is no such device, or not enough memory on it."""
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # the second for a torch without CUDA
        raise ValueError(f"cannot move {type(model).__name__} to {device!r} ({one_line(error)})") from error


def load_processor(kind: Any, source: str) -> Any:
    """kind.from_pretrained(source). Raises ValueError if there is nothing to load."""
    try:
        return kind.from_pretrained(source)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"cannot load the processor of {source!r} ({one_line(error)})") from error


def model_type(source: str) -> str:
    """What kind of model a folder or hub id holds, "qwen2_5_vl". Raises ValueError if it holds none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source).model_type
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load {source!r} ({one_line(error)}); give a folder or a hub id of a model") from error
