"""DreamSim, a learned distance of pictures that follows what people find alike; the package is optional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from unireal.evaluation.measures.base import Metric, Networked
from unireal.evaluation.pictures import Case
from unireal.notices import one_line


def dreamsim_measure(model: tuple[Any, Any], reference: str, device: str = "cpu") -> Networked:
    """Distance between output and reference.

    model: what dreamsim.dreamsim(pretrained=True) returns, the network and its preprocessing of PIL images.
    """
    network, preprocess = model

    def seen(case: Case) -> list[torch.Tensor]:
        pictures = (case.output, case.given.reference(reference))
        return [picture.view("dreamsim", lambda p: preprocess(Image.fromarray(p.pixels))) for picture in pictures]

    def score(cases: Sequence[Case]) -> torch.Tensor:
        outputs, references = zip(*(seen(case) for case in cases), strict=True)
        with torch.inference_mode():
            return network(torch.cat(outputs).to(device), torch.cat(references).to(device)).flatten().cpu()

    def prepare(case: Case) -> None:
        seen(case)

    row = Metric("DreamSim", "", "lower", "dreamsim ensemble", reference, "224x224")
    return Networked(row, score, prepare)


def load_dreamsim(device: str = "cpu") -> tuple[Any, Any]:
    """Raises ValueError if the package or its weights cannot be had."""
    try:
        from dreamsim import dreamsim

        return dreamsim(pretrained=True, device=device)
    except (ImportError, OSError, RuntimeError) as error:
        reason = one_line(error, 120)
        raise ValueError(f"DreamSim and its weights cannot be had ({reason}); pip install dreamsim") from error
