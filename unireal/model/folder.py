"""Where models lie on disk, and whether a folder holds one that can be loaded safely."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

HUB_ID = r"\w[\w.-]*/[\w.-]+"
_PIECES, _PIECE = 16, 1 << 20  # of a file that is compared, and the bytes of each
_CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
SHIPPED = {"unireal-tiny": _CHECKPOINTS / "unireal-tiny"}
ADAPTER_CONFIG = "adapter_config.json"  # by which an adapter's folder is known
ADAPTERS = {"unireal-tiny-128": _CHECKPOINTS / "unireal-tiny-128"}  # LoRAs of them


def model_path(name: str | Path) -> Path:
    """Where a model or an adapter is if it is here: a shipped one goes by its name."""
    return (SHIPPED | ADAPTERS).get(str(name), Path(name))


def find_model(name: str | Path, what: str = "model", hub: bool = False, others: Iterable[str] = ()) -> Path:
    """The folder of a model, or with `hub` a hub id, which is no folder here.

    what: the argument that gives it; others: names that are good in its place as well. Raises ValueError for another.
    """
    path = model_path(name)
    if path.is_dir() or (hub and not path.exists() and re.fullmatch(HUB_ID, str(name))):
        return path
    known = [*SHIPPED, *others]
    close = difflib.get_close_matches(str(name), known, n=1)
    told = f"{what} {str(name)!r} is neither a folder{', a hub id,' if hub else ''} nor one of: {', '.join(known)}"
    raise ValueError(told + (f"; did you mean {close[0]!r}?" if close else ""))


def known_as(folder: Path) -> str:
    """What to call a model elsewhere: a shipped one's name, a hub id, or the folder's name; not where it lies."""
    if fetched := re.search(r"models--(.+?)--(.+?)/snapshots/", folder.as_posix()):
        return "/".join(fetched.groups())
    if shipped := [name for name, path in SHIPPED.items() if path == folder]:
        return shipped[0]
    parts = folder.resolve().parts
    return "/".join(parts[-2:] if parts[-1] == "model" else parts[-1:])  # what a run leaves is RUN/model


def check_new_folder(output: Path) -> None:
    """Before a model is written there. Raises ValueError if something is there already."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output {str(output)!r} exists already; give another --output")


def check_model_folder(path: Path) -> None:
    """Raises ValueError if a pipeline folder lacks files, or its weights are damaged or would have to be unpickled."""
    index = path / "model_index.json"
    if not index.is_file():
        inside = path / "model" / index.name
        remedy = f"give {str(inside.parent)!r}" if inside.is_file() else "give a folder saved by this project"
        if (path / ADAPTER_CONFIG).is_file():
            remedy = "it holds an adapter: give it as --lora"
        raise ValueError(f"model folder {str(path)!r} has no model_index.json; {remedy}")
    try:
        parts = {k: v for k, v in json.loads(index.read_text()).items() if isinstance(v, list) and v[:1] != [None]}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(index)!r} is not the index of a pipeline ({error}); save the model again") from error
    configs = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}
    for part in ("transformer", "text_encoder", *configs, *(["vae"] if "vae" in parts else [])):
        file = path / part / configs.get(part, "config.json")
        if not file.is_file():
            raise ValueError(f"model folder {str(file.parent)!r} lacks {file.name}; save the model again")
        if part not in configs:
            check_weights(file.parent)


def check_weights(folder: Path) -> None:
    """Raises ValueError if a model's folder holds no safetensors, pickled weights alone, or damaged ones."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = [f.name for f in folder.glob("*") if f.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
        found = f"it holds pickled weights ({pickled[0]})" if pickled else "*.safetensors is missing"
        raise ValueError(f"model folder {str(folder)!r} cannot be loaded: {found}; save it as safetensors")
    for file in weights:
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"weights {str(file)!r} are damaged ({error}); fetch them again") from error


def fingerprint(folder: Path, *patterns: str) -> str:
    """Tells models apart: a hash of the names, the sizes and up to 16 pieces of 1 MiB of the files that match."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        last = max(0, size - _PIECE)
        with file.open("rb") as opened:
            for start in sorted({last * piece // (_PIECES - 1) for piece in range(_PIECES)}):
                opened.seek(start)
                digest.update(opened.read(_PIECE))
    return digest.hexdigest()[:32]


def encoders_fingerprint(folder: Path) -> str:
    """Tells whether two models encode texts and pictures alike."""
    return fingerprint(folder, "tokenizer/*", "text_encoder/*", "vae/*")
