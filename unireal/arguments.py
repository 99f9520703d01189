"""What command lines share: errors in one line, counts and devices."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Tells a wrong argument in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}; see {self.prog} --help\n")


def at_least_one(text: str) -> int:
    """Of an option: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def usable_device(name: str) -> str:
    """A device that torch can work on; "auto" is cuda if there is one, else cpu. Raises ValueError for another."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # the device "meta" computes nothing
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(
            f"device {name!r} cannot be used here ({reason}); give another --device, such as cpu"
        ) from error
    return name
