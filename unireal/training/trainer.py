"""The training loop, on accelerate: one process on a laptop or many under `accelerate launch`, from the same code."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from unireal.config import MODELS
from unireal.data.buckets import batches, deal
from unireal.data.preparation import value_at
from unireal.experiments import TrainConfig
from unireal.model.build import Components
from unireal.sample import Batch
from unireal.training.checkpoint import RunTensors, load_checkpoint, newest_checkpoint, save_checkpoint
from unireal.training.distillation import make_objective, settings_of
from unireal.training.objective import prepare_step
from unireal.training.optimizers import learning_rate_factor, make_optimizers
from unireal.training.precision import bf16_is_slow, slowdown_of_bf16
from unireal.training.sharding import in_one_piece, is_sharded, make_accelerator, rebuilt, whole
from unireal.training.sheets import averaged, save_model, save_sheet
from unireal.training.start import fresh_vae_fingerprint, load_start, spelled_words, untrained_fingerprint
from unireal.training.tuning import choose_trainable

TIME_BINS = 5

_log = logging.getLogger("unireal.training")


class Trainer:
    """One run of `config` in the folder `output`:

    checkpoints/   to resume from          model/     a pipeline folder with the averaged weights, or
    logs/          for TensorBoard          lora/     the averaged adapter, if nothing else is trained
    samples/       sheets of held-out examples
    """

    def __init__(self, config: TrainConfig, output: Path):
        self.config, self.output = config, output
        self.accelerator = make_accelerator(config.precision, config.accumulation, output)
        self.start = load_start(config, output)
        self.start.settings |= settings_of(config)
        self.components = self.start.components
        choose_trainable(self.components, config)
        self.base, self.vae = untrained_fingerprint(self.start, config), fresh_vae_fingerprint(self.start, config)
        transformer = self.components.transformer
        if config.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.objective = make_objective(config, self.start)
        for encoder in (self.components.vae, self.components.text_encoder):
            if encoder is not None:
                encoder.to(self.accelerator.device)
        optimizers = make_optimizers(self.components.trainable, config.optimizer, self.accelerator.device)
        self.wrapped, *self.optimizers = self.accelerator.prepare(self.objective, *optimizers)
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        named = {n.removeprefix("parts."): p for n, p in self.objective.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        self.ema = EMAModel(self.parameters, decay=config.optimizer.ema, foreach=True)
        self.tensors = RunTensors(named, [optimizer.optimizer for optimizer in self.optimizers], self.ema)
        if config.compile:
            for block in transformer.transformer_blocks:
                block.compile(dynamic=True)
        self.step = 0
        self.lanes: list[dict[str, Any]] | None = None  # where all lanes of the present stage's data stand
        self._losses: dict[str, list[float]] = defaultdict(list)

    def resume(self) -> None:
        """Continues from the newest checkpoint.

        Raises ValueError if there is none, or none of such a run, or if the run has fewer steps.
        """
        newest = newest_checkpoint(self.output)
        state = load_checkpoint(newest, self.accelerator, self.tensors)
        if state.get("base", self.base) != self.base:
            raise ValueError(
                f"{newest} belongs to the model {state['config']['model']!r} as it was when the run began, of which "
                f"it holds only what was trained; {self.config.model!r} has other weights now: give the first --model, "
                "or start anew"
            )
        if state.get("vae", self.vae) != self.vae:
            raise ValueError(
                f"{newest} belongs to another VAE than {MODELS[self.config.model].vae!r} holds now; put that one back, "
                "or start anew with another --output"
            )
        self.step = state["step"]
        if self.step > self.config.steps:
            raise ValueError(
                f"{newest} is beyond the last of {self.config.steps} steps; give --steps {self.step} or more"
            )
        stage = self.config.stage_at(self.step)
        if state["stage"] == stage:
            data, before = self.config.course[stage].data, state["lanes"][0]["mixture"]
            here = f"{len(data.sources)} data sets with data.seed {data.seed}"
            there = f"{len(before['counts'])} data sets with data.seed {before.get('seed', data.seed)}"
            if here != there:
                raise ValueError(
                    f"{newest} stands in a mixture of {there}, this one has {here}; leave the data of the stage as it "
                    f"was, and add one for the new data that starts at step {self.step}"
                )
            self.lanes = state["lanes"]
        self.accelerator.print(f"resumed from {newest}")

    def train(self, after_step: Callable[[int, float], None] | None = None) -> list[float]:
        """Runs to config.steps; returns the loss of every step, the mean over all processes.

        after_step(step, loss) is called after each, before it is saved. Raises FloatingPointError if the loss is no
        longer finite, ValueError if too much of the data is bad, and OSError if a checkpoint cannot be written.
        """
        config, accelerator = self.config, self.accelerator
        if accelerator.is_main_process:
            self._warn()
        accelerator.init_trackers("logs")
        history: list[float] = []
        data: Iterator[tuple[Batch, list[dict[str, Any]]]] = iter(())
        stage: int | None = None
        waited, started = 0.0, time.time()
        with tqdm(total=config.steps, initial=self.step, disable=not accelerator.is_main_process, desc="train") as bar:
            while self.step < config.steps:
                if stage != (stage := config.stage_at(self.step)):
                    data, self.lanes = self._data(stage), None
                self._set_learning_rates(stage)
                loss = 0.0
                for turn in range(config.accumulation):
                    before = time.time()
                    batch, own = next(data)
                    waited += time.time() - before
                    loss += self._backward(batch, turn, stage) / config.accumulation
                history.append(self._mean_loss(loss))
                self.step += 1
                bar.update()
                if after_step is not None:
                    after_step(self.step, history[-1])
                if self.step % config.log_every == 0:
                    self._log(bar, waited / (time.time() - started), own)
                    waited, started = 0.0, time.time()
                last = self.step == config.steps
                if last or self.step % config.checkpoint_every == 0:
                    self._checkpoint(stage, own)
                if config.sample_every and (last or self.step % config.sample_every == 0):
                    self._sample(stage)
        self._export()
        accelerator.end_training()
        return history

    def _data(self, stage: int) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
        """The batches of a stage, from where the run stopped or from its beginning."""
        config, rank, processes = self.config, self.accelerator.process_index, self.accelerator.num_processes
        data = config.course[stage].data
        own: list[dict[str, Any]] | None = None
        if self.lanes is not None:
            own = deal(self.lanes, processes * config.accumulation, data)[rank::processes]
        cut_off = None if self.components.text_encoder is None else self.components.text.cut_off
        return batches(data, rank, processes, own, config.workers, config.accumulation, cut_off)

    def _backward(self, batch: Batch, turn: int, stage: int) -> float:
        """One batch: loss and gradients, and after the last of an accumulation the update."""
        accelerator, config = self.accelerator, self.config
        # What is random in a sample follows from the sample, whatever batch or process it is in.
        generators = [_generator(config.seed, stage, number) for number in batch.numbers]
        t = torch.cat([config.time_of(stage)(1, generator) for generator in generators])
        torch.manual_seed(_seed(config.seed, self.step, turn, accelerator.process_index))  # for dropout in a model
        step = prepare_step(batch, self.components, t, generators, config.changed_weight)
        step.reference_weight = value_at(self.step, config.reference_weight)
        with accelerator.accumulate(self.wrapped), accelerator.autocast():
            losses = self.wrapped(step)  # (B,)
            loss = losses.mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(self.parameters, config.optimizer.max_grad_norm or math.inf)
                self._losses["gradient norm"].append(float(whole(norm)))
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
        if accelerator.sync_gradients:
            self.ema.step(self.parameters)
        self._record(batch.tasks, t, losses.detach().float().cpu())
        for name, values in self.objective.added.items():
            self._losses[name] += values.tolist()
        return loss.item()

    def _mean_loss(self, loss: float) -> float:
        """Over all processes. Raises FloatingPointError, in all of them, if it is not finite."""
        if self.accelerator.num_processes > 1:
            loss = self.accelerator.reduce(torch.tensor(loss, device=self.accelerator.device), "mean").item()
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.step}; lower the learning rate")
        return loss

    def _record(self, tasks: list[str], t: torch.Tensor, losses: torch.Tensor) -> None:
        for task, time_, loss in zip(tasks, t.tolist(), losses.tolist(), strict=True):
            self._losses["loss"].append(loss)
            self._losses[f"loss by task/{task}"].append(loss)
            low = min(int(time_ * TIME_BINS), TIME_BINS - 1) / TIME_BINS
            self._losses[f"loss by time/{low:.1f}"].append(loss)

    def _warn(self) -> None:
        """Of what would make the run slow, or its texts hard to read."""
        if self.config.precision == "bf16" and bf16_is_slow(self.accelerator.device):
            told = "bf16 takes this CPU %.0f times as long as float32, for lack of instructions; give --precision no"
            _log.warning(told, slowdown_of_bf16())
        if words := spelled_words(self.config, self.start):
            told = "the text encoder spells letter by letter, and so hardly reads: %s; give it these words before"
            _log.warning(f"{told} (python -m unireal.model.vocabulary)", " ".join(words[:20]))

    def _log(self, bar: tqdm, waiting: float, lanes: list[dict[str, Any]]) -> None:
        sums = {
            "bad records": [sum(lane["mixture"].get("bad", 0) for lane in lanes)],
            "prompts cut off": [sum(lane.get("cut", 0) for lane in lanes)],
            "samples waiting for a batch": [sum(len(lane["waiting"]) for lane in lanes)],
        }
        collected: dict[str, list[float]] = defaultdict(list)
        for losses in gather_object([dict(self._losses) | sums]):
            for name, values in losses.items():
                collected[name] += values
        means = {name: float(np.mean(values)) for name, values in collected.items()}
        means |= {name: float(sum(collected[name])) for name in sums}
        means["share of time waiting for data"] = waiting
        means["learning rate"] = self.optimizers[0].param_groups[0]["lr"]
        self.accelerator.log(means, step=self.step)
        bar.set_postfix(loss=f"{means['loss']:.4f}", norm=f"{means['gradient norm']:.2f}", wait=f"{waiting:.1%}")
        self._losses.clear()

    def _set_learning_rates(self, stage: int) -> None:
        start, config = self.config.course[stage].start, self.config
        factor = learning_rate_factor(self.step - start, config.steps - start, config.optimizer)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def _checkpoint(self, stage: int, own: list[dict[str, Any]]) -> None:
        turns = gather_object([own])  # of every process, one state for each turn
        lanes = [states[turn] for turn in range(self.config.accumulation) for states in turns]
        state = {
            "step": self.step,
            "stage": stage,
            "lanes": lanes,
            "words": self.start.words,
            "base": self.base,
            "vae": self.vae,
            "config": asdict(self.config),
        }
        folder = self.output / "checkpoints"
        save_checkpoint(folder, self.accelerator, self.tensors, state, self.config.keep_checkpoints)

    @contextmanager
    def _averaged(self) -> Iterator[Components | None]:
        """The components with the averaged weights, in one piece, in the main process; None in the others. Those of
        shards are on the CPU."""
        if not is_sharded(self.parameters):
            with averaged(self.ema, self.parameters):
                yield self.components if self.accelerator.is_main_process else None
            return
        shards: dict[str, torch.Tensor]
        shards = {n.removeprefix("parts."): p for n, p in self.objective.named_parameters()}
        shards |= zip(self.tensors.parameters, self.ema.shadow_params, strict=True)
        named = in_one_piece(shards, kept=self.accelerator.is_main_process)
        yield rebuilt(self.components, named) if self.accelerator.is_main_process else None

    def _export(self) -> None:
        """Saves output/model, a pipeline folder with the averaged weights, or output/lora, the averaged adapter."""
        with self._averaged() as components:
            if components is not None:
                save_model(components, self.start, self.config, self.output)
        self.accelerator.wait_for_everyone()

    def _sample(self, stage: int) -> None:
        """Draws a sheet of held-out examples with the averaged weights."""
        path = self.output / "samples" / f"step-{self.step:07d}.png"
        with self._averaged() as components:
            if components is not None:
                components.trainable.to(self.accelerator.device)
                save_sheet(components, self.start.settings, self.config.course[stage].data, path)
        self.accelerator.wait_for_everyone()


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*numbers))
