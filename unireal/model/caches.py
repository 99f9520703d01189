"""diffusers' own caches on our transformer: which of them find here what they look for, and when they forget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from diffusers.models.cache_utils import CacheMixin

_WORKING = (FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig)
_ATTENTION = [r"transformer_blocks\.\d+\.attn1"]  # diffusers' own patterns end in "attn"


class CacheableTransformer(CacheMixin):
    def enable_cache(self, config: Any) -> None:
        """Puts a cache of diffusers into the blocks: FirstBlockCacheConfig, MagCacheConfig or TaylorSeerCacheConfig.

        Raises ValueError for the others, which look for layers of other models and would do nothing, or fail, here.
        """
        if not isinstance(config, _WORKING):
            able = ", ".join(kind.__name__ for kind in _WORKING)
            raise ValueError(f"{type(config).__name__} has nothing to act on in this model; give one of: {able}")
        if isinstance(config, TaylorSeerCacheConfig) and not (config.cache_identifiers or config.use_lite_mode):
            config = replace(config, cache_identifiers=_ATTENTION)
        super().enable_cache(config)

    def reset_cache(self) -> None:
        """Lets an enabled cache forget what it holds of a call."""
        if self.is_cache_enabled:
            self._reset_stateful_cache()
