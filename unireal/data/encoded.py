"""Records whose pictures are latents and whose texts are features, written once by `python -m unireal.data precompute`,
so that training needs neither the text encoder nor the VAE.

    encoded.json          which model made them
    part-00000.parquet    the columns of unireal.data.records; a frame holds {latent, dtype, shape, size, role, kind}
    texts/part-*.parquet  every text once: {text, features, dtype, shape, mask, referring}

Axes: C, h, w latent channels, rows and columns; H, W pixels; L text tokens, D their width; B batch.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unireal.data.png import decode_png, encode_png
from unireal.data.records import ParquetSamples
from unireal.files import replacing
from unireal.prompts import join
from unireal.sample import Batch, Role, Sample
from unireal.transforms import changed_regions, role_indices

if TYPE_CHECKING:
    import pyarrow as pa

ABOUT = "encoded.json"
_CACHED_TEXTS = 64


@dataclass(frozen=True)
class LatentFrame:
    """A `Frame` whose picture is encoded: latent float (C, h, w), and the size (H, W) in pixels that it had."""

    latent: np.ndarray
    role: Role
    kind: str
    size: tuple[int, int]


@dataclass(frozen=True)
class EncodedText:
    """features: float (L, D); mask: bool (L,); referring: int (L,); as in unireal.model.text_encoder.TextFeatures."""

    features: np.ndarray
    mask: np.ndarray
    referring: np.ndarray


@dataclass(frozen=True)
class EncodedSample(Sample):
    """A sample of LatentFrames; `texts` knows the features of its prompt, also without context or instruction."""

    inputs: tuple[LatentFrame, ...] = ()  # type: ignore[assignment]  # in place of frames
    results: tuple[LatentFrame, ...] = ()  # type: ignore[assignment]
    texts: TextTable | dict[str, EncodedText] = field(default_factory=dict)


class EncodedSamples(ParquetSamples):
    """The samples of a folder that `precompute` wrote. Raises ValueError as ParquetSamples does."""

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self.about = json.loads((self.folder / ABOUT).read_text())
        self.texts = TextTable(self.folder / "texts")

    def __getitem__(self, number: int) -> EncodedSample:  # type: ignore[override]  # no slices
        row = self.row(number)
        mask = None if row["mask"] is None else decode_png(row["mask"], "the mask")[..., 0] > 127
        inputs, results = (tuple(map(_read_frame, row[name])) for name in ("inputs", "results"))
        texts = row["task"], row["instruction"], row["context"]
        return EncodedSample(*texts, inputs, results, mask, json.loads(row["source"]), self.texts)


class TextTable:
    """Features of texts, read when they are asked for."""

    def __init__(self, folder: Path):
        import pyarrow.parquet as pq

        self.places = {}  # text -> (file, row)
        for path in sorted(folder.glob("*.parquet")):
            for row, text in enumerate(pq.read_table(path, columns=["text"])["text"].to_pylist()):
                self.places[text] = path, row
        self._cache: OrderedDict[str, EncodedText] = OrderedDict()

    def __getitem__(self, text: str) -> EncodedText:
        """Raises ValueError for a text that was not encoded."""
        if text not in self.places:
            raise ValueError(f"no features of the text {text!r}; run python -m unireal.data precompute anew")
        if text not in self._cache:
            self._cache[text] = self._read(*self.places[text])
            if len(self._cache) > _CACHED_TEXTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(text)
        return self._cache[text]

    def _read(self, path: Path, row: int) -> EncodedText:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:  # one row per group: features are large
            (stored,) = file.read_row_group(row, use_threads=False).to_pylist()
        features = np.frombuffer(stored["features"], stored["dtype"]).reshape(stored["shape"])
        return EncodedText(features, np.array(stored["mask"], bool), np.array(stored["referring"], np.int64))


def collate_encoded(samples: Sequence[EncodedSample]) -> Batch:
    """Samples of one layout as a batch of latents with the features of its prompts. Shorter texts are padded."""
    prompts = [join(s.context, s.instruction) for s in samples]
    texts = [s.texts[prompt] for s, prompt in zip(samples, prompts, strict=True)]
    length = max(len(t.mask) for t in texts)

    def padded(arrays: list[np.ndarray]) -> torch.Tensor:
        rows = [np.pad(a, ((0, length - len(a)), *[(0, 0)] * (a.ndim - 1))) for a in arrays]
        return torch.from_numpy(np.stack(rows))

    def stacked(name: str) -> list[torch.Tensor]:
        frames = zip(*(getattr(s, name) for s in samples), strict=True)
        return [torch.from_numpy(np.stack([f.latent for f in same])).float() for same in frames]

    return Batch(
        inputs=stacked("inputs"),
        results=stacked("results"),
        roles=role_indices(samples),
        changed=changed_regions(samples),
        prompts=prompts,
        tasks=[s.task for s in samples],
        sources=[s.source for s in samples],
        text={
            "features": padded([t.features for t in texts]).float(),
            "mask": padded([t.mask for t in texts]),
            "referring": padded([t.referring for t in texts]),
        },
    )


def write_encoded(samples: Sequence[EncodedSample], path: Path) -> None:
    """Writes samples of LatentFrames as one Parquet file."""
    rows = [
        {
            "task": s.task,
            "instruction": s.instruction,
            "context": s.context,
            "inputs": [_frame_row(f) for f in s.inputs],
            "results": [_frame_row(f) for f in s.results],
            "mask": None if s.mask is None else encode_png(s.mask.astype(np.uint8) * np.uint8(255)),
            "source": json.dumps(s.source),
        }
        for s in samples
    ]
    _write(rows, path, _record_schema(), rows_per_group=8)


def write_texts(texts: Mapping[str, EncodedText], path: Path) -> None:
    """Writes the features of texts as one Parquet file."""
    rows = [
        {
            "text": text,
            "features": t.features.tobytes(),
            "dtype": str(t.features.dtype),
            "shape": list(t.features.shape),
            "mask": t.mask.tolist(),
            "referring": t.referring.tolist(),
        }
        for text, t in texts.items()
    ]
    _write(rows, path, _text_schema(), rows_per_group=1)


def _write(rows: Sequence[dict[str, Any]], path: Path, schema: pa.Schema, rows_per_group: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=schema)
    with replacing(path, ".unfinished") as unfinished:
        pq.write_table(table, unfinished, row_group_size=rows_per_group)


def _text_schema() -> pa.Schema:
    import pyarrow as pa

    text, numbers = pa.string(), pa.list_(pa.int32())
    columns = {"text": text, "features": pa.binary(), "dtype": text, "shape": numbers}
    return pa.schema(columns | {"mask": pa.list_(pa.bool_()), "referring": numbers})


def _record_schema() -> pa.Schema:
    import pyarrow as pa

    text, numbers = pa.string(), pa.list_(pa.int32())
    latent = {"latent": pa.binary(), "dtype": text, "shape": numbers, "size": numbers, "role": text, "kind": text}
    frames = pa.list_(pa.struct(latent))
    picture = pa.struct({"bytes": pa.binary(), "path": text})
    columns = {"task": text, "instruction": text, "context": text, "inputs": frames, "results": frames}
    return pa.schema(columns | {"mask": picture, "source": text})


def _frame_row(frame: LatentFrame) -> dict[str, Any]:
    stored = {"latent": frame.latent.tobytes(), "dtype": str(frame.latent.dtype), "shape": list(frame.latent.shape)}
    return stored | {"size": list(frame.size), "role": frame.role.value, "kind": frame.kind}


def _read_frame(stored: Mapping[str, Any]) -> LatentFrame:
    latent = np.frombuffer(stored["latent"], stored["dtype"]).reshape(stored["shape"])
    return LatentFrame(latent, Role(stored["role"]), stored["kind"], tuple(stored["size"]))
