"""LoRA adapters of the transformer through peft: a few MiB that are trained, saved and loaded alone.

add_lora(pipe.transformer, rank=16)      # then train, and
save_lora(pipe.transformer, "lora")      # adapter_model.safetensors and adapter_config.json
load_lora(other.transformer, "lora")
merged(pipe.transformer)                 # a copy that needs no adapter

The file's metadata holds name and fingerprint of the base that the adapter was trained on, if that came from a folder
or the hub.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from unireal.files import replacing
from unireal.model.folder import ADAPTER_CONFIG, ADAPTERS, fingerprint, known_as, model_path
from unireal.model.transformer import UniRealTransformer
from unireal.notices import one_line

_log = logging.getLogger(__name__)
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # what CogVideoX's own LoRAs adapt
_BASE, _FINGERPRINT = "base_model", "base_fingerprint"  # in the metadata of the weights
WEIGHTS, CONFIG = "adapter_model.safetensors", ADAPTER_CONFIG


def add_lora(
    transformer: UniRealTransformer,
    rank: int,
    targets: Sequence[str] = ATTENTION,
    alpha: float | None = None,
    name: str = "default",
) -> None:
    """Puts an adapter that changes nothing yet into the layers whose names end in `targets`; all else is frozen.

    alpha: the update is scaled by alpha / rank; None means rank, so 1.
    Raises ValueError for a rank below 1, targets that no layer has, or an adapter of that name that is there already.
    """
    if rank < 1:
        raise ValueError(f"the rank of a LoRA must be at least 1, got {rank}")
    layers = [module for module, _ in transformer.named_modules()]
    for target in targets:
        if not any(layer.endswith(f".{target}") or layer == target for layer in layers):
            raise ValueError(
                f"no layer's name ends in {target!r}; LoRA targets are e.g. {', '.join(ATTENTION)}, proj_out"
            )
    scale: Any = rank if alpha is None else alpha  # peft says int, and takes any number
    _add(transformer, LoraConfig(r=rank, lora_alpha=scale, target_modules=list(targets)), name)


def save_lora(transformer: UniRealTransformer, folder: str | Path, name: str = "default") -> None:
    """Writes the adapter alone. Raises ValueError if the transformer has none of that name."""
    configs = getattr(transformer, "peft_config", {})
    if name not in configs:
        raise ValueError(f"the transformer has no LoRA {name!r} to save; call add_lora first")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(_uncompiled(transformer), adapter_name=name)
    with replacing(folder / WEIGHTS) as unfinished:
        save_file({k: v.contiguous().cpu() for k, v in weights.items()}, unfinished, metadata=_base(transformer))
    configs[name].save_pretrained(folder)


def load_lora(transformer: UniRealTransformer, folder: str | Path, name: str = "default") -> None:
    """Puts a saved adapter into a transformer, in effect from now on. Logs a warning if it was trained on another base.

    folder: or the name of a shipped one. Raises ValueError if it holds no adapter, or one of another model.
    """
    folder = model_path(folder)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            known = f"a folder written by save_lora or a shipped adapter: {', '.join(ADAPTERS)}"
            raise ValueError(f"LoRA folder {str(folder)!r} lacks {file}; give {known}")
    try:
        config, weights = LoraConfig.from_pretrained(str(folder)), load_file(folder / WEIGHTS)
        with safe_open(folder / WEIGHTS, "pt") as file:
            trained_on = file.metadata() or {}
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"LoRA folder {str(folder)!r} is damaged ({error}); fetch it again") from error
    transformer = _uncompiled(transformer)
    _add(transformer, config, name)
    mine = get_peft_model_state_dict(transformer, adapter_name=name)
    if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in weights.items()}:
        transformer.delete_adapters(name)
        base = trained_on.get(_BASE, "it does not say which")
        raise ValueError(f"LoRA {str(folder)!r} was made for another model ({base}): its layers or their sizes differ")
    set_peft_model_state_dict(transformer, weights, adapter_name=name)
    _maybe_remove_and_reapply_group_offloading(transformer)  # which does not know the new layers
    base = _base(transformer) if _FINGERPRINT in trained_on else {}
    if base and base[_FINGERPRINT] != trained_on[_FINGERPRINT]:
        _log.warning(
            "LoRA %r was trained on %r, which has other weights than this model (%r); give the model it was trained on",
            *(str(folder), trained_on.get(_BASE, "another model"), base[_BASE]),
        )


def merged(transformer: UniRealTransformer) -> UniRealTransformer:
    """A copy whose weights are those that the adapters make of them; itself if there are none."""
    if not getattr(transformer, "peft_config", {}):
        return transformer
    transformer = deepcopy(transformer)
    transformer.fuse_lora()
    transformer.unload_lora()
    return transformer


def _base(transformer: UniRealTransformer) -> dict[str, str]:
    """What the metadata says of the model that a transformer was loaded from; {} if there is none on this disk."""
    path = Path(_uncompiled(transformer).config.get("_name_or_path") or "not loaded")
    weights = path / "transformer" if (path / "transformer").is_dir() else path
    if not any(weights.glob("*.safetensors")):
        return {}
    return {_BASE: known_as(weights.parent), _FINGERPRINT: fingerprint(weights, "*.safetensors")}


def _uncompiled(transformer: UniRealTransformer) -> UniRealTransformer:
    """What torch.compile wraps: with the wrapper, all names would begin with its own."""
    inner: Any = getattr(transformer, "_orig_mod", transformer)
    return inner


def _add(transformer: UniRealTransformer, config: LoraConfig, name: str) -> None:
    if name in getattr(transformer, "peft_config", {}):
        raise ValueError(
            f"the transformer has a LoRA {name!r} already; choose another name or delete_adapters({name!r})"
        )
    transformer.requires_grad_(False)
    try:
        transformer.add_adapter(config, adapter_name=name)
    except ValueError as error:  # peft: no layer fits
        raise ValueError(f"the LoRA does not fit this model: {one_line(error)}") from error
