"""What is told in one line: errors, and what the pipelines log while they work, for those who show it elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SOURCES = ("unireal", "diffusers.pipelines")  # the loggers that speak of what a user asked for


def one_line(message: object, limit: int | None = None) -> str:
    """A text or an error without line breaks; limit: characters at most."""
    return " ".join(str(message).split())[:limit]


class _Collector(logging.Handler):
    def __init__(self, notices: list[str], show: Callable[[str], None]):
        super().__init__(logging.WARNING)
        self._notices, self._show = notices, show

    def emit(self, record: logging.LogRecord) -> None:
        notice = one_line(record.getMessage())
        if notice not in self._notices:  # a video may say the same in every window
            self._notices.append(notice)
            self._show(notice)


@contextmanager
def collected(show: Callable[[str], None] = lambda _: None) -> Iterator[list[str]]:
    """The warnings of SOURCES that come while the block runs, one line each, in a list that grows; they go nowhere
    else. show: called with each of them when it comes."""
    notices: list[str] = []
    collector = _Collector(notices, show)
    loggers = [logging.getLogger(name) for name in SOURCES]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(collector)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    try:
        yield notices
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(collector)
            logger.setLevel(level)
            logger.propagate = propagate
