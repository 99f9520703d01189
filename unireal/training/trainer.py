"""The training loop, on accelerate: one process on a laptop or many under `accelerate launch`, from the same code."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from unireal.config import MODELS
from unireal.data.buckets import batches
from unireal.data.mixture import Mixture
from unireal.experiments import TrainConfig
from unireal.model.build import Components, build
from unireal.pipeline import UniRealPipeline
from unireal.prompts import join
from unireal.training.checkpoint import complete_checkpoints, load_checkpoint, save_checkpoint
from unireal.training.objective import Objective, prepare_step
from unireal.training.optimizers import learning_rate_factor, make_optimizers
from unireal.training.sheets import averaged, save_pipeline, save_sheet

TIME_BINS = 5
_VOCABULARY_SAMPLES = 4000


class Trainer:
    """One run of `config` in the folder `output`:

    checkpoints/   to resume from          model/     a pipeline folder with the averaged weights
    logs/          for TensorBoard          samples/   sheets of held-out examples
    """

    def __init__(self, config: TrainConfig, output: Path):
        self.config, self.output = config, output
        self.accelerator = Accelerator(
            mixed_precision=config.precision,
            gradient_accumulation_steps=config.accumulation,
            log_with="tensorboard",
            project_dir=output,
            step_scheduler_with_optimizer=False,
        )
        self.components = load_components(config)
        transformer = self.components.transformer
        if config.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.objective = Objective(self.components)
        if self.components.vae is not None:
            self.components.vae.to(self.accelerator.device)
        self.components.text_encoder.to(self.accelerator.device)
        optimizers = make_optimizers(self.components.trainable, config.optimizer)
        self.wrapped, *self.optimizers = self.accelerator.prepare(self.objective, *optimizers)
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.parameters = list(self.objective.parameters())
        self.ema = EMAModel(self.parameters, decay=config.optimizer.ema, foreach=True)
        if config.compile:
            for block in transformer.transformer_blocks:
                block.compile(dynamic=True)
        self.step, self.data_state = 0, None
        self._losses: dict[str, list[float]] = defaultdict(list)

    def resume(self) -> None:
        """Continues from the newest checkpoint. Raises ValueError if there is none."""
        found = complete_checkpoints(self.output / "checkpoints")
        if not found:
            raise ValueError(f"no checkpoint in {self.output / 'checkpoints'}; start without --resume")
        state, self.data_state = load_checkpoint(found[-1], self.accelerator, self.ema)
        self.step = state["step"]
        self.accelerator.print(f"resumed from {found[-1]}")

    def train(self) -> list[float]:
        """Runs to config.steps; returns the loss of every step."""
        config, accelerator = self.config, self.accelerator
        accelerator.init_trackers("logs")
        process, processes = accelerator.process_index, accelerator.num_processes
        data = batches(config.data, process, processes, self.data_state, config.workers)
        history, waited, started = [], 0.0, time.time()
        with tqdm(total=config.steps, initial=self.step, disable=not accelerator.is_main_process, desc="train") as bar:
            while self.step < config.steps:
                self._set_learning_rates()
                loss = 0.0
                for micro in range(config.accumulation):
                    before = time.time()
                    batch, self.data_state = next(data)
                    waited += time.time() - before
                    loss += self._backward(batch, micro) / config.accumulation
                self.step += 1
                history.append(loss)
                bar.update()
                if self.step % config.log_every == 0:
                    self._log(bar, waited / (time.time() - started))
                    waited, started = 0.0, time.time()
                last = self.step == config.steps
                if last or self.step % config.checkpoint_every == 0:
                    self._checkpoint()
                if config.sample_every and (last or self.step % config.sample_every == 0):
                    self._sample()
        self._export()
        accelerator.end_training()
        return history

    def _backward(self, batch, micro: int) -> float:
        """One batch: loss and gradients, and after the last of an accumulation the update."""
        accelerator, config = self.accelerator, self.config
        seed = np.random.SeedSequence((config.seed, self.step, micro, accelerator.process_index)).generate_state(1)
        generator = torch.Generator().manual_seed(int(seed[0]))
        t = config.time(len(batch.prompts), generator)
        step = prepare_step(batch, self.components, t, generator, config.changed_weight)
        with accelerator.accumulate(self.wrapped), accelerator.autocast():
            losses = self.wrapped(step)  # (B,)
            loss = losses.mean()
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {self.step}; lower the learning rate")
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(self.parameters, config.optimizer.max_grad_norm)
                self._losses["gradient norm"].append(float(norm))
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
        if accelerator.sync_gradients:
            self.ema.step(self.parameters)
        self._record(batch.tasks, t, losses.detach().float().cpu())
        return loss.item()

    def _record(self, tasks: list[str], t: torch.Tensor, losses: torch.Tensor) -> None:
        for task, time_, loss in zip(tasks, t.tolist(), losses.tolist(), strict=True):
            self._losses["loss"].append(loss)
            self._losses[f"loss by task/{task}"].append(loss)
            low = min(int(time_ * TIME_BINS), TIME_BINS - 1) / TIME_BINS
            self._losses[f"loss by time/{low:.1f}"].append(loss)

    def _log(self, bar: tqdm, waiting: float) -> None:
        means = {name: float(np.mean(values)) for name, values in self._losses.items()}
        means["share of time waiting for data"] = waiting
        means["learning rate"] = self.optimizers[0].param_groups[0]["lr"]
        self.accelerator.log(means, step=self.step)
        bar.set_postfix(loss=f"{means['loss']:.4f}", norm=f"{means['gradient norm']:.2f}", wait=f"{waiting:.1%}")
        self._losses.clear()

    def _set_learning_rates(self) -> None:
        factor = learning_rate_factor(self.step, self.config.steps, self.config.optimizer)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def _checkpoint(self) -> None:
        state: dict[str, Any] = {"step": self.step, "config": asdict(self.config)}
        folder = self.output / "checkpoints"
        save_checkpoint(folder, self.accelerator, self.ema, state, self.data_state, self.config.keep_checkpoints)

    def _export(self) -> None:
        """Saves output/model, a pipeline folder with the averaged weights."""
        if not self.accelerator.is_main_process:
            return
        with averaged(self.ema, self.parameters):
            save_pipeline(self.components, self.config, self.output / "model")

    def _sample(self) -> None:
        """Draws a sheet of held-out examples with the averaged weights."""
        if not self.accelerator.is_main_process:
            return
        with averaged(self.ema, self.parameters):
            save_sheet(self.components, self.config, self.output / "samples" / f"step-{self.step:07d}.png")


def load_components(config: TrainConfig) -> Components:
    """The model that a run starts from: fresh, by its size's name, or a pipeline folder.

    Raises ValueError if it is neither.
    """
    if config.model in MODELS:
        return build(MODELS[config.model], vocabulary(config), config.seed)
    if not Path(config.model).is_dir():
        raise ValueError(f"model {config.model!r} is neither a size ({', '.join(MODELS)}) nor a folder")
    return UniRealPipeline.from_pretrained(config.model).as_components()


def vocabulary(config: TrainConfig) -> list[str]:
    """The words of the first samples of the run's data, for a text encoder that is trained from nothing."""
    mixture = Mixture(config.data.sources, config.data.seed)
    words: set[str] = set()
    for sample in islice(mixture, _VOCABULARY_SAMPLES):
        text = join(sample.context, sample.instruction)
        words.update(
            w for w in "".join(c if c.isalnum() else " " for c in text).split() if not w.startswith(("IMG", "RES"))
        )
    return sorted(words | {w.capitalize() for w in words} | {w.lower() for w in words})
