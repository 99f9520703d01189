"""What a model has made of the world so far, kept until the report is written: a run that was killed goes on there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unireal.evaluation.results import write_file, write_json

Answers = dict[str, list[list[np.ndarray]]]  # system -> result pictures, uint8 (H, W, 3), of each sample


@dataclass(frozen=True)
class Unfinished:
    """A folder with one file for each set of samples.

    settings: all that the pictures depend on; what was kept under other settings is thrown away.
    """

    folder: Path
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        path, settings = self.folder / "settings.json", json.loads(json.dumps(dict(self.settings)))
        if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != settings:
            self.remove()
            write_json(path, settings)

    def answers(self, name: str, make: Callable[[], Answers]) -> Answers:
        """What was kept under the name; else what is made now, which is kept if all pictures have one size."""
        path = self.folder / f"{name}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as kept:
                return {system: [list(outputs) for outputs in kept[system]] for system in kept.files}
        made = make()
        if len({picture.shape for found in made.values() for outputs in found for picture in outputs}) == 1:
            arrays = {system: np.stack([np.stack(outputs) for outputs in found]) for system, found in made.items()}
            write_file(path, lambda temporary: _save(temporary, arrays))
        return made

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # given a name, numpy would append .npz
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # names are the systems'
