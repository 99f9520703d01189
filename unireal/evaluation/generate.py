"""Making the pictures of a run: one file per output, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unireal.evaluation.benchmarks.sources import find_picture, picture_file
from unireal.evaluation.benchmarks.videos import video_frames
from unireal.evaluation.models import Model
from unireal.evaluation.results import Item, Load, RunFolder, check_texts, save_picture, write_file, write_json
from unireal.notices import one_line
from unireal.transforms import load_image

FAILURES = "failures.json"
OF_SCORES = ("limit", "versions")  # what settings.json holds besides how the pictures were made
VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".avi", ".mkv", ".gif")


def generate(items: Sequence[Item], model: Model, run: RunFolder, settings: dict[str, Any], seed: int = 0) -> None:
    """Writes images/<id>_<k>.png of every item that has none yet, and failures.json: item -> why there is no picture.

    The seed of an item depends on its id alone, so that neither a limit nor a restart changes a picture.
    Raises ValueError if the folder was made with other settings, or if nothing at all could be made; then nothing is
    written.
    """
    settings = settings | model.settings | {"seed": seed}
    check_settings(run, settings)
    failures: dict[str, str] = {}
    for item in tqdm([item for item in items if not complete(item, run)], desc="generating", unit="item"):
        try:
            check_texts(item.instruction)
            outputs = model(item, _inputs(item, run), seed + zlib.crc32(item.id.encode()) % 2**31)
            if len(outputs) != item.frames:
                raise ValueError(f"{item.frames} pictures were asked for, {len(outputs)} came")
        except (ValueError, OSError, RuntimeError) as error:
            failures[item.id] = one_line(error)
            continue
        keep_settings(run, settings)
        for k in reversed(range(len(outputs))):  # the first frame last: it says that all are there
            save_picture(run.image(item.id, k), outputs[k])
    if failures and not any(complete(item, run) for item in items):
        first = next(iter(failures.items()))
        raise ValueError(f"no picture could be made; item {first[0]}: {first[1]}")
    write_json(run.path / FAILURES, failures)


def adopt(items: Sequence[Item], folder: Path, run: RunFolder, settings: dict[str, Any]) -> None:
    """Copies pictures that something else made into the run, anew each time: <id>_0.png, <id>.png or the names that the
    data set's own scripts use; for a video a folder of frames or a video file; .npy and 16-bit PNG for depth stay so.

    What is missing is a failure of that item. Raises ValueError if the folder has none of them, or is the run's own;
    then nothing is written.
    """
    if folder.resolve() == (run.path / "images").resolve():
        raise ValueError(f"{folder} is where the run keeps its pictures; score them with --score-only")
    settings = settings | {"images": str(folder)}
    check_settings(run, settings)
    if not any(_given(item, folder) for item in items):
        names = ", ".join(_names(items[0]))
        raise ValueError(f"{folder} has no picture of any item; for {items[0].id!r} one of {names} is expected")
    keep_settings(run, settings)
    failures: dict[str, str] = {}
    for item in items:
        _forget(item, run)
        try:
            _adopt_one(item, folder, run)
        except ValueError as error:
            failures[item.id] = str(error)
    write_json(run.path / FAILURES, failures)
    if not any(complete(item, run) for item in items):
        first = next(iter(failures.items()))
        raise ValueError(f"no picture of {folder} can be used; item {first[0]}: {first[1]}")


def complete(item: Item, run: RunFolder) -> bool:
    return run.image(item.id).exists() or run.image(item.id).with_suffix(".npy").exists()


def check_settings(run: RunFolder, settings: dict[str, Any], some: bool = False) -> None:
    """Raises ValueError if the folder holds another run: also for a setting that only one of both was given.

    some: these are not all of its settings, as where pictures are only scored.
    """
    known = run.settings()
    others, absent = () if some else (key for key in known if key not in OF_SCORES), object()
    keys = dict.fromkeys((*settings, *others))
    different = [key for key in keys if known.get(key, absent) != settings.get(key, absent)]
    if known and different:
        what = ", ".join(f"{key} {known.get(key)!r}" for key in different)
        raise ValueError(f"{run.path} holds a run of other settings ({what}); give another --output")


def keep_settings(run: RunFolder, settings: dict[str, Any]) -> None:
    """Before the first picture of a run is written."""
    if not run.settings():
        run.write_settings(settings)


def _inputs(item: Item, run: RunFolder) -> list[np.ndarray]:
    if item.video:
        return [load() for load in item.video]
    if item.after is None:
        return [load() for load in item.inputs]
    path = run.image(item.after)
    if not path.exists():
        raise ValueError(f"item {item.after}, on which it builds, has no picture")
    return [load_image(path), *(load() for load in item.inputs[1:])]


def _forget(item: Item, run: RunFolder) -> None:
    """Removes what was adopted before: the folder may hold other pictures by now."""
    run.image(item.id).with_suffix(".npy").unlink(missing_ok=True)
    k = 0
    while (path := run.image(item.id, k)).exists():
        path.unlink()
        k += 1


def _given(item: Item, folder: Path) -> bool:
    """Whether the folder has something for the item."""
    try:
        return bool(_frames(item, folder)) if item.video else _find(folder, _names(item)) is not None
    except ValueError:
        return False


def _adopt_one(item: Item, folder: Path, run: RunFolder) -> None:
    if item.video:
        frames = _frames(item, folder)
        for k in reversed(range(len(frames))):
            save_picture(run.image(item.id, k), frames[k]())
        return
    source = _find(folder, _names(item))
    if source is None:
        raise ValueError(f"{folder} has no picture of it; one of {', '.join(_names(item))} is expected")
    _copy(source, run.image(item.id), deep="depth" in item.arrays)


def _names(item: Item) -> tuple[str, ...]:
    """Where its picture may be, without suffix."""
    return f"{item.id}_0", item.id, *item.aliases


def _find(folder: Path, names: Sequence[str]) -> Path | None:
    for name in names:
        array = folder / f"{name}.npy"
        path = array if array.is_file() else find_picture(folder / name)
        if path is not None:
            return path
    return None


def _frames(item: Item, folder: Path) -> Sequence[Load]:
    """Numbered pictures, or what a folder or file of one of the item's names holds; a picture for a single frame."""
    single = _find(folder, _names(item)) if item.frames == 1 else None
    numbered = [single] if single else [find_picture(folder / f"{item.id}_{k}") for k in range(item.frames)]
    if all(numbered):
        return [picture_file(path) for path in numbered if path]
    names = [folder / name for name in (*item.aliases, item.id)]
    places = [place for name in names for place in (name, *(name.with_name(name.name + s) for s in VIDEO_SUFFIXES))]
    found = next((place for place in places if place.is_dir() or (place.suffix and place.is_file())), None)
    frames = [] if found is None else video_frames(found)
    if not frames:
        raise ValueError(f"{folder} has no frames of it; {', '.join(item.aliases)} is expected, a folder or .mp4")
    return frames


def _copy(source: Path, target: Path, deep: bool) -> None:
    """As a PNG of 8 bits without transparency, which is the same for metrics, judges and the page; deep: PNG and .npy
    byte by byte."""
    if deep and source.suffix.lower() in (".png", ".npy"):
        write_file(target.with_suffix(source.suffix.lower()), lambda temporary: shutil.copyfile(source, temporary))
    else:
        save_picture(target, load_image(source))
