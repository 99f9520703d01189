"""The model card of a pipeline, written from what it is made of; `UniRealPipeline.push_to_hub` uploads it."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData
from torch import nn

from unireal.model.build import Components
from unireal.tasks import TASKS

_CARD = """---
{metadata}
---
# {name}

A [UniReal](https://arxiv.org/abs/2412.07774) model: one diffusion transformer that treats every input and output image
as a frame of a video, with a role and an index that the text names.

## Parts

| part | what |
|---|---|
{parts}

Native size: {width}x{height} pixels. Defaults: {steps} steps, guidance {guidance:g}, image guidance {images:g}.

## Use

```python
from unireal.pipeline import UniRealPipeline

pipe = UniRealPipeline.from_pretrained("{repo_id}")
image = pipe("{prompt}", task="edit", canvas="picture.png").images[0]
```

| task | what it does | pictures |
|---|---|---|
{tasks}

## Training data, results and limits

Not told by the weights: write down here what the model was trained on and for how long, how it scores beside trivial
baselines (`python -m unireal.evaluation --help`), and what it cannot do.
"""


def model_card(
    parts: Components,
    repo_id: str,
    native_size: tuple[int, int],
    default_steps: int,
    default_guidance: float,
    default_image_guidance: float,
) -> ModelCard:
    """native_size: (H, W) in pixels; arguments as in UniRealPipeline's config. The licence is left to the owner."""
    metadata = ModelCardData(
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=["unireal", "image-editing", "text-to-image", "depth-estimation", "image-segmentation"],
    )
    tasks = [
        f"| `{spec.name}` | {spec.summary} | {', '.join(map(str, spec.slots)) or 'none'} |" for spec in TASKS.values()
    ]
    text = _CARD.format(
        metadata=metadata.to_yaml(),
        name=repo_id.rpartition("/")[2],
        parts="\n".join(f"| {part} | {what} |" for part, what in _described(parts).items()),
        height=native_size[0],
        width=native_size[1],
        steps=default_steps,
        guidance=default_guidance,
        images=default_image_guidance,
        repo_id=repo_id,
        prompt=TASKS["edit"].example,
        tasks="\n".join(tasks),
    )
    return ModelCard(text)


def _described(parts: Components) -> dict[str, str]:
    config = parts.transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    described = {
        "transformer": f"{_class(parts.transformer)}: {config.num_layers} blocks of width {width}, patches of "
        f"{config.patch_size}, predicts {config.prediction_type}, {config.condition_attention} condition attention",
    }
    if parts.text_encoder is not None:
        text = parts.text_encoder.config
        described["text encoder"] = f"{_class(parts.text_encoder)}: {text.num_layers} layers of width {text.d_model}"
    described["autoencoder"] = "none, the model works on pixels" if parts.vae is None else _class(parts.vae)
    return described


def _class(module: nn.Module) -> str:
    millions = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    return f"`{type(module).__name__}`, {millions:.3g} million parameters"
