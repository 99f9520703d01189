"""Benchmarks: `python -m unireal.evaluation BENCHMARK --model MODEL --output DIR`."""

from unireal.evaluation.world import World

BENCHMARKS = {"world": World}
