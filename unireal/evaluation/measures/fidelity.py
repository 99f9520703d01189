"""Pixel measures: MagicBrush's distances, and what PIE-Bench and BrushBench measure outside of the mask.

Pictures are uint8 (H, W, 3), masks bool (H, W). PSNR and SSIM are torchmetrics', LPIPS too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from unireal.evaluation.backbones import as_tensor
from unireal.evaluation.measures.base import Metric, PerItem, Scores
from unireal.evaluation.pictures import Case, Picture
from unireal.notices import one_line

BRUSHBENCH_CEILING = 1000.0  # PSNR of equal regions in its script


def l1(image: np.ndarray, reference: np.ndarray) -> float:
    """Mean absolute difference of pixels in 0..1."""
    return float(np.abs(_unit(image) - _unit(reference)).mean())


def l2(image: np.ndarray, reference: np.ndarray) -> float:
    """Mean squared difference of pixels in 0..1."""
    return float(((_unit(image) - _unit(reference)) ** 2).mean())


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """dB; infinite for equal pictures."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return peak_signal_noise_ratio(*_tensors(image, reference), data_range=1.0).item()


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """-1..1, Gaussian window of 11 pixels."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    similarity = structural_similarity_index_measure(*_tensors(image, reference), data_range=1.0)
    assert isinstance(similarity, torch.Tensor)  # a tuple only where more is asked for
    return similarity.item()


def blackened(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The picture with everything outside `keep`, bool (H, W), black: PIE-Bench's view of a region."""
    return image * keep[..., None].astype(np.uint8)


def masked_mse(image: np.ndarray, reference: np.ndarray, keep: np.ndarray) -> float:
    """BrushBench's: squared differences of pixels in 0..1, summed over the kept pixels and the three channels, divided
    by the number of kept pixels alone, so three times the mean. NaN where nothing is kept."""
    count = keep.sum()
    if not count:
        return math.nan
    return float((((_unit(image) - _unit(reference)) ** 2) * keep[..., None]).sum() / count)


def masked_psnr(image: np.ndarray, reference: np.ndarray, keep: np.ndarray) -> float:
    """dB from masked_mse; BRUSHBENCH_CEILING for an error below 1e-10."""
    error = masked_mse(image, reference, keep)
    if math.isnan(error):
        return error
    return BRUSHBENCH_CEILING if error < 1e-10 else -10 * math.log10(error)


def distances(reference: str, suffix: str = "") -> PerItem:
    """MagicBrush's L1 and L2: the output at the reference's size ("source" or "truth")."""

    def compute(case: Case) -> Scores:
        target = case.given.reference(reference)
        output = case.output.resized(target.size)
        return {f"L1{suffix}": l1(output.pixels, target.pixels), f"L2{suffix}": l2(output.pixels, target.pixels)}

    metric = partial(Metric, better="lower", unit="0..1", reference=reference, resolution=f"the {reference}'s")
    return PerItem((metric(f"L1{suffix}"), metric(f"L2{suffix}")), compute)


def unedited(size: int = 512) -> PerItem:
    """PIE-Bench's PSNR, MSE and SSIM of the unedited part: over the whole picture, with the edited part black in both,
    so that they grow with the mask. Undefined where the mask leaves nothing."""

    def compute(case: Case) -> Scores:
        keep = ~case.given.mask((size, size))
        if not keep.any():
            return {"PSNR unedited": math.nan, "MSE unedited": math.nan, "SSIM unedited": math.nan}
        pair = [blackened(p.resized((size, size)).pixels, keep) for p in (case.output, case.given.source)]
        return {"PSNR unedited": psnr(*pair), "MSE unedited": l2(*pair), "SSIM unedited": ssim(*pair)}

    metric = partial(Metric, reference="source", resolution=f"{size}x{size}")
    found = (
        metric("PSNR unedited", unit="dB"),
        metric("MSE unedited", unit="0..1", better="lower"),
        metric("SSIM unedited", unit="-1..1"),
    )
    return PerItem(found, compute)


def unmasked(size: int = 512) -> PerItem:
    """BrushBench's PSNR and MSE of what was given."""

    def compute(case: Case) -> Scores:
        keep = ~case.given.mask((size, size))
        output, truth = (p.resized((size, size)).pixels for p in (case.output, case.given.truth))
        return {"PSNR unmasked": masked_psnr(output, truth, keep), "MSE unmasked": masked_mse(output, truth, keep)}

    metric = partial(Metric, reference="truth", resolution=f"{size}x{size}")
    return PerItem((metric("PSNR unmasked", unit="dB"), metric("MSE unmasked", better="lower")), compute)


class Lpips:
    """torchmetrics' LPIPS between output and reference, in -1..1, as one batch at one size.

    keep: None for whole pictures, else a case to the region, bool (H, W), outside of which both are black. An empty
    region leaves the score undefined. network: from `lpips_network`.
    """

    def __init__(
        self,
        network: tuple[str, Any],
        reference: str,
        name: str = "LPIPS",
        size: int = 512,
        keep: Callable[[Case], np.ndarray] | None = None,
    ):
        self.backbone, self.network = network
        self.keep, self.reference, self.name, self.size = keep, reference, name, size
        row = Metric(name, "", "lower", self.backbone, reference, f"{size}x{size}")
        self.metrics, self.texts = (row,), ()

    def prepare(self, case: Case) -> None:
        shape = (self.size, self.size)
        keep = np.ones(shape, bool) if self.keep is None else self.keep(case)
        pair = (case.output, case.given.reference(self.reference))
        case.memo[self] = [_signed(picture, shape, keep) for picture in pair] if keep.any() else None

    def score(self, cases: Sequence[Case]) -> list[Scores]:
        pairs = [case.memo.pop(self) for case in cases]
        found = iter(self._distances([pair for pair in pairs if pair is not None]))
        return [{self.name: math.nan if pair is None else next(found)} for pair in pairs]

    def _distances(self, pairs: list[list[torch.Tensor]]) -> list[float]:
        if not pairs:
            return []
        first, second = (torch.stack([pair[i] for pair in pairs]) for i in range(2))
        with torch.inference_mode():
            return self.network(first, second, normalize=False).flatten().tolist()


def lpips_network(net: str, pretrained: bool = True) -> tuple[str, Any]:
    """(name, LPIPS network) of torchmetrics: net is "squeeze", "alex" or "vgg", its features from torchvision.

    Raises ValueError if they cannot be had. pretrained=False: random features, for trying things out.
    """
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    try:
        network = _NoTrainLpips(net=cast(Any, net), pnet_rand=not pretrained)
    except (OSError, RuntimeError) as error:
        reason = one_line(error, 120)
        raise ValueError(
            f"LPIPS needs torchvision's weights of {net!r}, which cannot be had ({reason}); put them into torch's hub "
            "folder or leave it out with --skip LPIPS"
        ) from error
    return f"lpips-{net}" + ("" if pretrained else " (random)"), network.eval()


def _signed(picture: Picture, size: tuple[int, int], keep: np.ndarray) -> torch.Tensor:
    return as_tensor(blackened(picture.resized(size).pixels, keep)) * 2 - 1


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


def _tensors(image: np.ndarray, reference: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return as_tensor(image)[None], as_tensor(reference)[None]
