"""Encodes a data set once: pictures to latents, texts to features. Training on the result loads neither the text
encoder nor the VAE (unireal.data.encoded).

    python -m unireal.data precompute data/world --model models/unireal-2b --output data/world-encoded

Every sample's text is stored three times over, as far as they differ: whole, without context prompt, and empty, so that
training can still drop it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence, Sized
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from unireal.arguments import at_least_one, usable_device
from unireal.data.encoded import ABOUT, EncodedSample, EncodedText, LatentFrame, write_encoded, write_texts
from unireal.data.mixture import Mixture
from unireal.data.preparation import CutPrompts, fitted
from unireal.data.records import SHARD_NAME
from unireal.data.sources import Source
from unireal.files import replacing
from unireal.prompts import join
from unireal.sample import Frame, Sample
from unireal.transforms import to_tensor

if TYPE_CHECKING:
    from unireal.model.build import Components

_SHARD_ROWS = 256  # samples that are encoded together and make one file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="folder of records or archives, hub id, or module:Class")
    parser.add_argument("--model", required=True, help="folder or name of the model that training will start from")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="new folder of encoded records")
    parser.add_argument("--num", metavar="N", type=int, help="how many samples (default: all; a must for streams)")
    parser.add_argument("--side", type=int, default=0, help="scale frames to about SIDE x SIDE pixels (default: not)")
    parser.add_argument("--multiple", type=at_least_one, default=16, help="of the sides of scaled frames (default: 16)")
    parser.add_argument("--batch-size", type=at_least_one, default=16, help="frames or texts that are encoded at once")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="of what is stored")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: cuda if there is one)")


def precompute(options: argparse.Namespace) -> None:
    """Raises ValueError for an unknown source or model, or an output that is in use, and OSError if it cannot write."""
    from unireal.model.folder import encoders_fingerprint, find_model

    folder: Path = options.output
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--output {str(folder)!r} is not empty; give another folder")
    model = find_model(options.model, "--model")
    if not (options.side == 0 or options.side >= options.multiple):
        raise ValueError(f"--side is 0 or at least --multiple ({options.multiple}), got {options.side}")
    device = usable_device(options.device)
    mixture = Mixture((Source(options.source),))
    count = _count(mixture, options)
    encoder = Encoder(_encoders(model, device), device, options.batch_size, options.dtype)
    cut = CutPrompts(encoder.components.text.cut_off)
    samples, shards = _ordered(mixture, count, cut), 0
    progress = tqdm(total=count, unit="sample", disable=None)
    while part := list(islice(samples, _SHARD_ROWS)):
        if options.side:
            part = [fitted(sample, options.side, options.multiple) for sample in part]
        if texts := encoder.new_texts(part):
            write_texts(texts, folder / "texts" / SHARD_NAME.format(shards))
        write_encoded(encoder.encode(part), folder / SHARD_NAME.format(shards))
        shards += 1
        progress.update(len(part))
    about = {
        "model": options.model,
        "fingerprint": encoders_fingerprint(model),
        "dtype": options.dtype,
        "source": options.source,
    }
    # last: without it the folder is none of encoded records
    with replacing(folder / ABOUT, ".unfinished") as unfinished:
        unfinished.write_text(json.dumps(about))
    print(f"{folder}: {count - mixture.bad} samples in {shards} shards, {len(encoder.known)} texts")
    if cut.count:
        print(f"{cut.count} prompts are longer than the text encoder reads; their ends were cut off")


def _encoders(model: Path, device: str) -> Components:
    """Text encoder and VAE of a model on a device. The transformer is not loaded: only its settings are asked for."""
    import torch

    from unireal.loading import stored_types
    from unireal.model.transformer import UniRealTransformer
    from unireal.pipeline import UniRealPipeline

    types = stored_types(model)
    if device == "cpu":  # where half precision is slow
        types = {"default": torch.float32}
    with torch.device("meta"):
        config = UniRealTransformer.load_config(model, subfolder="transformer")
        transformer = UniRealTransformer.from_config(config)
    components = UniRealPipeline.from_pretrained(model, transformer=transformer, dtype=types).as_components()
    for part in (components.text_encoder, components.vae):
        if part is not None:
            part.to(device)
    return components


def _count(mixture: Mixture, options: argparse.Namespace) -> int:
    (source,) = mixture.sources
    if options.num is not None and options.num < 1:
        raise ValueError(f"--num must be at least 1, got {options.num}")
    if not isinstance(source, Sized):
        if options.num is None:
            raise ValueError(f"{options.source!r} has no end; add --num N")
        return options.num
    return min(len(source), options.num or len(source))


def _ordered(mixture: Mixture, count: int, cut: CutPrompts) -> Iterator[Sample]:
    """The first `count` samples in the order of the data set, but for bad ones, which are told and counted."""
    for number in range(count):
        if (sample := mixture.read_checked(0, number)) is not None:
            cut.check(sample, partial(mixture.where, 0, number))
            yield sample


class Encoder:
    """components: of the model, its text encoder and VAE on the device; batch_size: frames or texts at once; dtype: of
    latents and features, for numpy."""

    def __init__(self, components: Components, device: str, batch_size: int, dtype: str):
        self.components, self.device, self.batch_size, self.dtype = components, device, batch_size, dtype
        self.known: set[str] = set()

    def new_texts(self, samples: Sequence[Sample]) -> dict[str, EncodedText]:
        """Features of all texts that training may ask for and that were not encoded before."""
        import torch

        wanted = [join(c, i) for s in samples for c, i in ((s.context, s.instruction), ("", s.instruction), ("", ""))]
        new = [text for text in dict.fromkeys(wanted) if text not in self.known]
        self.known.update(new)
        encoded: dict[str, EncodedText] = {}
        for start in range(0, len(new), self.batch_size):
            texts = new[start : start + self.batch_size]
            with torch.no_grad():
                made = self.components.text.encode_tokens(self.components.text.tokenize(texts))
            columns = (made.features.float(), made.mask, made.referring)
            for text, features, mask, referring in zip(texts, *(c.cpu().numpy() for c in columns), strict=True):
                length = int(np.flatnonzero(mask).max(initial=-1)) + 1 or 1  # padding at the end is put back in a batch
                stored = features[:length].astype(self.dtype)
                encoded[text] = EncodedText(stored, mask[:length].astype(bool), referring[:length])
        return encoded

    def encode(self, samples: Sequence[Sample]) -> list[EncodedSample]:
        """The samples with LatentFrames."""
        frames = [frame for sample in samples for frame in (*sample.inputs, *sample.results)]
        latents = iter(self._latents(frames))
        encoded = []
        for sample in samples:
            inputs, results = (tuple(next(latents) for _ in part) for part in (sample.inputs, sample.results))
            texts = sample.task, sample.instruction, sample.context
            encoded.append(EncodedSample(*texts, inputs, results, sample.mask, sample.source))
        return encoded

    def _latents(self, frames: Sequence[Frame]) -> list[LatentFrame]:
        """Frames of one size are encoded together."""
        import torch

        codec, device = self.components.codec, self.device
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, frame in enumerate(frames):
            by_size[frame.size].append(number)
        made: list[Any] = [None] * len(frames)
        for numbers in by_size.values():
            for start in range(0, len(numbers), self.batch_size):
                some = numbers[start : start + self.batch_size]
                pictures = torch.stack([to_tensor(frames[n]) for n in some]).to(device)
                for n, latent in zip(some, codec.encode(pictures).float().cpu().numpy(), strict=True):
                    frame = frames[n]
                    made[n] = LatentFrame(latent.astype(self.dtype), frame.role, frame.kind, frame.size)
        return made
