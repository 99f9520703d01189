"""Near-duplicates by comparing everything (data_builders.clips.duplicates) against an approximate index (faiss's HNSW).

python benchmarks/near_duplicates.py --clips 20000 60000        needs faiss-cpu

Both drop what is too similar to a clip that was kept before, on the same made-up features. "apart": most pairs are far
from the threshold, as with different videos; "crowded": many are close to it, as with many clips of few videos.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from data_builders.clips.duplicates import find_duplicates

ABOVE = 0.85  # Ditto
COPIES = 0.15  # share of the clips that are made from others, as many as Ditto has removed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", metavar="N", type=int, nargs="+", default=[20_000], help="how many (default: 20000)")
    parser.add_argument("--width", metavar="D", type=int, default=768, help="of a feature (default: 768, ViT-L/14)")
    parser.add_argument("--kinds", metavar="KIND", nargs="+", choices=FEATURES, default=list(FEATURES))
    options = parser.parse_args()
    try:
        import faiss
    except ImportError as error:
        print(f"error: the index is that of faiss ({error}); pip install faiss-cpu", file=sys.stderr)
        return 2
    faiss.omp_set_num_threads(1)  # more threads build another index each time
    print("| features | clips | dropped | exact s | index s | missed | dropped as well | the same again |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in options.kinds:
        for count in options.clips:
            features = FEATURES[kind](count, options.width, np.random.default_rng(0))
            exact, exact_time = _timed(find_duplicates, features)
            index, index_time = _timed(_by_index, features)
            missed, more = len(exact.keys() - index.keys()), len(index.keys() - exact.keys())
            again = "yes" if _by_index(features, ABOVE) == index else "no"
            row = (kind, count, len(exact), f"{exact_time:.1f}", f"{index_time:.1f}", missed, more, again)
            print(f"| {' | '.join(map(str, row))} |", flush=True)
    return 0


def _timed(find: Callable, features: np.ndarray) -> tuple[dict[int, int], float]:
    """What is found, and the processor time in seconds."""
    start = time.process_time()
    return find(features, ABOVE), time.process_time() - start


def _by_index(features: np.ndarray, above: float) -> dict[int, int]:
    import faiss

    index = faiss.IndexHNSWFlat(features.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 100, 64
    kept: list[int] = []
    found: dict[int, int] = {}
    for number in range(len(features)):
        feature = features[number : number + 1]
        if kept:
            cosines, places = index.search(feature, 1)
            if cosines[0, 0] > above:
                found[number] = kept[places[0, 0]]
                continue
        index.add(feature)
        kept.append(number)
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _around(centres: np.ndarray, count: int, spread: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Unit vectors around random ones of the centres; spread: the least and the largest distance."""
    noise = _unit(rng.normal(size=(count, centres.shape[1])))
    return _unit(centres[rng.integers(0, len(centres), count)] + rng.uniform(*spread, (count, 1)) * noise)


def _centres(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """With a direction in common, as the features of an image encoder have one."""
    return _unit(rng.normal(size=(count, width)) + 0.8 * rng.normal(size=(1, width)))


def _apart(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    copies = int(count * COPIES)
    own = _around(_centres(max(8, count // 100), width, rng), count - copies, (0.45, 1.0), rng)
    return np.concatenate([own, _around(own, copies, (0.1, 0.75), rng)])[rng.permutation(count)]


def _crowded(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    return _around(_centres(max(8, count // 50), width, rng), count, (0.35, 0.65), rng)


FEATURES: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {"apart": _apart, "crowded": _crowded}

if __name__ == "__main__":
    sys.exit(main())
