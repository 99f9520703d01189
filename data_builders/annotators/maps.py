"""Pictures of pictures: depth (Depth Anything V2), edges (Canny) and poses (ViTPose)."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_builders.annotators.protocols import Frames, sequence
from data_builders.annotators.weights import load_model, load_processor
from data_builders.frames import grey

DEFAULT_DEPTH = "depth-anything/Depth-Anything-V2-Large-hf"
DEFAULT_POSE = "usyd-community/vitpose-base-simple"
DEFAULT_PERSONS = "PekingU/rtdetr_r50vd_coco_o365"
_WHITE = 65535
# Models of transformers that tell distances, though their configurations do not say which of the two they tell
_METRIC = ("depth_pro", "glpn", "tipsv2_dpt", "zoedepth")


class DepthAnything:
    """A depth estimator of transformers, relative or metric.

    Relative ones tell 1 / distance up to scale and shift, so that the grey levels of a depth map are ordered by
    distance, but not proportional to it. The nearest pixel becomes 0, the farthest 65535; a flat map is all 0.
    """

    def __init__(self, model: Any, processor: Any, name: str):
        self.model, self.processor, self.name = model, processor, name
        self.metric = _tells_distances(model.config)

    @classmethod
    def from_pretrained(cls, source: str = DEFAULT_DEPTH, device: str = "cpu") -> DepthAnything:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        model = load_model(AutoModelForDepthEstimation, source, device)
        return cls(model, load_processor(AutoImageProcessor, source), source)

    def depth(self, image: np.ndarray) -> np.ndarray:
        return self.depths([image])[0]

    def depths(self, frames: Frames) -> np.ndarray:
        sign = 1 if self.metric else -1
        far = [sign * self._predict(image) for image in sequence(frames)]
        low, high = min(float(one.min()) for one in far), max(float(one.max()) for one in far)
        span = (high - low) or 1.0
        return np.stack([((one.astype(np.float64) - low) / span * _WHITE + 0.5).astype(np.uint16) for one in far])

    def _predict(self, image: np.ndarray) -> np.ndarray:
        """float32 (H, W), in the model's own units: metres, or inverse distances."""
        import torch

        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        sizes = {"target_sizes": [image.shape[:2]]}
        if self.model.config.model_type == "zoedepth":  # it cuts off what it has put around the picture
            sizes["source_sizes"] = sizes["target_sizes"]
        found = self.processor.post_process_depth_estimation(outputs, **sizes)
        return found[0]["predicted_depth"].float().cpu().numpy()


def _tells_distances(config: Any) -> bool:
    """Else it is inverse distances that a model of this configuration tells."""
    if config.model_type == "dpt":  # DINOv2's, for NYU and KITTI, are those with a projection; MiDaS's have none
        return bool(config.add_projection)
    return config.model_type in _METRIC or getattr(config, "depth_estimation_type", "relative") == "metric"


class Canny:
    """OpenCV's Canny; low, high: its hysteresis thresholds."""

    def __init__(self, low: float = 100.0, high: float = 200.0):
        if not 0 <= low <= high:
            raise ValueError(
                f"Canny's thresholds are 0 <= low <= high, got {low:g} and {high:g}; 100 and 200 are usual"
            )
        self.low, self.high = low, high
        self.name = f"canny:{low:g},{high:g}"

    def edge(self, image: np.ndarray) -> np.ndarray:
        import cv2

        return grey(cv2.Canny(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), self.low, self.high))


class VitPose:
    """Skeletons of the persons that a detector finds.

    threshold: of persons' and key points' scores, 0..1.
    """

    def __init__(self, model: Any, processor: Any, persons: Any, persons_processor: Any, name: str, threshold: float):
        self.model, self.processor = model, processor
        self.persons, self.persons_processor = persons, persons_processor
        self.name, self.threshold = name, threshold

    @classmethod
    def from_pretrained(
        cls, source: str = DEFAULT_POSE, device: str = "cpu", persons: str = DEFAULT_PERSONS, threshold: float = 0.3
    ) -> VitPose:
        """persons: folder or hub id of an object detector that knows the label "person"."""
        from transformers import AutoImageProcessor, AutoModelForObjectDetection, VitPoseForPoseEstimation

        model = load_model(VitPoseForPoseEstimation, source, device)
        detector = load_model(AutoModelForObjectDetection, persons, device)
        if "person" not in detector.config.label2id:
            raise ValueError(f"the detector {persons!r} has no label 'person'; give one that was trained on COCO")
        processors = [load_processor(AutoImageProcessor, name) for name in (source, persons)]
        return cls(model, processors[0], detector, processors[1], source, threshold)

    def pose(self, image: np.ndarray) -> np.ndarray:
        import torch

        drawn = np.zeros_like(image)
        boxes = self._find_persons(image)
        if not len(boxes):
            return drawn
        inputs = self.processor(images=image, boxes=[boxes], return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            # The checkpoints that mix data sets need to know which one's key points to give; 0 is COCO's.
            first = torch.zeros(len(boxes), dtype=torch.long, device=self.model.device)
            outputs = self.model(**inputs, dataset_index=first)
        for person in self.processor.post_process_pose_estimation(outputs, boxes=[boxes])[0]:
            self._draw(drawn, person["keypoints"].cpu().numpy(), person["scores"].cpu().numpy())
        return drawn

    def _find_persons(self, image: np.ndarray) -> np.ndarray:
        """float32 (K, 4): x, y, width, height in pixels."""
        import torch

        inputs = self.persons_processor(images=image, return_tensors="pt").to(self.persons.device)
        with torch.inference_mode():
            outputs = self.persons(**inputs)
        size = [image.shape[:2]]
        found = self.persons_processor.post_process_object_detection(outputs, self.threshold, target_sizes=size)[0]
        boxes = found["boxes"][found["labels"] == self.persons.config.label2id["person"]].cpu().numpy()
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float32)

    def _draw(self, image: np.ndarray, points: np.ndarray, scores: np.ndarray) -> None:
        """points: float (P, 2), x and y in pixels; scores: float (P,). Hues run along the skeleton."""
        import cv2

        edges = getattr(self.model.config, "edges", None) or []  # without them only the points are drawn
        thick = max(1, round(min(image.shape[:2]) / 128))
        spots = [tuple(int(v) for v in point) for point in points.round()]
        for number, (start, end) in enumerate(edges):
            hue = np.array([[[number * 180 // max(len(edges), 1), 255, 255]]], np.uint8)
            color = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].tolist()
            if min(scores[start], scores[end]) >= self.threshold:
                cv2.line(image, spots[start], spots[end], color, 2 * thick)
        for spot, score in zip(spots, scores, strict=True):
            if score >= self.threshold:
                cv2.circle(image, spot, 2 * thick, (255, 255, 255), -1)
