"""Pictures to frames, frames to tensors, and what tasks do to them before and after the model.

Training and inference use the same functions, so that a model never sees at inference what it was not trained on.

Axes: H, W rows and columns in pixels; B samples.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

from unireal.prompts import join
from unireal.sample import Batch, Frame, Role, Sample

HOLE = 127  # grey level of unknown pixels, as in the training data
MAX_PIXELS = 64_000_000  # of a file; larger ones are taken for decompression bombs
MOVING = ("AVIF", "GIF", "PNG", "WEBP")  # formats in which several frames are one picture that moves

_log = logging.getLogger(__name__)


def load_image(source: str | Path | Image.Image | np.ndarray, name: str = "image", kind: str = "image") -> np.ndarray:
    """A picture as uint8 (H, W, 3) RGB: EXIF orientation applied, alpha laid over white, 16 bits scaled to 8.

    source: a path, a PIL image, or an array uint8 (H, W, 3) or (H, W); a mask may be bool (H, W). name: what the
    picture is, for messages. kind: what its pixels show, as a frame's. Of a moving picture it is the first frame.
    Raises ValueError if it is of another type, missing, empty, truncated, no picture, or larger than MAX_PIXELS, and
    for a mask with transparent pixels.
    """
    image = _read(source, name, kind)
    if image.mode == "RGBA":
        if kind == "mask" and np.asarray(image)[..., 3].min() < 255:
            told = "has transparent pixels, which some programs take for what changes and others for what stays"
            raise ValueError(f"{name} {told}; give it without transparency, white where to change")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(image).copy()


def _read(source: str | Path | Image.Image | np.ndarray, name: str, kind: str) -> Image.Image:
    """The picture, upright, in mode RGB or RGBA."""
    if isinstance(source, np.ndarray):
        if kind == "mask" and source.dtype == bool:
            source = source.astype(np.uint8) * 255
        if source.dtype != np.uint8 or 0 in source.shape or not (source.ndim == 2 or source.shape[2:] == (3,)):
            raise ValueError(f"{name} is an array {source.dtype} {source.shape}; give uint8 (H, W, 3) or (H, W)")
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        try:
            return _converted(source, name)  # one that was opened is only read now
        except Exception as error:  # as below
            raise ValueError(f"{name} cannot be read as a picture ({error}); give an intact one") from error
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"{name} is a {type(source).__name__}; give a path, a PIL image or an array")
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{name} {str(source)!r} is not a file; give the path of a PNG, JPEG or other picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}")
                return _converted(image, name)
    except Exception as error:  # decoders meet damaged files with errors of almost any type
        reason = "it is empty" if path.stat().st_size == 0 else str(error).split(" '")[0]
        told = f"{name} {str(path)!r} cannot be read as a picture ({reason})"
        raise ValueError(f"{told}; give an intact file, such as PNG or JPEG") from error


def _converted(image: Image.Image, name: str) -> Image.Image:
    if image.format in MOVING and getattr(image, "is_animated", False):
        _log.warning("%s is a picture that moves; only its first frame is used", name)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits in one channel, or more
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        # 32-bit modes do not say what white is: it is taken for the smallest usual value that holds all pixels
        usual = (65535,) if image.mode.startswith("I;16") else (255, 65535) if image.mode == "I" else (1, 255, 65535)
        top = next((white for white in usual if values.max() <= white), 65535)
        grey = np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


def resize(image: np.ndarray, size: tuple[int, int], kind: str = "image") -> np.ndarray:
    """uint8 (H, W, 3) at size (height, width); maps with sharp values are not interpolated."""
    if image.shape[:2] == tuple(size):
        return image
    sharp = kind in ("mask", "segmentation", "layout", "drag")
    how = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
    return np.array(Image.fromarray(image).resize((size[1], size[0]), how))


def resize_around(canvas: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The canvas uint8 (H, W, 3) at another size, as `resize` makes it of the pixels outside mask bool (H, W) alone:
    what is to be erased would go into its neighbours else."""

    def scaled(values: np.ndarray) -> np.ndarray:
        image = Image.fromarray(values.astype(np.float32))
        return np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS))

    share = scaled(~mask)
    pixels = np.stack([scaled(canvas[..., i] * ~mask) for i in range(3)], axis=2)
    pixels /= np.where(share > 0.1, share, 1)[..., None]  # less is deep inside
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def threshold(mask: np.ndarray) -> np.ndarray:
    """A mask picture uint8 (H, W, 3), white inside, as bool (H, W)."""
    return mask.mean(axis=2) > 127


def mask_image(mask: np.ndarray) -> np.ndarray:
    """bool (H, W) as uint8 (H, W, 3), white inside."""
    return np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255


def erase(canvas: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The canvas uint8 (H, W, 3) with the pixels of mask bool (H, W) unknown."""
    return np.where(mask[..., None], np.uint8(HOLE), canvas)


def continued(canvas: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The canvas uint8 (H, W, 3) with the mean of their neighbours outside in the border pixels of mask bool (H, W), as
    nothing of what was erased may fade into the result."""
    known = (~mask)[..., None].astype(np.uint16)
    total, count = _around(canvas * known), _around(known)
    near = mask[..., None] & (count > 0)
    return np.where(near, (total + count // 2) // np.maximum(count, 1), canvas).astype(np.uint8)


def _around(values: np.ndarray) -> np.ndarray:
    """Sums (H, W, C) of 3x3 pixels; beyond the border there is nothing."""
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def expand(canvas: np.ndarray, borders: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The canvas grown by (left, top, right, bottom) unknown pixels, and bool (H, W) of what is unknown. The border's
    pixels go on there, for what fades out of the canvas.

    Raises ValueError for negative borders or none at all.
    """
    left, top, right, bottom = borders
    if min(borders) < 0 or max(borders) == 0:
        raise ValueError(f"expand takes left,top,right,bottom >= 0 pixels, at least one above 0, got {borders}")
    pad = ((top, bottom), (left, right))
    mask = np.pad(np.zeros(canvas.shape[:2], bool), pad, constant_values=True)
    return np.pad(canvas, (*pad, (0, 0)), mode="edge"), mask


def paste_back(result: np.ndarray, canvas: np.ndarray, mask: np.ndarray, feather: int = 0) -> np.ndarray:
    """The result inside the mask, the canvas bit for bit outside.

    feather: pixels inside the mask's border over which the canvas fades out; 0 for a hard border.
    """
    inside = Image.fromarray(mask.astype(np.uint8) * 255)
    steps = [np.asarray(inside, np.float32) / 255]
    for _ in range(feather):
        inside = inside.filter(ImageFilter.MinFilter(3))
        steps.append(np.asarray(inside, np.float32) / 255)
    alpha = np.mean(steps, axis=0)[..., None]  # (H, W, 1), 0 outside the mask
    blended = (alpha * result + (1 - alpha) * canvas + 0.5).astype(np.uint8)
    return np.where(mask[..., None], blended, canvas)


def to_tensor(frame: Frame) -> torch.Tensor:
    """float32 (3, H, W) in -1..1."""
    if frame.image.dtype == np.uint16:
        grey = torch.from_numpy(frame.image.astype(np.float32)) / 32767.5 - 1
        return grey.expand(3, -1, -1).contiguous()
    return _tensor(frame.image).permute(2, 0, 1).float() / 127.5 - 1


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A copy; the array may be a mirrored view, which torch does not take."""
    return torch.tensor(np.ascontiguousarray(array))


def to_image(tensor: torch.Tensor) -> np.ndarray:
    """(3, H, W) in -1..1 to uint8 (H, W, 3)."""
    scaled = (tensor.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().byte().permute(1, 2, 0).cpu().numpy()


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one layout as a batch. Raises ValueError if their layouts differ."""
    return Batch(
        inputs=stacked(samples, "inputs"),
        results=stacked(samples, "results"),
        roles=role_indices(samples),
        changed=changed_regions(samples),
        prompts=[join(s.context, s.instruction) for s in samples],
        tasks=[s.task for s in samples],
        sources=[s.source for s in samples],
    )


def stacked(samples: Sequence[Sample], part: Literal["inputs", "results"]) -> list[torch.Tensor]:
    """Frames of samples of one layout, float32 (B, 3, H, W) in -1..1. Raises ValueError if their layouts differ."""
    layouts = {sample.layout for sample in samples}
    if len(layouts) != 1:
        raise ValueError(f"a batch has one layout, got {len(layouts)}; group samples with unireal.data.buckets")
    frames = zip(*(getattr(sample, part) for sample in samples), strict=True)
    return [torch.stack([to_tensor(frame) for frame in same]) for same in frames]


def role_indices(samples: Sequence[Sample]) -> torch.Tensor:
    """int64 (B, K), indices of the roles of the input frames."""
    return torch.tensor([[f.role.index for f in s.inputs] for s in samples], dtype=torch.long).view(len(samples), -1)


def changed_regions(samples: Sequence[Sample]) -> list[torch.Tensor]:
    """Where each of the R results differs from the canvas, float32 (B, 1, H, W); everywhere if that is not told.

    A sample's mask tells it for all pictures of its size among the results, such as the frames of a video. Not for
    results that are masks or other maps: more weight inside than outside would teach masks that are too large.
    """

    def region(sample: Sample, result: int) -> torch.Tensor:
        frame, mask = sample.results[result], sample.mask
        if mask is None or frame.kind != "image" or frame.size != mask.shape:
            return torch.ones(1, *frame.size)
        return _tensor(mask).float()[None]

    return [torch.stack([region(sample, result) for sample in samples]) for result in range(len(samples[0].results))]


def resized(frame: Frame, size: tuple[int, int]) -> Frame:
    """The frame at size (height, width)."""
    return replace(frame, image=resize(frame.image, size, frame.kind))


def as_frame(image: np.ndarray, role: Role, kind: str = "image") -> Frame:
    return Frame(mask_image(threshold(image)) if kind == "mask" else image, role, kind)
