"""The thresholds of curation; the defaults are those of the papers where they give one."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from data_builders.clips.motion import STATIC_MOTION, STATIC_MSE
from data_builders.clips.shots import SHOT_DETECTORS
from data_builders.names import look_up


def _option(default: Any, help: str, metavar: str) -> Any:
    return field(default=default, metadata={"help": help, "metavar": metavar})


@dataclass(frozen=True)
class CurationConfig:
    """The help of every field says what it is; Ditto is arXiv 2510.15742, section 3.1.

    size: (height, width) in pixels, None for that of each video. Raises ValueError for values that make no sense.
    """

    size: tuple[int, int] | None = _option((720, 1280), "of clips, or 'own' for each video's; Ditto: 1280x720", "WxH")
    fps: float = _option(20.0, "frames a second of clips; Ditto: 20", "F")
    num_frames: int = _option(101, "frames of a clip, at most; Ditto: 101", "N")
    min_frames: int = _option(101, "frames of a clip, at least; shorter rests of shots are dropped; Ditto: 101", "N")
    shots: str = _option("adaptive", f"detector of shots: {', '.join(SHOT_DETECTORS)}", "NAME")
    shot_threshold: float | None = _option(None, "of the detector; default: its authors'", "X")
    min_shot_seconds: float = _option(
        0.0, "PySceneDetect's detectors join shorter shots to the next one, cut and all; theirs: 0.6", "S"
    )
    min_motion: float = _option(15.0, "pixels a frame, of 1280x720 at 20 frames a second; Ditto: 15", "PX")
    max_similarity: float = _option(0.85, "cosine above which the later of two clips is dropped; Ditto: 0.85", "C")
    static_motion: float = _option(STATIC_MOTION, "up to so many pixels a frame, clips.jsonl says static; ours", "PX")
    static_mse: float = _option(STATIC_MSE, "and up to such mean squared differences of its pictures; ours", "X")
    min_luma: float = _option(0.06, "darker frames are black; mean 0..1; ours", "X")
    min_sharpness: float = _option(0.15, "frames below are blurred, by about 2 pixels of 640; ours", "X")
    max_bar: float = _option(0.04, "black bars of more of the height or width are letterboxes; ours", "X")
    measures_per_second: float = _option(5.0, "how often motion, brightness and sharpness are measured", "F")
    encoder: str | None = _option(
        None,
        "hub id or folder of a CLIP image encoder; Ditto: ViT-L/14; default: gradients of colour, no weights",
        "ID",
    )
    tracker: str | None = _option(
        None, "CoTracker3's weights as safetensors; default: sparse optical flow, no weights", "FILE"
    )
    device: str = _option("cpu", "of the encoder, the tracker and TransNetV2", "D")

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 16:
            raise ValueError(f"the size of clips is at least 16x16 pixels, got {self.size[1]}x{self.size[0]}")
        if not 1 <= self.min_frames <= self.num_frames:
            raise ValueError(
                f"a clip has 1 <= min_frames <= num_frames, got {self.min_frames} and {self.num_frames}; set both"
            )
        for name in ("fps", "measures_per_second"):
            if not 0 < getattr(self, name) <= 1000:
                raise ValueError(f"{name} is above 0 and at most 1000, got {getattr(self, name)}")
        if not -1 <= self.max_similarity <= 1:
            raise ValueError(f"max_similarity is a cosine in -1..1, got {self.max_similarity}; 1 keeps all")
        motion, quality = ("min_motion", "static_motion", "static_mse"), ("min_luma", "min_sharpness", "max_bar")
        for name in ("min_shot_seconds", *motion, *quality):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is at least 0, got {getattr(self, name)}")
        for name in ("min_luma", "max_bar"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is 0..1, got {getattr(self, name)}")
        look_up(dict.fromkeys(SHOT_DETECTORS), self.shots, "shot detector")

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON takes."""
        return {f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v for f in fields(self)}
