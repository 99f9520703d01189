"""How a pipeline comes from a folder or hub and goes there, and what is put on it afterwards."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from huggingface_hub import ModelCard, create_repo
from huggingface_hub.errors import EntryNotFoundError

from unireal.model.build import Components
from unireal.model.folder import check_model_folder, find_model
from unireal.model.transformer import UniRealTransformer
from unireal.model_card import model_card

# Of a repository on the hub, diffusers takes parts only of libraries that stand here, or of code in the repository.
LOADABLE_CLASSES.setdefault(UniRealTransformer.__module__, {})


class LoadablePipeline(DiffusionPipeline):
    """What UniRealPipeline adds to diffusers' own loading and saving."""

    transformer: Any

    @classmethod
    def from_components(cls, parts: Components, shift: float = 1.0, **config: Any) -> Self:
        """A pipeline of freshly built or trained parts. shift: of the sampling times toward noise; config as in the
        constructor."""
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        return cls(parts.transformer, parts.text_encoder, parts.tokenizer, scheduler, parts.vae, **config)

    def as_components(self) -> Components:
        return Components(self.transformer, self.text_encoder, self.tokenizer, self.vae)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """Loads a shipped model by name, a folder, or a hub id; safetensors only, in float32 unless dtype says else.

        options: as in diffusers. Raises ValueError if a folder lacks files or holds pickled weights, or if such are
        asked for.
        """
        if options.pop("use_safetensors", None) is False:
            raise ValueError("weights are read from safetensors alone; leave use_safetensors out")
        if not options.keys() & {"dtype", "torch_dtype"}:
            options["dtype"] = torch.float32  # whatever it was stored in; bfloat16 is a choice, not a surprise
        path = find_model(name, hub=True)
        if path.exists():
            check_model_folder(path)
        return super().from_pretrained(path.as_posix(), use_safetensors=True, **options)

    def save_pretrained(
        self, save_directory: str | Path, safe_serialization: bool = True, *arguments: Any, **options: Any
    ) -> None:
        """As in diffusers. Adapters are merged into the weights; unireal.model.lora.save_lora saves one alone.

        Raises ValueError if pickled weights are asked for, which could not be loaded.
        """
        from unireal.model.lora import merged

        _check_safe(safe_serialization)
        transformer = self.transformer
        try:
            self.transformer = merged(transformer)
            super().save_pretrained(save_directory, True, *arguments, **options)
        finally:
            self.transformer = transformer

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> str:
        """Uploads the model, with a model card of its own unless the repository has one; returns the commit's address.

        Arguments as in diffusers' push_to_hub. Raises ValueError if pickled weights are asked for.
        """
        _check_safe(safe_serialization)
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        try:
            card = ModelCard.load(repo_id, token=token)
        except EntryNotFoundError:
            defaults = {name: value for name, value in self.config.items() if name.startswith("default_")}
            card = model_card(self.as_components(), repo_id, self.config.native_size, **defaults)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant=variant)
            card.save(Path(folder) / "README.md")
            message = commit_message or f"Upload {type(self).__name__}"
            return self._upload_folder(folder, repo_id, token=token, commit_message=message, create_pr=create_pr)

    def load_lora_weights(self, folder: str | Path, adapter_name: str = "default") -> None:
        """Puts an adapter that save_lora wrote into the transformer. Raises ValueError if it does not fit."""
        from unireal.model.lora import load_lora

        load_lora(self.transformer, folder, adapter_name)

    def unload_lora_weights(self) -> None:
        """Takes all adapters off again; the weights are as they were."""
        self.transformer.unload_lora()


def stored_types(folder: Path) -> dict[str, Any]:
    """The dtype of from_pretrained for training and what precedes it: float32, but a text encoder that stays frozen as
    it was stored. T5-XXL then takes 9 GiB, not 18, and its features a fraction of the time on a GPU.

    Raises ValueError as from_pretrained does.
    """
    check_model_folder(folder)
    frozen = UniRealTransformer.load_config(folder, subfolder="transformer").get("pad_text")
    return {"default": torch.float32} | ({"text_encoder": "auto"} if frozen else {})


def _check_safe(safe_serialization: bool) -> None:
    if not safe_serialization:
        raise ValueError("weights are written as safetensors alone; leave safe_serialization out")
