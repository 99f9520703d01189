"""Keys and values of text and input frames are computed once instead of in every step.

With `condition_attention="isolated"` they do not depend on the results, so this is exact, as in OminiControl2
(arXiv 2503.08280). With "full" attention it is an approximation that is refreshed every few steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unireal.acceleration.base import Acceleration
from unireal.acceleration.plan import FrameLayout, Plan, TokenChoice

DEFAULT_REFRESH = 4  # steps, with full attention


@dataclass(frozen=True)
class ConditionCache(Acceleration):
    """refresh: steps after which text and inputs are computed anew; 1 computes them in every step, as without cache.
    None is never with isolated attention, and every 4 steps with full attention.

    Raises ValueError for a refresh below 1.
    """

    name: ClassVar[str] = "condition_cache"
    refresh: int | None = None

    def __post_init__(self) -> None:
        if self.refresh is not None:
            self._check_count("refresh", "steps", least=1)

    def tokens(self, layout: FrameLayout) -> TokenChoice:
        refresh = self.refresh
        if refresh is None:
            refresh = layout.num_steps if layout.isolated else DEFAULT_REFRESH
        return _Cached(refresh)


class _Cached(TokenChoice):
    def __init__(self, refresh: int):
        self.refresh = refresh

    def plan(self, step: int, t: float, plan: Plan) -> None:
        plan.allow_reuse("text", "input", since=max(step - self.refresh + 1, 0))
