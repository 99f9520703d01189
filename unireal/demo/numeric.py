"""Numbers that visitors give: gradio's components leave those out of range alone, which are told with their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from unireal.demo.uploads import WithoutStub


class NumberInput(gr.Number, metaclass=WithoutStub):
    is_template = True  # the page shows it as its base class

    def preprocess(self, payload: float | None) -> float | int | None:
        return _rounded(payload, self.precision)


class SliderInput(gr.Slider, metaclass=WithoutStub):
    is_template = True

    def preprocess(self, payload: float | None) -> float | int | None:
        return _rounded(self.value if payload is None else payload, self.precision)


def check_numbers(parts: Mapping[str, gr.components.Component], values: Mapping[str, Any]) -> None:
    """Raises ValueError for a number outside of what its component takes; None says nothing."""
    for name, part in parts.items():
        if not isinstance(part, NumberInput | SliderInput) or values[name] is None:
            continue
        low, high = part.minimum, part.maximum
        if not low <= values[name] <= high:
            raise ValueError(f"{part.label}: {values[name]} was given; choose from {low} to {high}")


def _rounded(number: float | None, precision: int | None) -> float | int | None:
    return None if number is None else gr.Number.round_to_precision(number, precision)
