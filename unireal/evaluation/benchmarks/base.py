"""What a benchmark is: how its items are read, what is measured, and by which networks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from unireal.evaluation.measures.base import Measure
from unireal.evaluation.results import Item
from unireal.names import lookup
from unireal.notices import one_line
from unireal.taxonomy import CATEGORIES

CLIP_L, CLIP_B = "openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32"
DINO_S16, DINO_B8, DINOV2 = "facebook/dino-vits16", "facebook/dino-vitb8", "facebook/dinov2-base"
PICKSCORE = "yuvalkirstain/PickScore_v1"


@dataclass
class Networks:
    """The networks of a run, loaded when a measure asks for them.

    names: role -> hub id or folder ("clip", "dino", ...; "lpips" is "squeeze", "alex" or "vgg").
    """

    names: Mapping[str, str]
    device: str = "cpu"
    _loaded: dict[tuple[str, str], Any] = field(default_factory=dict)

    def clip(self, role: str = "clip") -> Any:
        from unireal.evaluation.backbones import Clip

        return self._get("clip", role, lambda name: Clip.load(name, self.device))

    def dino(self, role: str = "dino") -> Any:
        from unireal.evaluation.backbones import Dino

        return self._get("dino", role, lambda name: Dino.load(name, self.device))

    def lpips(self) -> Any:
        from unireal.evaluation.measures.fidelity import lpips_network

        return self._get("lpips", "lpips", lambda name: lpips_network(name.removesuffix("-random"), "-" not in name))

    def _get(self, kind: str, role: str, load: Callable[[str], Any]) -> Any:
        name = lookup(self.names, role, "backbone role")
        if (kind, name) not in self._loaded:
            self._loaded[kind, name] = load(name)
        return self._loaded[kind, name]


MeasureTable = Mapping[str, Callable[[Networks], Sequence[Measure]]]


@dataclass(frozen=True)
class Benchmark:
    """A public benchmark: how its items are read and what is measured on them.

    read:      (folder of the data set, split) to its items. Raises ValueError for a folder of another form.
    measures:  name, for --only and --skip, -> networks to measures.
    backbones: role -> hub id, as the data set's reference script has it.
    splits:    the first is the default. hub: data set on the hub that is fetched if no folder is given.
    files:     patterns of what is fetched of a data set on the hub; empty if none there is in a form that is read.
    obtain:    how to get it, for the error message.
    faults:    what is known to be wrong with some items; a second set of rows leaves those out.
    groups:    whether the summary has rows by category and their mean.
    """

    name: str
    title: str
    read: Callable[[Path, str], list[Item]]
    measures: MeasureTable
    backbones: Mapping[str, str] = field(default_factory=dict)
    splits: tuple[str, ...] = ("test",)
    hub: str | None = None
    files: tuple[str, ...] = ()
    obtain: str = ""
    faults: tuple[str, ...] = ()
    groups: bool = True

    def items(self, data: Path | str | None, split: str | None = None) -> list[Item]:
        """All items of a folder or hub data set; `chosen` takes some of them.

        Raises ValueError if there is no such folder or split, or two items have one id.
        """
        split = self.splits[0] if split is None else split
        if split not in self.splits:
            lookup(dict.fromkeys(self.splits), split, f"split of {self.name}")
        items = self.read(self.folder(data), split)
        if not items:
            raise ValueError(f"{self.name} has no items in {data}; {self.obtain}")
        repeated = [name for name, count in Counter(item.id for item in items).items() if count > 1]
        if repeated:
            raise ValueError(
                f"{self.name} has {len(repeated)} ids of more than one item, such as {repeated[0]!r}; an item needs an "
                "id of its own, of letters, digits, '.', '_' and '-'"
            )
        return items

    def folder(self, data: Path | str | None) -> Path:
        """The data set's folder, fetched from the hub if `data` is a hub id or None. Raises ValueError without one.

        A hub id is only taken where it is known which files are needed: some data sets have terabytes of others.
        """
        if data is not None and Path(data).is_dir():
            return Path(data)
        name = self.hub if data is None else str(data)
        if name is None or not self.files or name.count("/") != 1 or Path(name).is_absolute():
            given = "no data set was given" if data is None else f"{str(data)!r} is not a folder"
            raise ValueError(f"{given}; give --data DIR ({self.obtain})")
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(self.files)))
        except Exception as error:  # the hub's client raises errors of many kinds
            reason = one_line(error, 160)
            raise ValueError(
                f"data set {name!r} cannot be fetched ({reason}); give --data DIR ({self.obtain})"
            ) from error


@dataclass(frozen=True)
class Chosen:
    """Measures by name, some of them."""

    benchmark: Benchmark
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.only, *self.skip):
            lookup(self.benchmark.measures, name, f"metric of {self.benchmark.name}")

    @cached_property
    def names(self) -> list[str]:
        return [n for n in self.benchmark.measures if (not self.only or n in self.only) and n not in self.skip]

    def build(self, networks: Networks) -> list[Measure]:
        """Raises ValueError if a network cannot be loaded."""
        return [measure for name in self.names for measure in self.benchmark.measures[name](networks)]


def chosen(items: list[Item], limit: int | None) -> list[Item]:
    """`limit` of the items that are scored, evenly spaced (data sets are sorted by category), and those before them."""
    if limit is None:
        return items
    if limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    scored = [item for item in items if item.scored]
    kept = {scored[i * len(scored) // min(limit, len(scored))].id for i in range(min(limit, len(scored)))}
    by_id = {item.id: item for item in items}
    for item_id in list(kept):
        before = by_id[item_id].after
        while before is not None:
            kept.add(before)
            before = by_id[before].after
    return [item for item in items if item.id in kept]


def identity(items: Sequence[Item]) -> str:
    """Tells whether a data set asks the same as before; its pictures are not read for that."""
    asked = json.dumps([(item.id, item.instruction, dict(item.texts)) for item in items])
    return hashlib.sha256(asked.encode()).hexdigest()[:12]


def edit_type(benchmark: str, category: str) -> str | None:
    """As in unireal.taxonomy, but None for a category that it does not know: data sets grow."""
    return CATEGORIES.get(benchmark, {}).get(category)
