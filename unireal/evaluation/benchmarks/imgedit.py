"""ImgEdit-Bench: the basic suite, understanding-grounding-editing (UGE), and edits in several turns.

The first two are scored by a judge (python -m unireal.evaluation judge). Of several turns people judge what came out,
since no judge of the authors' does it reliably.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unireal.evaluation.benchmarks import sources
from unireal.evaluation.benchmarks.base import Benchmark, edit_type
from unireal.evaluation.benchmarks.judged import BACKBONES, BESIDE
from unireal.evaluation.results import Item

SUITES = ("content_memory", "content_understand", "version_backtrace")  # kinds of edits in several turns


def read_basic(root: Path, split: str) -> list[Item]:
    """basic_edit.json or singleturn.json, {key: {id: path, prompt, edit_type}}, and the pictures of Benchmark.tar."""
    listed = _list(root, ("basic_edit.json", "singleturn.json"), ("Basic", "singleturn"), "ImgEdit's benchmark")
    items = []
    for key, entry in sources.read_entries(listed, ("id", "prompt", "edit_type")).items():
        path = _picture(root, listed, entry["id"], ("singleturn", "Basic", "images"))
        items.append(_item(key, entry, path, entry["edit_type"]))
    return items


def read_uge(root: Path, split: str) -> list[Item]:
    """UGE_edit.json, {key: {id: path, prompt}}, and the pictures of Benchmark.tar, there in "hard"."""
    listed = _list(root, ("UGE_edit.json",), ("UGE", "hard"), "ImgEdit's UGE suite")
    entries = sources.read_entries(listed, ("id", "prompt"))
    return [_item(key, entry, _picture(root, listed, entry["id"], ("hard", "UGE"))) for key, entry in entries.items()]


def read_multi(root: Path, split: str) -> list[Item]:
    """multiturn/<suite>/annotation.json of Benchmark.tar: a line {id, turn1, turn2, ...} per session; id is a picture.

    Every turn edits what came out of the turn before, and every turn is scored.
    """
    roots = (root, root / "multiturn", root / "Benchmark" / "multiturn")
    root = next((folder for folder in roots if (folder / SUITES[0]).is_dir()), root)
    items = []
    for suite in SUITES:
        path = sources.found(root, (f"{suite}/annotation.json",), "ImgEdit's multi-turn suite")
        for name, turns in _sessions(path):
            stem = Path(name).stem
            before = None
            for number, instruction in enumerate(turns, start=1):
                item = Item(
                    id=sources.safe_id(suite, stem, number),
                    task="edit",
                    instruction=instruction,
                    category=suite,
                    inputs=(sources.picture_file(path.parent / name),),
                    after=before,
                    aliases=(f"{suite}/{stem}_turn{number}",),
                )
                items.append(item)
                before = item.id
    return items


def _sessions(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Picture and instructions of every line. Raises ValueError for another form, or if a turn is left out."""
    for where, session in sources.read_json_lines(path):
        sources.need(session, (), where, ("id", "turn1"))
        found = sorted(key for key in session if key.startswith("turn"))
        expected = [f"turn{number}" for number in range(1, len(found) + 1)]
        if found != sorted(expected):
            raise ValueError(f"{where} has {', '.join(found)}; expected {', '.join(expected)}")
        if not all(isinstance(session[key], str) for key in ("id", *expected)):
            raise ValueError(f"{where} has an id or turn that is no text")
        yield session["id"], [session[key] for key in expected]


def _list(root: Path, names: Sequence[str], folders: Sequence[str], what: str) -> Path:
    places = ("", *(f"{folder}/" for folder in folders), *(f"Benchmark/{folder}/" for folder in folders))
    return sources.found(root, [f"{place}{name}" for name in names for place in places], what)


def _picture(root: Path, listed: Path, name: str, folders: Sequence[str]) -> Path:
    """Beside the list, or where Benchmark.tar has it."""
    roots = (listed.parent, root, *(root / f for f in folders), *(root / "Benchmark" / f for f in folders))
    return next((folder / name for folder in roots if (folder / name).is_file()), root / name)


def _item(key: str, entry: dict[str, Any], picture: Path, category: str = "") -> Item:
    return Item(
        id=sources.safe_id(key),
        task="edit",
        instruction=entry["prompt"],
        category=category,
        edit_type=edit_type("imgedit", category),
        inputs=(sources.picture_file(picture),),
        aliases=(key,),
    )


IMGEDIT, IMGEDIT_UGE, IMGEDIT_MULTI = (
    Benchmark(
        name=name,
        title=f"ImgEdit-Bench, {suite}",
        read=read,
        measures=BESIDE,
        backbones=BACKBONES,
        obtain=f"Benchmark.tar of sysuyy/ImgEdit on the hub, unpacked{further}",
        groups=groups,
    )
    for name, suite, read, further, groups in (
        ("imgedit", "basic suite", read_basic, ", with basic_edit.json of its repository inside", True),
        (
            "imgedit_uge",
            "understanding-grounding-editing suite",
            read_uge,
            ", with UGE_edit.json of its repository inside",
            False,
        ),
        ("imgedit_multi", "every one of several turns", read_multi, "", True),
    )
)
