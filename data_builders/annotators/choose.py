"""Annotators by their names on a command line: `--captioner SPEC`, `--grounder SPEC`, and so on.

| SPEC | meaning |
|---|---|
| `none` | no such annotator |
| `default` | the default model of that part |
| a folder or hub id | a model of transformers |
| `endpoint:URL#MODEL` | captioner, instructor, judge: a server that speaks OpenAI's chat completions |
| `endpoint-text:URL#MODEL` | the same, for servers that do not know response_format |
| `sam2:MODEL` | segmenter: the folder or hub id MODEL, run by the `sam2` package |
| `canny`, `canny:LOW,HIGH` | edge: OpenCV's Canny |
| `oracle` | the truth, for videos of the procedural world |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_builders.annotators import chat, grounding, maps, segmentation
from data_builders.annotators.placing import Devices
from data_builders.annotators.protocols import Annotators
from data_builders.annotators.vlm import VisionLanguageAnnotator
from data_builders.annotators.weights import model_type


@dataclass(frozen=True)
class Part:
    """One annotator of a build.

    default: the hub id, or other SPEC, that "default" stands for; load: makes it from a SPEC and a device; check:
    raises ValueError for a SPEC of which nothing can be made, and reads no weights; others: more SPECs, in words.
    """

    summary: str
    default: str
    load: Callable[[str, str], Any]
    check: Callable[[str], object] = model_type
    others: str = "a folder, or another hub id"


def _vision_language(spec: str, device: str) -> VisionLanguageAnnotator:
    return VisionLanguageAnnotator(_endpoint(spec) or chat.LocalChat.from_pretrained(spec, device))


def _check_vision_language(spec: str) -> None:
    endpoint = _endpoint(spec)
    if endpoint is None:
        model_type(spec)
    else:
        endpoint.check()


def _endpoint(spec: str) -> chat.EndpointChat | None:
    """None if it is no endpoint. Raises ValueError for one that is given in another way."""
    kind, _, rest = spec.partition(":")
    if kind not in ("endpoint", "endpoint-text"):
        return None
    url, _, model = rest.rpartition("#")
    if not url or not model:
        raise ValueError(
            f"an endpoint is given as {kind}:URL#MODEL, as in {kind}:http://localhost:8000/v1#m, got {spec!r}"
        )
    return chat.EndpointChat(url, model, structured=kind == "endpoint")


def _canny(spec: str, device: str) -> maps.Canny:
    kind, _, thresholds = spec.partition(":")
    if kind != "canny":
        raise ValueError(f"edges come from canny or canny:LOW,HIGH, got {spec!r}")
    if not thresholds:
        return maps.Canny()
    try:
        low, high = map(float, thresholds.split(","))
    except ValueError as error:
        raise ValueError(f"Canny takes two thresholds, as in canny:100,200, got {spec!r}") from error
    return maps.Canny(low, high)


def _talks(summary: str) -> Part:
    others = "a folder, another hub id, or endpoint:URL#MODEL"
    return Part(summary, chat.DEFAULT, _vision_language, _check_vision_language, others)


PARTS: dict[str, Part] = {
    "captioner": _talks("says what a video shows"),
    "instructor": _talks("says what turns one frame into another"),
    "judge": _talks("scores edits"),
    "grounder": Part("finds boxes for phrases", grounding.DEFAULT, grounding.load_grounder),
    "segmenter": Part(
        "makes masks and tracks of boxes",
        segmentation.DEFAULT,
        segmentation.load_segmenter,
        segmentation.check_segmenter,
        "a folder, another hub id, or sam2:MODEL, which has the sam2 package run either",
    ),
    "depth": Part("estimates depth", maps.DEFAULT_DEPTH, maps.DepthAnything.from_pretrained),
    "edge": Part("draws edges", "canny", _canny, partial(_canny, device="cpu"), "or canny:LOW,HIGH"),
    "pose": Part("draws skeletons", maps.DEFAULT_POSE, maps.VitPose.from_pretrained),
}


def check_specs(specs: Mapping[str, str], parts: Mapping[str, Part] = PARTS) -> None:
    """Raises ValueError for what is sure to fail when it is loaded. Weights are left alone."""
    for name, spec in specs.items():
        if name in parts and spec not in ("none", "oracle"):
            parts[name].check(spec)


def load_annotators(
    specs: Mapping[str, str], devices: Devices | None = None, videos: Iterable[str | Path] = ()
) -> Annotators:
    """Loads what the specs say; parts of the same spec and device share one model.

    To be called in the process that annotates. devices: None for the CPU.

    videos: for "oracle", the files NAME.mkv or NAME.json that `python -m data_builders world --videos` wrote; of those
    that it cannot read, it knows no frame.
    Raises ValueError for unknown parts or specs, models that cannot be loaded, and oracles without any such video.
    """
    if unknown := [name for name in specs if name not in PARTS]:
        raise ValueError(f"unknown annotator {unknown[0]!r}; choose from: {', '.join(PARTS)}")
    devices = devices or Devices()
    loaded: dict[tuple[Any, ...], Any] = {}
    found: dict[str, Any] = {}
    for name, spec in specs.items():
        if spec == "none":
            continue
        part = PARTS[name]
        spec = part.default if spec == "default" else spec
        key: tuple[Any, ...] = ("oracle",) if spec == "oracle" else (part.load, spec, devices.of(name))
        if key not in loaded:
            loaded[key] = _oracle(videos) if spec == "oracle" else part.load(spec, devices.of(name))
        found[name] = loaded[key]
    return Annotators(**found)


def _oracle(videos: Iterable[str | Path]) -> Any:
    from data_builders.world.oracle import Oracle, read_world_video

    told = [Path(video).with_suffix(".json") for video in videos]
    if not told:
        raise ValueError("the oracle needs videos of the world; make some: python -m data_builders world --videos K")
    known, unknown = [], []
    for path in told:
        try:
            known.append(read_world_video(path))
        except ValueError as error:
            unknown.append(str(error))
    if not known:
        raise ValueError(unknown[0])
    return Oracle(known, unknown)
