"""Plain matmul-softmax attention against SDPA, forward and backward, on this machine.

python benchmarks/attention.py --tokens 150 512 1024 --dtype bfloat16
"""

from __future__ import annotations

import time

import torch
from torch.nn.functional import scaled_dot_product_attention

from unireal.arguments import Parser, at_least_one


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return ((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)).softmax(dim=-1) @ value


def seconds(attention, shape: tuple[int, ...], dtype: torch.dtype, repeats: int) -> float:
    """Median time of a forward and backward pass on (B, heads, N, E)."""
    tensors = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        attention(*tensors).sum().backward()
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[repeats // 2]


def main() -> None:
    parser = Parser(prog="python benchmarks/attention.py", description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=at_least_one, nargs="+", default=[150, 512, 1024])
    parser.add_argument("--batch", type=at_least_one, default=32)
    parser.add_argument("--heads", type=at_least_one, default=4)
    parser.add_argument("--head-dim", type=at_least_one, default=64)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--repeats", type=at_least_one, default=7)
    options = parser.parse_args()
    print("| tokens | plain ms | SDPA ms | SDPA / plain |\n|---|---|---|---|")
    for tokens in options.tokens:
        shape = (options.batch, options.heads, tokens, options.head_dim)
        a, b = (
            seconds(f, shape, getattr(torch, options.dtype), options.repeats)
            for f in (plain, scaled_dot_product_attention)
        )
        print(f"| {tokens} | {a * 1e3:.1f} | {b * 1e3:.1f} | {b / a:.2f} |")


if __name__ == "__main__":
    main()
