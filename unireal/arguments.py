"""What command lines share: errors, counts, sizes, names, devices and their memory."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any, NoReturn

from unireal.notices import one_line

_PACKAGES = {"cv2": "opencv-python-headless", "cleanfid": "clean-fid", "skimage": "scikit-image"}  # by what is imported


def failed(message: object, status: int = 2, start: str = "error") -> int:
    """Tells on stderr, in one line, why a command ends; returns the exit status."""
    message = _not_installed(message) if isinstance(message, ImportError) else message
    print(f"{start}: {one_line(message)}", file=sys.stderr)
    return status


def _not_installed(error: ImportError) -> str:
    """What to do about a package that is not there: the first extra of setup.cfg that has it."""
    name = (error.name or "").partition(".")[0]
    # transformers names what it lacks in the text alone
    named = (_PACKAGES.get(name, name), *str(error).lower().split())
    for requirement in metadata.requires("unireal") or ():
        package, extra = re.match(r"[^<>=;]+", requirement), re.search(r"extra == .(\w+)", requirement)
        if package and extra and package[0] in named:
            return f"{package[0]} is not installed: pip install 'unireal[{extra[1]}]'"
    return str(error)


class Parser(argparse.ArgumentParser):
    """Tells a wrong argument in one line, which begins with `start`, with exit status 2."""

    start = "error"

    def error(self, message: str) -> NoReturn:
        self.exit(failed(message + self.hint(message), start=self.start))

    def hint(self, message: str) -> str:
        """What an error's line ends with."""
        return f"; see {self.prog} --help"


def at_least_one(text: str) -> int:
    """Of an option: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def seed(text: str) -> int:
    """Of an option: a seed that torch and NumPy take."""
    if not text.isdecimal() or int(text) >= 2**63:  # torch takes no larger one
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number in 0..2**63 - 1")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """Of an option: words separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def size(text: str) -> tuple[int, int]:
    """Of an option: the (height, width) of "WxH"."""
    if not re.fullmatch(r"-?[0-9]{1,9}[xX]-?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not WxH in pixels, for example 64x48")
    width, height = text.lower().split("x")
    return int(height), int(width)


def usable_device(name: str, offload: bool = False) -> str:
    """A device that torch can work on; "auto" is cuda if there is one, else cpu.

    offload: whether weights are to wait beside it, in the CPU's memory. Raises ValueError for a device that cannot be
    used, and for the CPU if they are.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # the device "meta" computes nothing
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(
            f"device {name!r} cannot be used here ({reason}); give another --device, such as cpu"
        ) from error
    if offload and torch.device(name).type == "cpu":
        raise ValueError("--offload is for a GPU with little memory, but the device is the CPU; leave it out")
    return name


def placed(pipeline: Any, device: str, offload: bool = False) -> Any:
    """A pipeline, ours or one of diffusers, on a device; offload: each part is there only while it works, and waits in
    the CPU's memory."""
    if not offload:
        return pipeline.to(device)
    pipeline.enable_model_cpu_offload(device=device)
    return pipeline


@contextmanager
def memory_errors(remedy: str) -> Iterator[None]:
    """Raises ValueError, with what helps, where the memory of the device does not suffice."""
    try:
        yield
    except RuntimeError as error:  # of a GPU torch.OutOfMemoryError, of others this
        if not re.search("out of memory|allocate memory", str(error)):
            raise
        reason = one_line(error).split(". ")[0]
        raise ValueError(f"the memory does not suffice ({reason}); {remedy}") from error
