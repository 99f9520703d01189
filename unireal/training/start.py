"""What a run starts from: a fresh model, or a pipeline's folder; and what it saves in the end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from unireal.config import MODELS
from unireal.data.encoded import EncodedSamples
from unireal.data.mixture import Mixture
from unireal.experiments import TrainConfig
from unireal.loading import stored_types
from unireal.model.build import Components, build
from unireal.model.folder import check_model_folder, encoders_fingerprint, find_model, fingerprint
from unireal.model.transformer import UniRealTransformer
from unireal.model.vae import spatial_factor
from unireal.pipeline import UniRealPipeline
from unireal.prompts import join
from unireal.training.checkpoint import complete_checkpoints, read_state

_VOCABULARY_SAMPLES = 4000
_CHECKED_SAMPLES = 500  # for words that a model does not know
_KEPT = ("native_size", "asset_scale", "default_steps", "default_guidance", "default_image_guidance")


@dataclass
class Start:
    """components: without text encoder and VAE if the data is encoded already.
    settings: of the pipeline that is saved. folder: that the model came from, None if it is fresh.
    words: that a fresh model's text encoder knows.
    """

    components: Components
    settings: dict[str, Any]
    folder: Path | None = None
    words: list[str] = field(default_factory=list)


def load_start(config: TrainConfig, output: Path) -> Start:
    """output: the run's folder, whose checkpoints tell the words that its text encoder was made for.

    Raises ValueError if config.model is neither a size nor a model, if the data was encoded with another model, or for
    an adapter alone of a fresh model.
    """
    encoded = _encoded_data(config)
    if config.model in MODELS and not encoded:
        if config.lora.used and not config.trainable:
            raise ValueError(
                f"lora trains an adapter alone, and the fresh model {config.model!r} below it would be lost; give "
                "--model a trained one, such as unireal-tiny"
            )
        trained_at = {key: getattr(MODELS[config.model], key) for key in ("native_size", "asset_scale")}
        words = _known_words(output) or vocabulary(config)
        components = build(MODELS[config.model], words, config.seed)
        return Start(components, {"shift": config.time_of(-1).shift} | trained_at, words=words)
    if config.model in MODELS and not Path(config.model).is_dir():
        raise ValueError(
            f"precomputed data goes with the model that made it; give its folder, not the size {config.model!r}"
        )
    folder = find_model(config.model, others=MODELS)
    if not encoded:
        pipeline = UniRealPipeline.from_pretrained(folder, dtype=stored_types(folder))
        settings = {"shift": pipeline.scheduler.config.shift} | {key: pipeline.config[key] for key in _KEPT}
        return Start(pipeline.as_components(), settings, folder)
    check_model_folder(folder)
    _check_encoder(folder, encoded)
    transformer = UniRealTransformer.from_pretrained(folder, subfolder="transformer", use_safetensors=True)
    vae = folder / "vae" / "config.json"
    factor = spatial_factor(json.loads(vae.read_text())) if vae.is_file() else 1
    return Start(Components(transformer, None, None, None, factor), {}, folder)


def untrained_fingerprint(start: Start, config: TrainConfig) -> str:
    """Of what a run takes from its model's folder and no checkpoint holds; "" for a fresh model."""
    if start.folder is None:
        return ""
    parts = {"transformer": start.components.transformer, "text_encoder": start.components.text_encoder}
    taken = [
        name
        for name, part in parts.items()
        # distillation has a copy for a teacher
        if part is None or config.distillation.steps or not all(p.requires_grad for p in part.parameters())
    ]
    return fingerprint(start.folder, *(f"{name}/*" for name in (*taken, "tokenizer", "vae")))


def fresh_vae_fingerprint(start: Start, config: TrainConfig) -> str:
    """Of the VAE of a fresh model, which no checkpoint holds; "" if it has none, or one of the hub, which stays."""
    vae = MODELS[config.model].vae if start.folder is None else None
    return fingerprint(Path(vae), "config.json", "*.safetensors") if vae and Path(vae).is_dir() else ""


def _encoded_data(config: TrainConfig) -> list[EncodedSamples]:
    """The precomputed data sets of a run, [] if it trains on pictures. Opens all data, so that errors come early."""
    sources = [s for stage in config.course for s in Mixture(stage.data.sources).sources]
    sources = [getattr(s, "samples", s) for s in sources]
    encoded = [s for s in sources if isinstance(s, EncodedSamples)]
    if encoded and len(encoded) < len(sources):
        raise ValueError("data.sources mixes precomputed latents with pictures; precompute all of them or none")
    if encoded and any(stage.data.side for stage in config.course):
        raise ValueError("data.side cannot scale latents; give it to python -m unireal.data precompute instead")
    if encoded and config.sample_every:
        raise ValueError("sample sheets show pictures, which precomputed data has not; set --sample-every 0")
    return encoded


def _check_encoder(folder: Path, encoded: list[EncodedSamples]) -> None:
    fingerprint = encoders_fingerprint(folder)
    for samples in encoded:
        if samples.about["fingerprint"] != fingerprint:
            raise ValueError(
                f"{str(samples.folder)!r} was encoded with {samples.about['model']!r}, whose text encoder or VAE is "
                f"not that of {str(folder)!r}; start from it, or run python -m unireal.data precompute anew"
            )


def _known_words(output: Path) -> list[str]:
    """Of the run that is resumed, whatever its data is now; none if it has just begun."""
    saved = complete_checkpoints(output / "checkpoints")
    return read_state(saved[-1]).get("words", []) if saved else []


def vocabulary(config: TrainConfig) -> list[str]:
    """The words of the first samples of the run's data, for a text encoder that is trained from nothing."""
    words = _words(config, _VOCABULARY_SAMPLES)
    return sorted(words | {w.capitalize() for w in words} | {w.lower() for w in words})


def spelled_words(config: TrainConfig, start: Start) -> list[str]:
    """Words of the run's first samples that the small text encoder of a model spells letter by letter; it hardly reads
    them. None for large ones, which read pieces of words, and for precomputed texts."""
    tokenizer = start.components.tokenizer
    if start.folder is None or tokenizer is None or start.components.transformer.config.pad_text:
        return []
    words = _words(config, min(_VOCABULARY_SAMPLES, _CHECKED_SAMPLES))
    return sorted(word for word in words if len(tokenizer.tokenize(word)) > max(len(word), 2))


def _words(config: TrainConfig, count: int) -> set[str]:
    """Of so many samples, the same number of each stage."""
    words: set[str] = set()
    for stage in config.course:
        mixture = Mixture(stage.data.sources, stage.data.seed, bad_share=stage.data.bad_share)
        for sample in islice(mixture, count // len(config.course)):
            text = join(sample.context, sample.instruction)
            words.update(
                w for w in "".join(c if c.isalnum() else " " for c in text).split() if not w.startswith(("IMG", "RES"))
            )
    return words
