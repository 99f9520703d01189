"""Makes a model from its named size: transformer, text encoder with tokenizer, and autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import diffusers
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5EncoderModel, T5TokenizerFast

from unireal.config import ModelConfig
from unireal.model.text_encoder import TextEncoder, add_referring_tokens, start_with_word_order
from unireal.model.transformer import UniRealTransformer
from unireal.model.vae import VAE, FrameCodec
from unireal.prompts import CONTEXT_KEYWORDS


@dataclass
class Components:
    """What a pipeline is made of. vae is None for a model that works on pixels; text encoder and tokenizer are None
    only where training gets features that were computed before (unireal.data.encoded). The VAE is not loaded there
    either, and factor says how many pixels are along the side of one of its latent pixels."""

    transformer: UniRealTransformer
    text_encoder: T5EncoderModel | None
    tokenizer: PreTrainedTokenizerBase | None
    vae: VAE | None
    factor: int = 1

    def __post_init__(self) -> None:
        if self.transformer.config.pad_text and self.text_encoder is not None:
            # CogVideoX's own T5 stays as it is, also after it was saved and loaded
            self.text_encoder.requires_grad_(False)

    @property
    def text(self) -> TextEncoder:
        config = self.transformer.config
        return TextEncoder(
            self.tokenizer,
            self.text_encoder,
            config.max_text_length,
            config.max_inputs,
            config.max_results,
            pad_to_max=config.pad_text,
        )

    @property
    def codec(self) -> FrameCodec:
        return FrameCodec(self.vae, self.transformer.config.patch_size, self.factor)

    @property
    def trainable(self) -> nn.ModuleDict:
        """The parts that training changes; a frozen text encoder is not among them."""
        parts: dict[str, nn.Module] = {"transformer": self.transformer}
        if self.text_encoder is not None and not self.text.frozen:
            parts["text_encoder"] = self.text_encoder
        return nn.ModuleDict(parts)


def build(config: ModelConfig, vocabulary: list[str], seed: int = 0) -> Components:
    """Fresh weights, but for a frozen text encoder and the VAE, which are loaded. Raises ValueError without the VAE.

    vocabulary: the words of a jointly trained text encoder's tokenizer (see `word_tokenizer`).
    """
    torch.manual_seed(seed)
    limits = {"max_inputs": 8, "max_results": 8} | {k: v for k, v in config.transformer.items() if k.startswith("max_")}
    if isinstance(config.text, str):
        tokenizer = AutoTokenizer.from_pretrained(config.text, subfolder="tokenizer")
        text_encoder = T5EncoderModel.from_pretrained(config.text, subfolder="text_encoder", use_safetensors=True)
        text_encoder.requires_grad_(False)
    else:
        tokenizer = word_tokenizer(vocabulary)
        text_encoder = T5EncoderModel(T5Config(vocab_size=len(tokenizer), **config.text))
        start_with_word_order(text_encoder)
    add_referring_tokens(tokenizer, text_encoder, limits["max_inputs"], limits["max_results"])
    transformer = UniRealTransformer(
        **config.transformer,
        text_embed_dim=text_encoder.config.d_model,
        max_text_length=config.max_text_length,
    )
    vae = None
    if config.vae is not None:
        vae_class = getattr(diffusers, config.vae_class)
        subfolder = "vae" if config.vae_class == "AutoencoderKLCogVideoX" else None
        try:
            vae = vae_class.from_pretrained(config.vae, subfolder=subfolder, use_safetensors=True)
        except OSError as error:
            raise ValueError(
                f"the VAE {config.vae!r} is no folder of an {config.vae_class} here and cannot be downloaded; make it "
                "with python -m unireal.training.autoencoder, or download it"
            ) from error
        vae.requires_grad_(False)
    return Components(transformer, text_encoder, tokenizer, vae)


def word_tokenizer(words: list[str]) -> T5TokenizerFast:
    """A T5 tokenizer whose pieces are the given words and, for all else, single characters.

    Words score above their characters, so that a known word is one token.
    """
    known = sorted({*words, *(w for keyword in CONTEXT_KEYWORDS for w in keyword.split())})
    letters = [chr(c) for c in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(letter, -8.0) for letter in letters]
    pieces += [(f"▁{word}", -2.0) for word in known]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, additional_special_tokens=[])
