"""Which weights a run trains: all of them, parts chosen by name, or a LoRA."""

from __future__ import annotations

import re

import torch

from unireal.experiments import TrainConfig
from unireal.model.build import Components
from unireal.model.lora import add_lora, load_lora

# Parts by name, as regular expressions of parameter names; a transformer's begin with "transformer.".
PARTS: dict[str, str] = {
    # what UniReal adds to a video model, and the layer by which it reads the context prompt
    "conditions": r"^transformer\.(role_embedding|index_embedding|patch_embed\.text_proj)\.",
    # the linear projections through which tokens look at their context: what Ditto trains (arXiv 2510.15742)
    "projections": r"^transformer\..*\.attn1\.to_",
    "embeddings": r"^transformer\.(patch_embed|time_embedding|role_embedding|index_embedding)\.",
    "output": r"^transformer\.(norm_final|norm_out|proj_out)\.",
    "text": r"^text_encoder\.",
}


def choose_trainable(components: Components, config: TrainConfig) -> None:
    """Freezes what the run does not train, and adds its LoRA.

    Raises ValueError for a part that no parameter's name contains, or an adapter that fits no layer or is none.
    """
    if not config.trainable and not config.lora.used:
        return
    patterns = [PARTS.get(part, part) for part in config.trainable]
    named = list(components.trainable.named_parameters())
    chosen = []
    for part, pattern in zip(config.trainable, patterns, strict=True):
        try:
            found = [parameter for name, parameter in named if re.search(pattern, name)]
        except re.error as error:
            raise ValueError(f"trainable {part!r} is no regular expression ({error})") from error
        if not found:
            raise ValueError(
                f"trainable {part!r} matches no parameter; give regular expressions of names such as {named[0][0]!r}, "
                f"or: {', '.join(PARTS)}"
            )
        chosen += found
    components.trainable.requires_grad_(False)
    torch.manual_seed(config.seed)  # every process starts with the same adapter
    if config.lora.start:
        load_lora(components.transformer, config.lora.start)  # frozen, if its file is meant for inference
        chosen += [weight for name, weight in components.transformer.named_parameters() if "lora_" in name]
    elif config.lora.rank:
        add_lora(components.transformer, config.lora.rank, config.lora.targets, config.lora.alpha or None)
    for parameter in chosen:
        parameter.requires_grad_(True)
