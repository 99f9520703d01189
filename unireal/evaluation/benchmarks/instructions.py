"""Instruction editing with captions: Emu Edit's test set and MagicBrush's (UniReal, Table 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unireal.evaluation.benchmarks import sources
from unireal.evaluation.benchmarks.base import CLIP_B, CLIP_L, DINO_S16, DINOV2, Benchmark, MeasureTable, edit_type
from unireal.evaluation.measures import fidelity, similarity, structure
from unireal.evaluation.results import Item, Load

EQUAL, PLACEHOLDER = "equal captions", "placeholder caption"
_PLACEHOLDERS = ("a train station in city",)  # caption of many unrelated pictures of Emu's test set


def caption_faults(source: str, target: str) -> tuple[str, ...]:
    """What is known to be wrong with a pair of captions."""
    pair = [text.strip().rstrip(".").lower() for text in (source, target)]
    equal = (EQUAL,) if pair[0] == pair[1] else ()
    return equal + ((PLACEHOLDER,) if set(pair) & set(_PLACEHOLDERS) else ())


def _faults(texts: Mapping[str, str]) -> tuple[str, ...]:
    """What is known to be wrong with an item's captions, if it has both."""
    return caption_faults(texts["source"], texts["target"]) if {"source", "target"} <= texts.keys() else ()


def read_emu(root: Path, split: str) -> list[Item]:
    """Parquet with idx, image, instruction, task, input_caption, output_caption; no truth.

    The data set of Emu Edit's own outputs, whose splits bear each other's names, is refused.
    """
    table = sources.table(root, split)
    if "edited_image" in table.columns:
        raise ValueError(
            f"{root} holds Emu Edit's own outputs (edited_image), whose splits bear each other's names, so that "
            f"{split!r} would be other items; give facebook/emu_edit_test_set"
        )
    items = []
    for number, row in table.rows(("image",), ("instruction", "task"), ("input_caption", "output_caption")):
        captions = {"source": row["input_caption"], "target": row["output_caption"]}
        captions = {name: text for name, text in captions.items() if text}
        item = Item(
            id=f"{number:05d}",
            task="edit",
            instruction=row["instruction"],
            category=row["task"],
            edit_type=edit_type("emu_edit", row["task"]),
            inputs=(table.picture(number, "image"),),
            texts=captions,
            faults=_faults(captions),
            aliases=(str(row["idx"]),) if "idx" in row else (),
        )
        items.append(item)
    return items


def read_magicbrush(root: Path, split: str) -> list[Item]:
    """Every turn on its own, from the true picture before it: the paper's single-turn setting."""
    return [item for turns in _sessions(root, split) for item in turns]


def read_magicbrush_multi(root: Path, split: str) -> list[Item]:
    """Turns on top of each other, of which the last is scored: the paper's multi-turn setting."""
    items = []
    for turns in _sessions(root, split):
        for number, turn in enumerate(turns, start=1):
            before = turns[number - 2] if number > 1 else None
            session = turn.id.rsplit("_", 1)[0]
            names = (f"{session}/{session}_1",) if before is None else (f"{session}/{session}_iter_{number}",)
            texts = {name: text for name, text in turn.texts.items() if name != "source"}
            if "source" in turns[0].texts:
                texts["source"] = turns[0].texts["source"]  # the picture that the first turn starts from
            changes: dict[str, Any] = {
                "inputs": turns[0].inputs,
                "after": before.id if before else None,
                "scored": number == len(turns),
                "aliases": names,
                "texts": texts,
                "faults": _faults(texts),
            }
            items.append(Item(**_fields(turn) | changes))
    return items


def _sessions(root: Path, split: str) -> Iterator[list[Item]]:
    """The turns of each session of the unpacked test set, or of the hub's Parquet files (dev)."""
    if (root / split / "images").is_dir():
        root = root / split
    if (root / "images").is_dir():
        if split != "test" and root.name != split:
            raise ValueError(f"{root} is the test set, unpacked; give osunlp/MagicBrush for --split {split}")
        yield from _unpacked(root)
    else:
        yield from _parquet(root, split)


def _unpacked(root: Path) -> Iterator[list[Item]]:
    """images/<id>/..., edit_sessions.json, global_descriptions.json, local_descriptions.json."""
    path = sources.found(root, ("edit_sessions.json",), "MagicBrush's test set")
    sessions = sources.read_objects(path, of=list)
    whole, local = (_captions(root, kind) for kind in ("global", "local"))
    for session, turns in sessions.items():
        folder = root / "images" / session
        for turn in turns:
            texts = ("input", "output", "instruction", *(["mask"] if turn.get("mask") else []))
            sources.need(turn, texts, f"{path}, session {session},")
        yield [
            _turn(
                session,
                number,
                turn["instruction"],
                _pictures(
                    sources.picture_file(folder / turn["input"]),
                    sources.picture_file(folder / turn["output"]),
                    (folder / turn["mask"]).read_bytes if turn.get("mask") else None,
                ),
                {
                    "source": whole.get(session, {}).get(turn["input"]),
                    "target": whole.get(session, {}).get(turn["output"]),
                    "local": local.get(session, {}).get(turn["output"]),
                },
            )
            for number, turn in enumerate(turns, start=1)
        ]


def _captions(root: Path, kind: str) -> dict[str, dict[str, str]]:
    names = (f"{kind}_descriptions.json", f"{kind}_captions.json", f"{kind}_description.json")
    path = next((root / name for name in names if (root / name).exists()), None)
    return {} if path is None else sources.read_objects(path)


def _parquet(root: Path, split: str) -> Iterator[list[Item]]:
    table = sources.table(root, split)
    masked = "mask_img" in table.columns
    sessions: dict[str, list[Item]] = {}
    columns = ("img_id", "turn_index")
    for row_number, row in table.rows(("source_img", "target_img"), ("instruction",), columns, ("mask_img",)):
        pictures = _pictures(
            table.picture(row_number, "source_img"),
            table.picture(row_number, "target_img"),
            table.file(row_number, "mask_img") if masked else None,
        )
        session, number = str(row["img_id"]), int(row["turn_index"])
        sessions.setdefault(session, []).append(_turn(session, number, row["instruction"], pictures, {}))
    yield from (sorted(turns, key=lambda turn: int(turn.id.rsplit("_", 1)[1])) for turns in sessions.values())


def _pictures(source: Load, truth: Load, mask: Callable[[], bytes] | None) -> dict[str, Any]:
    """Fields of an item. mask: reads the file that marks what is edited."""
    found: dict[str, Any] = {"inputs": (source,), "truth": truth}
    return found if mask is None else found | {"arrays": {"mask": sources.marked(mask, source, "the mask of the edit")}}


def _turn(
    session: str, number: int, instruction: str, pictures: dict[str, Any], captions: dict[str, str | None]
) -> Item:
    texts = {name: text for name, text in captions.items() if text}
    alias = f"{session}/{session}_1" if number == 1 else f"{session}/{session}_inde_{number}"
    return Item(
        id=sources.safe_id(session, number),
        task="edit",
        instruction=instruction,
        texts=texts,
        faults=_faults(texts),
        aliases=(alias,),
        **pictures,
    )


def _fields(item: Item) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


_EMU_MEASURES: MeasureTable = {
    "CLIPdir": lambda networks: [similarity.directional(networks.clip("direction"))],
    "CLIPim": lambda networks: [similarity.clip_image(networks.clip(), "source", "CLIPim")],
    "CLIPout": lambda networks: [similarity.clip_text(networks.clip(), "target", "CLIPout")],
    "L1": lambda networks: [fidelity.distances("source")],
    "DINO": lambda networks: [similarity.dino(networks.dino(), "source")],
}
_AGAINST_SOURCE: MeasureTable = {
    "CLIPdir": lambda networks: [similarity.directional(networks.clip("direction"))],
    "CLIPim": lambda networks: [similarity.clip_image(networks.clip(), "source", "CLIPim")],
    "CLIPout": lambda networks: [similarity.clip_text(networks.clip(), "target", "CLIPout")],
    "L1 source": lambda networks: [fidelity.distances("source", " source")],
    "DINO source": lambda networks: [similarity.dino(networks.dino(), "source", "DINO source")],
}
_MAGICBRUSH_MEASURES: MeasureTable = {
    "L1": lambda networks: [fidelity.distances("truth")],
    "CLIP-I": lambda networks: [similarity.clip_image(networks.clip(), "truth")],
    "DINO": lambda networks: [similarity.dino(networks.dino(), "truth")],
    "CLIP-T": lambda networks: [similarity.clip_text(networks.clip(), "local")],
    **_AGAINST_SOURCE,
    "edit region": lambda networks: [structure.Foreground(networks.dino("dinov2"), "truth", "edit region")],
}
_BACKBONES = {"clip": CLIP_B, "direction": CLIP_L, "dino": DINO_S16}

EMU_EDIT = Benchmark(
    name="emu_edit",
    title="Emu Edit test set",
    read=read_emu,
    measures=_EMU_MEASURES,
    backbones=_BACKBONES,
    splits=("test", "validation"),
    hub="facebook/emu_edit_test_set",
    files=("*.parquet", "**/*.parquet"),
    obtain="facebook/emu_edit_test_set on the hub, with its Parquet files",
    faults=(EQUAL, PLACEHOLDER),
)
MAGICBRUSH, MAGICBRUSH_MULTI = (
    Benchmark(
        name=name,
        title=f"MagicBrush, {setting}",
        read=read,
        measures=_MAGICBRUSH_MEASURES,
        backbones=_BACKBONES | {"dinov2": DINOV2},
        splits=("test", "dev"),
        files=("*dev*.parquet",),  # without those for training
        obtain="the test set's zip that the authors link, unpacked: images/, edit_sessions.json and the captions;"
        " or osunlp/MagicBrush with --split dev",
        faults=(EQUAL,),
        groups=False,
    )
    for name, setting, read in (
        ("magicbrush", "single turn", read_magicbrush),
        ("magicbrush_multi", "last of several turns", read_magicbrush_multi),
    )
)
