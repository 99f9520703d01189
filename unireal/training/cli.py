"""The command line of train.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import tyro

from unireal.experiments import EXPERIMENTS, TrainConfig, get_experiment


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Trains one experiment; any field of its configuration can be set with --section.field VALUE.",
        epilog=f"experiments: {', '.join(EXPERIMENTS)}",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/EXPERIMENT)")
    options, overrides = parser.parse_known_args(arguments)
    try:
        config = tyro.cli(
            TrainConfig, args=overrides, default=get_experiment(options.experiment), prog=f"train.py {options.experiment}"
        )
        output = options.output or Path("runs") / options.experiment
        if not options.resume and (output / "checkpoints").exists():
            raise ValueError(f"{output} holds an earlier run; add --resume or give another --output")
        output.mkdir(parents=True, exist_ok=True)
        from unireal.training.trainer import Trainer

        trainer = Trainer(config, output)
        if options.resume:
            trainer.resume()
    except (ValueError, OSError, ImportError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    trainer.train()
    print(f"model saved to {output / 'model'}")
    return 0
