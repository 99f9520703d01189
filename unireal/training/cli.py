"""The command line of train.py. Bad input ends it with status 2 and one line on stderr."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from pathlib import Path

import tyro

from unireal.experiments import EXPERIMENTS, TrainConfig, get_experiment


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input, 1 if the training itself failed."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Trains one experiment; any field of its configuration can be set with --section.field VALUE.",
        epilog=f"experiments: {', '.join(EXPERIMENTS)}",
        allow_abbrev=False,
    )
    parser.add_argument("experiment", metavar="EXPERIMENT")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/EXPERIMENT)")
    options, overrides = parser.parse_known_args(arguments)
    try:
        config = overridden(get_experiment(options.experiment), overrides)
        output = options.output or Path("runs") / options.experiment
        if not options.resume and (output / "checkpoints").exists():
            raise ValueError(f"{output} holds an earlier run; add --resume or give another --output")
        from unireal.training.trainer import Trainer

        trainer = Trainer(config, output)
        if options.resume:
            trainer.resume()
        output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, ImportError) as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    try:
        trainer.train()
    except FloatingPointError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    print(f"model saved to {output / 'model'}")
    return 0


def overridden(config: TrainConfig, overrides: list[str]) -> TrainConfig:
    """The configuration with --section.field VALUE pairs put in. Raises ValueError for unknown fields or bad values."""
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(TrainConfig, args=overrides, default=config, prog="train.py", use_underscores=False)
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[^\x20-\x7e\n]", " ", message.getvalue())  # colours and the box's lines
        text = " ".join(text.split()).partition(" For full helptext")[0]
        raise ValueError(re.sub(r"^(Unrecognized options (?=Unrec)|Value error )", "", text)) from stop
