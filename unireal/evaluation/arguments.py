"""A parser of command lines whose errors are ValueErrors, so that a command prints all bad input in the same way."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Raises ValueError where argparse would print the usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def names(text: str) -> tuple[str, ...]:
    """Of an option: words separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
