"""Warnings of a call reach those who show them, once, and nothing of it stays."""

from __future__ import annotations

import logging

import pytest

from unireal.notices import SOURCES, collected

_LOGGER = logging.getLogger("unireal.somewhere")


def test_warnings_are_collected_once_and_go_nowhere_else(caplog):
    shown = []
    with collected(shown.append) as notices:
        _LOGGER.warning("the prompt is\n  too %s", "long")
        _LOGGER.warning("the prompt is too long")
        _LOGGER.info("loaded")
        logging.getLogger("diffusers.pipelines.flux").warning("ignored")
        logging.getLogger("another.library").warning("of no interest")
    assert notices == shown == ["the prompt is too long", "ignored"]
    assert caplog.messages == ["of no interest"]


def test_loggers_are_as_before_also_after_an_error(caplog):
    def state():
        return [(logger.level, logger.propagate, list(logger.handlers)) for logger in map(logging.getLogger, SOURCES)]

    before = state()
    with pytest.raises(RuntimeError), collected():
        raise RuntimeError
    assert state() == before
    _LOGGER.warning("heard again")
    assert caplog.messages == ["heard again"]
