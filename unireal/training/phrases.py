"""Teaches the tiny T5, from text alone, which words belong to one thing, before or between trainings with images.

    python -m unireal.training.phrases --model tiny --output runs/phrases
    python train.py tiny --model runs/phrases/model --optimizer.text-lr 1e-6

A small T5 that is trained with images reads captions as sets of words: both things of "a red cross and a blue star"
get the same mixed colour (docs/training-log.md). Large ones have learned from text what goes together; here it is
taught directly. The target of every word of a phrase about one thing is the feature that it has now plus, twice, the
mean of those of the phrase's telling words, at its own length; of all other words, what it is now. So a model that
reads the old features reads the new ones as well, and the transformer finds at "left" what is there.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data_builders.world.phrases import find_phrases
from data_builders.world.recipes import TRAINED, world_sample
from data_builders.world.stream import TEST_SEEDS
from unireal.arguments import Parser, at_least_one, failed, seed
from unireal.experiments import EXPERIMENTS
from unireal.model.text_encoder import TextEncoder
from unireal.prompts import join
from unireal.training.checkpoint import check_no_run
from unireal.training.precision import bf16_is_slow
from unireal.training.sheets import save_model
from unireal.training.start import load_start

STRENGTH = 2.0
_PROMPTS, _HELD_OUT = 12_000, 256
_RATE, _WARMUP = 2e-3, 50
# Recipes whose texts speak of several things are drawn this often; others once.
_SHARES = {"t2i": 20, "customize2": 20, "inpaint": 13, "t2v": 8, "outpaint": 5, "image_to_video": 5}


def draw_prompts(count: int, seed: int) -> list[str]:
    """Prompts of the world's training recipes."""
    rng = np.random.default_rng(seed)
    shares = np.array([_SHARES.get(name, 1) for name in TRAINED], float)
    names = rng.choice(TRAINED, count, p=shares / shares.sum())
    samples = (world_sample(str(name), int(rng.integers(TEST_SEEDS)), (8, 8)) for name in names)
    return [join(sample.context, sample.instruction) for sample in samples]


def phrase_means(prompts: list[str], offsets: torch.Tensor) -> torch.Tensor:
    """float32 (B, L, L): what a token of a phrase takes of every token: 1/n of the n telling ones of its phrase.

    offsets: (B, L, 2), the first character of every token and the one behind its last, equal for special tokens.
    """
    means = torch.zeros(*offsets.shape[:2], offsets.shape[1])
    for row, prompt in enumerate(prompts):
        spans = offsets[row].tolist()
        for words in find_phrases(prompt):
            # a token may begin with the space before its word
            inside = [
                (i, tells)
                for start, end, tells in words
                for i, (a, b) in enumerate(spans)
                if a < min(b, end) and b > start
            ]
            telling = [i for i, tells in inside if tells]
            for i, _ in inside:
                means[row, i, telling] = 1 / max(1, len(telling))  # a long prompt is cut off
    return means


class Lesson:
    """A text encoder that learns to say of every word of a phrase what the others tell.

    text: of the model, taught in place. prompts: of training. seed: of their order.
    """

    def __init__(self, text: TextEncoder, prompts: list[str], seed: int = 0):
        self.student, self.teacher = text.model, copy.deepcopy(text.model).eval().requires_grad_(False)
        self.text, self.prompts, self.rng = text, prompts, np.random.default_rng(seed)

    def errors(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error over squared length of each token of a phrase, (N,), and of each other one, (M,)."""
        cut = {"padding": True, "truncation": True, "max_length": self.text.max_length}
        tokens = self.text.tokenizer(prompts, return_offsets_mapping=True, return_tensors="pt", **cut)
        means = phrase_means(prompts, tokens.pop("offset_mapping"))
        with torch.no_grad():
            old = self.teacher(**tokens).last_hidden_state.float()  # (B, L, D)
            target = old + STRENGTH * means @ old
            target = target * (old.norm(dim=-1, keepdim=True) / target.norm(dim=-1, keepdim=True))
        new = self.student(**tokens).last_hidden_state.float()
        error = (new - target).square().sum(-1) / target.square().sum(-1)  # (B, L)
        inside = means.any(-1)
        return error[inside], error[tokens["attention_mask"].bool() & ~inside]

    def learn(self, steps: int, batch_size: int) -> None:
        """AdamW, warmed up, then falling as a cosine."""
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        cosine = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / _WARMUP) * 0.5 * (1 + np.cos(np.pi * step / steps))
        )
        self.student.train()
        for _ in tqdm(range(steps), desc="phrases", disable=None):  # None: only on a terminal
            chosen = [self.prompts[i] for i in self.rng.integers(len(self.prompts), size=batch_size)]
            with torch.autocast("cpu", torch.bfloat16, enabled=not bf16_is_slow()):
                error = torch.cat(self.errors(chosen)).mean()
            optimizer.zero_grad()
            error.backward()
            nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            optimizer.step()
            cosine.step()
        self.student.eval()

    @torch.no_grad()
    def report(self, prompts: list[str]) -> str:
        """The mean errors of prompts that were not learned."""
        inside, outside = (float(error.mean()) for error in self.errors(prompts))
        return f"{inside:.4f} in phrases, {outside:.4f} elsewhere"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input, 1 if the result cannot be written."""
    options = _parser().parse_args(arguments)
    try:
        check_no_run(options.output)
        if (options.output / "model").exists():
            raise ValueError(f"{options.output} holds a model; give another --output")
        config = replace(EXPERIMENTS["tiny"], model=options.model)
        start = load_start(config, options.output)
        if start.components.text.frozen:
            raise ValueError(f"the text encoder of {options.model!r} is frozen; a large T5 knows what goes together")
        options.output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        return failed(error)
    prompts = draw_prompts(_PROMPTS, options.seed)
    held_out, prompts = prompts[:_HELD_OUT], prompts[_HELD_OUT:]
    lesson = Lesson(start.components.text, prompts, options.seed)
    before = lesson.report(held_out)
    lesson.learn(options.steps, options.batch_size)
    print(f"error on held-out prompts: {before} before, {lesson.report(held_out)} now")
    try:
        save_model(start.components, start, config, options.output)
    except OSError as error:
        return failed(error, 1)
    print(f"model saved to {options.output / 'model'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m unireal.training.phrases", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", required=True, metavar="MODEL", help="a size such as tiny, or a model's folder")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the model is saved in DIR/model")
    parser.add_argument("--steps", type=at_least_one, default=1400, metavar="N", help="default: 1400")
    parser.add_argument("--batch-size", type=at_least_one, default=64, metavar="N", help="prompts (default: 64)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of prompts and their order (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
