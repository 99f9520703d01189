"""The command line of train.py. Bad input ends it with status 2 and one line on stderr."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
import textwrap
from dataclasses import fields
from pathlib import Path

import tyro

from unireal.arguments import Parser, failed, memory_errors
from unireal.experiments import EXPERIMENTS, TrainConfig, get_experiment
from unireal.notices import one_line
from unireal.plugins import add_plugin_argument
from unireal.training.checkpoint import check_no_run, last_saved
from unireal.training.run_file import load_run


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input, 1 if the training itself failed, 130 if it was interrupted."""
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    try:
        if options.help and options.experiment is None:
            parser.print_help()
            return 0
        config = _config(options.experiment)
        if options.help:
            return _print_fields(parser, config)
        config = overridden(config, overrides)
        output = options.output or Path("runs") / Path(options.experiment).stem
        if not options.resume:
            check_no_run(output)
        from unireal.training.trainer import Trainer

        trainer = Trainer(config, output)
        if options.resume:
            trainer.resume()
        output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, ImportError) as error:
        return _failed(error, 2)
    return _train(trainer)


class _Parser(Parser):
    start = "train.py"


class _Formatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Names of experiments have hyphens, at which no line may end."""
        return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="train.py",
        description="Trains one experiment, or a run that a YAML file describes. Any field of its configuration can be "
        "set with --section.field VALUE.",
        epilog=f"experiments: {', '.join(EXPERIMENTS)}; EXPERIMENT --help lists all fields and their values in it",
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", nargs="?", help="its name, or the path of a .yaml file")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/EXPERIMENT)")
    add_plugin_argument(parser)
    parser.add_argument("-h", "--help", action="store_true", help="show this, and with EXPERIMENT all its fields")
    return parser


def _config(experiment: str | None) -> TrainConfig:
    if experiment is None:
        raise ValueError(f"no experiment given; choose from: {', '.join(EXPERIMENTS)}, or give a .yaml file")
    return load_run(Path(experiment)) if experiment.endswith((".yaml", ".yml")) else get_experiment(experiment)


def _train(trainer) -> int:
    logging.basicConfig(format="train.py: %(message)s", level=logging.WARNING)
    try:
        with memory_errors("try a smaller --data.batch-size, --gradient-checkpointing or --precision bf16"):
            trainer.train()
    except ValueError as error:  # the data turned out bad, or the batches too large
        return _failed(error, 2)
    except FloatingPointError as error:
        return _failed(error, 1)
    except OSError as error:
        return _failed(f"cannot write to {trainer.output} ({error}); {last_saved(trainer.output, 'make room and ')}", 1)
    except KeyboardInterrupt:
        return _failed(f"interrupted; {last_saved(trainer.output)}", 130)
    if trainer.accelerator.is_main_process:
        made = [str(trainer.output / name) for name in ("model", "lora") if (trainer.output / name).is_dir()]
        print(f"model saved to {' and '.join(made)}")
    return 0


def _failed(message: object, status: int) -> int:
    return failed(message, status, "train.py")


def _print_fields(parser: argparse.ArgumentParser, config: TrainConfig) -> int:
    """The command line, then every field with its value in this configuration."""
    print(parser.format_help())
    listing = io.StringIO()
    with contextlib.redirect_stdout(listing), contextlib.suppress(SystemExit):
        tyro.cli(TrainConfig, args=["--help"], default=config, prog="train.py", use_underscores=False)
    print(listing.getvalue().partition("\n\n")[2].strip() or listing.getvalue())
    return 0


def overridden(config: TrainConfig, overrides: list[str]) -> TrainConfig:
    """The configuration with --section.field VALUE pairs put in. Raises ValueError for unknown fields or bad values."""
    message, overrides = io.StringIO(), _as_flags(overrides)
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(TrainConfig, args=overrides, default=config, prog="train.py", use_underscores=False)
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[^\x20-\x7e\n]", " ", message.getvalue())  # colours and the box's lines
        text = one_line(text).partition(" For full helptext")[0]
        raise ValueError(re.sub(r"^(Unrecognized options (?=Unrec)|Value error )", "", text)) from stop


def _as_flags(overrides: list[str]) -> list[str]:
    """With fields that are true or false as tyro takes them: --compile False is --no-compile."""
    switches = {f"--{field.name}".replace("_", "-") for field in fields(TrainConfig) if isinstance(field.default, bool)}
    written: list[str] = []
    for word in overrides:
        name, said = written[-1] if written else "", word.lower()
        if name.replace("_", "-") in switches and said in ("true", "false"):
            written[-1] = name if said == "true" else f"--no-{name[2:]}"
        else:
            written.append(word)
    return written
