"""Optimizers and the learning rate's course."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn, optim

from unireal.experiments import OptimizerConfig
from unireal.training.precision import CPU, Float32Muon, bf16_is_slow


def make_optimizers(parts: nn.ModuleDict, config: OptimizerConfig, device: torch.device = CPU) -> list[optim.Optimizer]:
    """AdamW, and Muon (torch.optim.Muon) for the attention and feed-forward matrices of the transformer's blocks.

    device: that of the training.
    """
    matrices: list[nn.Parameter] = []
    text: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in parts.named_parameters():
        if not parameter.requires_grad:
            continue
        hidden = "transformer_blocks" in name and (".attn1.to_" in name or ".ff." in name) and parameter.ndim == 2
        in_text = "text_encoder" in name and config.text_lr
        (matrices if hidden and config.muon_lr else text if in_text else rest).append(parameter)
    groups: list[dict[str, Any]] = [{"params": rest}] + ([{"params": text, "lr": config.text_lr}] if text else [])
    adamw = optim.AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)
    if not matrices:
        return [adamw]
    muon = Float32Muon if bf16_is_slow(device) else optim.Muon
    return [adamw, muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay)]


def learning_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up, constant, linear decay to 0 over the last `decay` steps."""
    rise = (step + 1) / config.warmup if config.warmup else 1.0
    fall = (steps - step) / config.decay if config.decay else 1.0
    return min(1.0, rise, fall)
