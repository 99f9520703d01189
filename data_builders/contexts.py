"""What context prompts say of samples beyond their task: how the results came about, and whether the scene moves."""

from __future__ import annotations

import numpy as np

from data_builders.clips.motion import is_dynamic
from unireal.tasks import TASKS


def synthetic(task: str) -> str:
    """The task's own context prompt, for results that a model has made.

    The style is that of the results, which is what the prompt is to control: UniReal tags InstructPix2Pix and UltraEdit
    as synthetic, sets with real pictures as realistic (section 3.2). So an edit of a real video by a generator is
    synthetic, and the way back, whose result is the real video, is realistic; that is what it is made for (Ditto's
    sim-to-real).
    """
    return TASKS[task].context.replace("realistic style", "synthetic style")


def of_pair(before: np.ndarray, after: np.ndarray) -> str:
    """Of two frames of a real video, uint8 (H, W, 3): static or dynamic is what lies between these two (section 3.2).

    What was measured of their whole clip need not be true of them.
    """
    return f"realistic style, {'dynamic' if is_dynamic(before, after) else 'static'} scenario"
