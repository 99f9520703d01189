"""Video editing: TGVE (LOVEU 2023) and videos in Ditto's format, scored by CLIP-T and CLIP-F."""

from __future__ import annotations

import csv
import re
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from unireal.evaluation.benchmarks import sources
from unireal.evaluation.benchmarks.base import CLIP_L, PICKSCORE, Benchmark, Networks, edit_type
from unireal.evaluation.measures import frames, similarity
from unireal.evaluation.measures.base import Measure
from unireal.evaluation.results import Item, Load
from unireal.video.files import VideoFile
from unireal.video.sound import open_media

SHEETS = ("LOVEU-TGVE-2023_Dataset.csv", "LOVEU-TGVE_2023_data.xlsx")
KINDS = ("style", "object", "background", "multiple")
PARTS = ("DAVIS_480p", "youtube_480p", "videvo_480p")
SIZE = 480


def read_tgve(root: Path, split: str) -> list[Item]:
    """The sheet, and <part>/480p_frames/<video>/*.jpg or <part>/480p_videos/<video>.mp4."""
    sheet = sources.found(root, SHEETS, "LOVEU-TGVE 2023")
    items = []
    for row in _rows(sheet):
        sources.need(row, ("Video name", "Our GT caption"), sheet)
        name, caption = row["Video name"].strip(), row["Our GT caption"].strip()
        if not caption:
            continue  # the title of a part of the sheet
        part = next((p for p in PARTS if _clip_path(root / p, name)), None)
        if part is None:
            raise ValueError(f"video {name!r} of the sheet is in none of {', '.join(PARTS)} of {root}")
        video = tuple(video_frames(_clip_path(root / part, name) or root))
        for kind in KINDS:
            target = row[_column(row, kind)].strip()
            item = Item(
                id=sources.safe_id(name, kind),
                task="video_edit",
                instruction=target,
                category=kind,
                edit_type=edit_type("tgve", kind),
                video=video,
                texts={"source": caption, "target": target},
                aliases=(f"{part}/{name}/{kind}",),
            )
            items.append(item)
    return items


def read_ditto(root: Path, split: str) -> list[Item]:
    """A CSV file as in Ditto-1M's csvs_for_DiffSynth: video (target), prompt (instruction), vace_video (source)."""
    path = next(iter(sorted(root.glob("*.csv"))), None)
    if path is None:
        raise ValueError(f"{root} holds no CSV file with the columns prompt and vace_video, as Ditto-1M has them")
    items = []
    for number, row in enumerate(_rows(path)):
        sources.need(row, ("prompt", "vace_video"), path)
        prompt = row["prompt"].strip()
        target = (row.get("caption") or prompt).strip()
        item = Item(
            id=f"{number:04d}",
            task="video_edit",
            instruction=prompt,
            video=tuple(video_frames(root / row["vace_video"])),
            texts={"target": target},
            aliases=(str(Path(row.get("video") or row["vace_video"]).with_suffix("")),),
        )
        items.append(item)
    return items


def video_frames(path: Path) -> list[Load]:
    """The frames, uint8 (H, W, 3), of a folder of pictures, by the numbers in their names, or of a video file, which is
    decoded when needed."""
    if path.is_dir():
        files = sorted((p for p in path.iterdir() if p.suffix.lower() in sources.SUFFIXES), key=_numbered)
        return [sources.picture_file(file, "frame") for file in files]
    if not path.is_file():
        raise ValueError(f"{path} is neither a video nor a folder of frames")
    return [partial(_frame, path, number) for number in range(_length(path))]


def _numbered(path: Path) -> list[str | int]:
    """A key by which frame_2 comes before frame_10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", path.name))]


def _frame(path: Path, number: int) -> np.ndarray:
    frames = _decoded(path)
    if number >= len(frames):
        told = f"ends after {len(frames)} frames, but its header tells of more"
        raise ValueError(f"video {str(path)!r} {told}; give an intact file")
    return frames[number]


@lru_cache(maxsize=2)
def _decoded(path: Path) -> list[np.ndarray]:
    return list(VideoFile(path))


def _length(path: Path) -> int:
    """Number of frames, without decoding them where the file has it."""
    import av

    try:
        with open_media(path) as container:
            stream = container.streams.best("video")
            count = 0 if stream is None else stream.frames
            if count and "mov" in container.format.name:  # its edit list may show some alone, as where phones trim
                count = sum(bool(packet.size) and not packet.is_discard for packet in container.demux(stream))
    except (av.FFmpegError, ValueError):
        count = 0
    return count or len(_decoded(path))  # which tells what is wrong with the file


def _clip_path(part: Path, name: str) -> Path | None:
    """Frames rather than the video: their number is what the reference script counts."""
    for path in (part / "480p_frames" / name, part / "480p_videos" / f"{name}.mp4"):
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            return path
    return None


def _rows(path: Path) -> list[dict[str, str]]:
    """Of a CSV or Excel file; the first line names the columns."""
    if path.suffix == ".xlsx":
        head, *lines = sources.sheet(path) or [[]]
        return [dict(zip(head, line, strict=False)) for line in lines]
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]


def _column(row: dict[str, str], kind: str) -> str:
    column = next((name for name in row if name.lower().startswith(kind) and "caption" in name.lower()), None)
    if column is None:
        raise ValueError(f"the sheet has the columns {', '.join(row)}; expected one for {kind!r} captions")
    return column


def _pick(networks: Networks) -> list[Measure]:
    return [similarity.pick_score(networks.clip("pick"), "target", SIZE)]


TGVE = Benchmark(
    name="tgve",
    title="TGVE (LOVEU 2023)",
    read=read_tgve,
    measures={"CLIP": lambda networks: frames.video_measures(networks.clip(), "target", SIZE), "PickScore": _pick},
    backbones={"clip": CLIP_L, "pick": PICKSCORE},
    obtain="the data of showlab/loveu-tgve-2023: the sheet as CSV and the three folders of videos",
)
DITTO = Benchmark(
    name="ditto",
    title="Videos in Ditto's format",
    read=read_ditto,
    measures={"CLIP": lambda networks: frames.video_measures(networks.clip(), "target", None)},
    backbones={"clip": CLIP_L},
    obtain="videos and a CSV file of the columns prompt and vace_video (Ditto's own test set is not public)",
    groups=False,
)
