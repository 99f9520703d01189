"""Virtual try-on: VITON-HD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_builders.frames import asset, canvas, erase, result
from data_builders.public_sets.items import Item, inside, load_picture, load_region
from unireal.sample import Sample
from unireal.tasks import TASKS

_INSTRUCTION = "Dress the person of IMG1 in the garment of IMG2."
_AGNOSTIC = ("agnostic-v3.2", "agnostic")  # the person without the garment, in the newer and the older archive


def viton_hd(folder: Path) -> Iterator[Item]:
    """VITON-HD: train/image, train/cloth, and train/agnostic-mask or train/agnostic-v3.2 (older: train/agnostic).

    The garment of a person has the person's file name, 00000_00.jpg; train_pairs.txt, where it is there, lists the
    persons in its first column. (The second column of test_pairs.txt names another garment, for which there is no true
    picture, so test pairs are not read.)
    The canvas is the person with the region of agnostic-mask/00000_00_mask.png grey; without that folder it is the
    picture of agnostic-v3.2, and what changes is where it differs from the person.
    """
    train = folder / "train" if (folder / "train").is_dir() else folder
    agnostic = next((name for name in ("agnostic-mask", *_AGNOSTIC) if (train / name).is_dir()), None)
    missing = [name for name in ("image", "cloth") if not (train / name).is_dir()]
    if missing or agnostic is None:
        lacks = ", ".join([*missing, *([] if agnostic else ["agnostic-mask (or agnostic-v3.2)"])])
        raise ValueError(f"{str(train)!r} has no folder {lacks}; give the folder of VITON-HD that holds train/")
    pairs = next(
        (path for path in (folder / "train_pairs.txt", train.parent / "train_pairs.txt") if path.is_file()), None
    )
    if pairs is None:
        names = sorted(path.name for path in (train / "image").glob("*.jpg"))
    else:
        names = [line.split()[0] for line in pairs.read_text(encoding="utf-8").splitlines() if line.strip()]
    for name in names:
        yield Item(f"image/{name}", partial(_load, train, agnostic, name))


def _load(train: Path, agnostic: str, name: str) -> Sequence[Sample]:
    person = load_picture(inside(train / "image", name), "person")
    garment = load_picture(inside(train / "cloth", name), "garment")
    stem = Path(name).stem
    if agnostic == "agnostic-mask":
        mask = load_region(inside(train / agnostic, f"{stem}_mask.png"), "agnostic mask", person)
        shown = erase(person, mask)
    else:
        shown = load_picture(inside(train / agnostic, name), "agnostic picture")
        if shown.shape != person.shape:
            raise ValueError(f"agnostic picture and person differ in size, {shown.shape[:2]} and {person.shape[:2]}")
        # JPEG changes pixels a little everywhere.
        mask = (np.abs(shown.astype(int) - person) > 32).any(axis=2)
    inputs, context = (canvas(shown), asset(garment)), TASKS["tryon"].context
    return [Sample("tryon", _INSTRUCTION, context, inputs, (result(person),), mask, {"image": name})]
