"""How much moves: points on a grid, tracked from frame to frame, and whether two pictures show the same moment."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from data_builders.annotators.weights import on_device

if TYPE_CHECKING:
    import torch

GRID = (9, 16)  # rows and columns of the tracked points (Ditto, section 3.1)
# Displacements are told in pixels of Ditto's standard clips, whatever the size and rate they are measured at.
REFERENCE_WIDTH, REFERENCE_FPS = 1280, 20
# The papers do not say when a scene is static: these are ours.
STATIC_MOTION, STATIC_MSE = 1.0, 0.002
_PAIR_WIDTH = 160
_WINDOW, _CRITERIA = (9, 9), (3, 5, 0.03)  # at most 5 rounds, until a step is below 0.03 pixels


class Tracker(Protocol):
    """Follows points through a clip, as CoTracker does."""

    def track(self, frames: np.ndarray, points: np.ndarray) -> np.ndarray:
        """frames: uint8 (T, H, W, 3) RGB; points: float32 (N, 2), x, y in pixels of frame 0. Returns (T, N, 2)."""
        ...


@lru_cache(maxsize=16)
def grid_points(size: tuple[int, int]) -> np.ndarray:
    """float32 (144, 2): x, y in pixels of points in a 16x9 grid, in the middle of its cells; size: (height, width)."""
    (rows, columns), (height, width) = GRID, size
    x, y = np.meshgrid((np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows)
    points = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    points.setflags(write=False)  # it is shared
    return points


def motion_of_tracks(tracks: np.ndarray, width: int, fps: float) -> float:
    """Ditto's score: the mean over points of their path's length, for each reference frame.

    tracks: (T, N, 2) in pixels of pictures of that width, at so many frames a second. 0 for fewer than 2 frames.
    """
    if len(tracks) < 2:
        return 0.0
    path = np.linalg.norm(np.diff(tracks, axis=0), axis=-1).sum(axis=0).mean()
    return reference_motion(float(path), width, (len(tracks) - 1) / fps)


def reference_motion(path: float, width: int, seconds: float) -> float:
    """A path of so many pixels in pictures of that width, as reference pixels a reference frame."""
    return path * REFERENCE_WIDTH / width / (seconds * REFERENCE_FPS)


def grid_displacement(before: np.ndarray, after: np.ndarray) -> float:
    """Mean displacement of the grid's points by sparse optical flow (Lucas-Kanade), in pixels.

    before, after: uint8 (h, w), grey. A point that is lost or leaves the picture counts like the median of the others.
    """
    import cv2

    height, width = before.shape
    points = grid_points((height, width))
    moved, found, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]  # None: no guess
        before, after, points, None, winSize=_WINDOW, maxLevel=3, criteria=_CRITERIA
    )
    sound = (found[:, 0] == 1) & ((moved >= 0) & (moved < (width, height))).all(axis=1)
    if not sound.any():
        return 0.0
    distances = np.hypot(*(moved - points).T)
    if not sound.all():
        distances[~sound] = np.median(distances[sound])
    return float(distances.mean())


def is_dynamic(
    before: np.ndarray, after: np.ndarray, motion: float = 10 * STATIC_MOTION, mse: float = STATIC_MSE
) -> bool:
    """Whether two uint8 (H, W, 3) RGB pictures of one size show a scene that moves or changes (UniReal, section 3.2).

    motion: mean dense optical flow in pixels of pictures 1280 wide; mse: mean squared difference, values in 0..1.
    Above either, the pair is dynamic.
    """
    import cv2

    height, width = before.shape[:2]
    size = (min(width, _PAIR_WIDTH), max(1, round(min(width, _PAIR_WIDTH) * height / width)))
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (before, after)]
    if mean_squared_difference(*small) > mse:
        return True
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in small]
    if min(size) < 12:  # below, the optical flow has no room for its patches
        return False
    flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow = flow.calc(*greys, None)
    return float(np.linalg.norm(flow, axis=-1).mean()) * REFERENCE_WIDTH / size[0] > motion


def mean_squared_difference(before: np.ndarray, after: np.ndarray) -> float:
    """Of two uint8 arrays, as values in 0..1."""
    return float(np.mean(np.square((before.astype(np.float32) - after) / 255)))


class CoTracker:
    """CoTracker3 (facebookresearch/co-tracker) as a Tracker.

    model: its offline network in the manner of cotracker.predictor.CoTrackerPredictor: called with video float
    (1, T, 3, H, W) in 0..255 and queries (1, N, 3) as (frame, x, y), it gives tracks (1, T, N, 2) and visibility.
    """

    def __init__(self, model: torch.nn.Module, device: str = "cpu"):
        self._model, self._device = on_device(model, device).eval(), device

    @classmethod
    def from_safetensors(cls, path: str, device: str = "cpu") -> CoTracker:
        """Needs the package `cotracker`; weights: scaled_offline converted to safetensors, as names and tensors.

        Raises ValueError if the package is missing or the file does not fit.
        """
        from safetensors.torch import load_file

        try:
            from cotracker.predictor import CoTrackerPredictor
        except ImportError as error:
            raise ValueError(
                "a CoTracker needs its package: pip install git+https://github.com/facebookresearch/co-tracker"
            ) from error
        predictor = CoTrackerPredictor(checkpoint=None)
        try:
            predictor.model.load_state_dict(load_file(path))
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path} does not hold CoTracker's weights as safetensors ({error})") from error
        return cls(predictor, device)

    def track(self, frames: np.ndarray, points: np.ndarray) -> np.ndarray:
        import torch

        video = torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2)[None].float()
        queries = torch.nn.functional.pad(torch.from_numpy(points.copy()), (1, 0))[None].to(
            self._device
        )  # from frame 0
        with torch.inference_mode():
            tracks, _ = self._model(video, queries=queries)
        return tracks[0].float().cpu().numpy()
