"""The command line of the builders: python -m data_builders BUILDER --videos PATH... --output DIR

A folder holds one build: build.json its settings, clips.json what curation made of the videos, *.parquet the records,
failures.jsonl what came to nothing and why. The same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from data_builders.annotators.choose import PARTS, check_specs, load_annotators
from data_builders.annotators.placing import GATES, Devices, limited, parse_concurrency
from data_builders.annotators.protocols import Annotators
from data_builders.build import build
from data_builders.builders import generators
from data_builders.builders.base import VideoBuilder, settings
from data_builders.builders.sources import CURATIONS, FOUND, Named, clips_of, named_by
from data_builders.engine import Placing, add_placing
from data_builders.files import UNFINISHED, add_shards_folder, is_empty, only_run, write_text
from data_builders.shards import Failure, Job, Outcome, holds_records, plan
from data_builders.workers import MARKS

_OURS = ("*.parquet", UNFINISHED, MARKS, GATES, *FOUND, "build.json", "failures.jsonl")
_LISTED = 10  # reasons and failures that are printed


def add_arguments(builder: VideoBuilder, parser: argparse.ArgumentParser) -> None:
    """Declares what a builder takes: videos, how they are read, its own options, its annotators, and the engine's."""
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument("--videos", metavar="PATH", type=Path, nargs="+", help="video files, or folders with some")
    sources.add_argument("--clips", metavar="PATH", type=Path, help="what python -m data_builders clips has made")
    add_shards_folder(parser)
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="another seed, other records (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the build in DIR")
    reading = parser.add_argument_group("clips of --videos")
    text = "shots: whole shots; ditto: Ditto's thresholds; none: each video is one clip (default: shots)"
    reading.add_argument("--curation", choices=CURATIONS, help=text)
    text = f"frames a second that are read, at most those of the clip (default: {builder.fps or 'all'})"
    reading.add_argument("--fps", metavar="F", type=_number, help=text)
    text = f"frames of a clip at most (default: {builder.frames})"
    reading.add_argument("--frames", metavar="N", type=int, help=text)
    own = parser.add_argument_group("this builder")
    for option in fields(builder.options):
        text = f"{option.metadata['help']} (default: {_shown(option.default)})"
        kind, metavar = _KINDS[type(option.default)]
        choices = option.metadata.get("choices")
        given: dict[str, Any] = {"choices": choices} if choices else {"metavar": metavar}
        own.add_argument(_flag(option.name), type=kind, default=option.default, help=text, **given)
    _annotator_arguments(builder, parser.add_argument_group("annotators"))
    engine = add_placing(parser, "annotators")
    engine.add_argument(
        "--clips-per-shard", metavar="K", type=int, default=8, help="clips of a file at most (default: 8)"
    )


def _annotator_arguments(builder: VideoBuilder, group: Any) -> None:
    """What a builder cannot do without is the default model, what it can is nothing, but edges need no weights."""
    defaults = dict.fromkeys(builder.uses, "none") | {"edge": "canny"} | dict.fromkeys(builder.needs, "default")
    for part in (*builder.needs, *builder.uses):
        about = PARTS[part] if part in PARTS else generators.GENERATORS[part]
        oracle = "oracle (the truth, for videos of the procedural world), " if part in PARTS else ""
        text = f"{about.summary}: none, default ({about.default}), {oracle}{about.others} (default: {defaults[part]})"
        group.add_argument(_flag(part), metavar="SPEC", default=defaults[part], help=text)
    text = "where models run, with PART=DEVICE for some: cuda, or cuda:0,depth=cuda:1 (default: cpu)"
    group.add_argument("--device", metavar="D", default="cpu", help=text)
    text = "workers that may call an annotator at a time, for those that bear few: PART=N,... (default: all)"
    group.add_argument("--concurrency", metavar="PART=N", default="", help=text)


def run(builder: VideoBuilder, options: argparse.Namespace) -> None:
    """Builds, or goes on, and prints what came of it. Raises ValueError for bad input, and if nothing comes of it."""
    if options.seed < 0:
        raise ValueError(f"--seed is a whole number from 0, got {options.seed}")
    if options.clips_per_shard < 1:  # before the videos are looked at, as all that follows
        raise ValueError(f"--clips-per-shard must be at least 1, got {options.clips_per_shard}")
    placing = Placing(options.workers, options.gpus, options.ray_address)
    if options.clips is not None and options.curation is not None:
        raise ValueError("--curation chooses clips of --videos, those of --clips are chosen; leave one of the two out")
    options.curation = options.curation or "shots"
    if any(value is not None and value <= 0 for value in (options.fps, options.frames)):
        raise ValueError("--fps and --frames are above 0; leave them out for the builder's own")
    own = builder.options(**{field.name: _value(field, options) for field in fields(builder.options)})
    specs: dict[str, Any] = _specs(builder, options)
    builder.require(generators.Studio(**specs))
    own.require(generators.Studio(**specs))
    parts = (*builder.needs, *builder.uses)
    devices = Devices.parse(options.device, parts)
    limits = parse_concurrency(options.concurrency, parts)
    # Before the videos are looked at. On a cluster, models and servers may be where this process does not see them, and
    # a build that is there may be complete, so that it takes none.
    if options.ray_address is None and (options.overwrite or not any(options.output.glob("*.parquet"))):
        check_specs(specs, PARTS | generators.GENERATORS)
    named = named_by(options)  # before a build that is to be replaced is removed
    told = {
        "builder": builder.name,
        "version": builder.version,
        "seed": options.seed,
        "options": settings(own),
        "reading": {"fps": options.fps, "frames": options.frames},
        "curation": options.curation if options.clips is None else "clips",
        "annotators": specs,
        "clips_per_shard": options.clips_per_shard,
    }
    with only_run(options.output):
        claim_folder(options.output, json.loads(json.dumps(told)), options.overwrite)
        _build(builder, own, options, named, placing, partial(_load, specs, devices, limits, options.output))


def _build(
    builder: VideoBuilder,
    own: Any,
    options: argparse.Namespace,
    named: Named,
    placing: Placing,
    load: Callable[[list[str]], Annotators],
) -> None:
    """load: the annotators, given the paths of the clips' videos. Raises ValueError if nothing comes of it."""
    found = clips_of(named, options, placing)
    shards = plan(found.clips, options.clips_per_shard)
    check_shards(options.output, [shard.name for shard in shards])
    videos = sorted({clip.path for clip in found.clips})
    job = Job(builder, own, options.output, partial(load, videos), options.seed, options.fps, options.frames)
    outcome = build(job, shards, placing)
    for gate in options.output.glob(GATES):
        gate.unlink()
    failures = [*found.failures, *outcome.failures]
    lines = (json.dumps(asdict(failure)) + "\n" for failure in failures + outcome.empty)
    write_text(options.output / "failures.jsonl", "".join(lines))
    curated = options.clips is None and CURATIONS[options.curation] is not None
    print(*filter(None, [found.told, summary(options.output, outcome, failures, curated)]), sep="\n")
    if not outcome.rows:
        reasons = outcome.failures or outcome.empty or failures  # videos that cannot be read have been told
        first = f"; the first of {len(failures) + len(outcome.empty)} failures: {reasons[0].reason}" if reasons else ""
        raise ValueError(f"no clip gave a record{first}")


def summary(folder: Path, outcome: Outcome, failures: list[Failure], curated: bool) -> str:
    """What a build came to, in a few lines. curated: what is wrong with videos has been told already."""
    reused = f", {outcome.reused} shards were there" if outcome.reused else ""
    lines = [f"{folder}: {outcome.rows} records of {outcome.clips} clips{reused}"]
    for reason, count in outcome.dropped.most_common(_LISTED):
        lines.append(f"  dropped {count:6}  {reason}")
    if outcome.empty:
        lines.append(f"  {len(outcome.empty)} clips gave no record, as {outcome.empty[0].clip}")
    untold = outcome.failures if curated else failures
    for failure in untold[:_LISTED]:
        lines.append(f"  failed  {failure.clip or failure.path}: {failure.reason}")
    if len(untold) > _LISTED:
        lines.append(f"  and {len(untold) - _LISTED} more failures")
    if passing := sum(not failure.damaged for failure in failures):
        lines.append(f"  {passing} of these may be gone next time; the same command tries them again")
    listed = len(failures) + len(outcome.empty)
    return "\n".join(lines + ([f"  {listed} in all, see {folder / 'failures.jsonl'}"] if listed else []))


def claim_folder(folder: Path, told: dict[str, Any], overwrite: bool) -> None:
    """Makes the folder, which is there, one of a build with these settings.

    A build that has come to nothing yet may have other settings; what was found in the videos stays.
    Raises ValueError if it holds something else, or a build with other settings, unless that is to be replaced.
    """
    path = folder / "build.json"
    if overwrite:
        _remove(folder, *_OURS)
    elif path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); give another --output, or --overwrite") from error
        other = [key for key in told if before.get(key) != told[key]]
        if other and any(map(holds_records, folder.glob("*.parquet"))):
            was = f"{other[0]} {before.get(other[0])!r}"
            raise ValueError(f"{str(folder)!r} holds a build with {was}; give another --output, or --overwrite")
        if other:  # shards in which all has failed
            _remove(folder, "*.parquet")
        if "curation" in other:
            _remove(folder, *FOUND)
    elif not is_empty(folder):
        raise ValueError(
            f"--output {str(folder)!r} is not empty and holds no build; give another folder, or --overwrite"
        )
    write_text(path, json.dumps(told, indent=1) + "\n")


def _remove(folder: Path, *patterns: str) -> None:
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        path.unlink()


def check_shards(folder: Path, names: list[str]) -> None:
    """Raises ValueError if the folder holds shards of other clips.

    They might be the same ones in another division, or near-duplicates of clips that have been added before them.
    """
    if other := sorted({path.name for path in folder.glob("*.parquet")} - set(names)):
        raise ValueError(
            f"{str(folder)!r} holds {len(other)} shards of other clips, as {other[0]}; "
            "give all videos that it was built from (or remove these shards, if new videos before them are "
            "near-duplicates), or another --output, or --overwrite"
        )


def _load(
    specs: dict[str, str], devices: Devices, limits: dict[str, int], folder: Path, videos: list[str]
) -> Annotators:
    made_by = {part: spec for part, spec in specs.items() if part in generators.GENERATORS}
    annotators = load_annotators({part: spec for part, spec in specs.items() if part in PARTS}, devices, videos)
    if made_by:
        annotators = generators.load_studio(annotators, made_by, devices)
    return limited(annotators, limits, folder)


def _specs(builder: VideoBuilder, options: argparse.Namespace) -> dict[str, str]:
    """Part to SPEC of all that is given, defaults by their own names."""
    given = {part: getattr(options, part) for part in (*builder.needs, *builder.uses)}
    about = PARTS | generators.GENERATORS
    return {p: about[p].default if spec == "default" else spec for p, spec in given.items() if spec != "none"}


def _value(field: Any, options: argparse.Namespace) -> Any:
    given = getattr(options, field.name)
    split = isinstance(field.default, tuple) and isinstance(given, str)
    return tuple(word.strip() for word in given.split(",") if word.strip()) if split else given


def _number(text: str) -> float:
    """Raises argparse.ArgumentTypeError if it is none, or not finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"takes a number, got {text!r}")
    return value


# What options of such values take, and how help calls it
_KINDS: dict[type, tuple[Callable[[str], Any], str]] = {
    int: (int, "N"),
    float: (_number, "X"),
    str: (str, "WORD"),
    tuple: (str, "A,B"),
}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
