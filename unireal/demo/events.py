"""What the page's small events have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

# Events that answer at once, beside the queue, and are no part of the API.
QUIET = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}


@contextmanager
def told() -> Iterator[None]:
    """What a visitor did wrong is shown to them, without a traceback in the log."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error
