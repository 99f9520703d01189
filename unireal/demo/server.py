"""Serving the app: whom it lets in, how much it takes, which files it gives away, how it looks."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unireal.demo.engine import Engine

LOCAL = ("127.0.0.1", "localhost", "::1")
CSS = """
.head { align-items: center; }
.head h1 { margin: 0; }
.head p { margin: 0; color: var(--neutral-500); }
.model { text-align: right; font-size: 0.9em; color: var(--neutral-500); }
.card { border-left: 4px solid var(--border-color-primary) !important; }
.card.canvas { border-left-color: #2f6fde !important; }
.card.asset { border-left-color: #2e9e4f !important; }
.card.control { border-left-color: #e08a1e !important; }
.card .styler { background: var(--block-background-fill) !important; }
.role, .help { padding: 6px 10px; }
.editor { border: 1px solid var(--border-color-primary) !important; }
.files .empty { min-height: 100px !important; }
.shown img { width: 100% !important; height: 100% !important; object-fit: contain !important; }
.shown .grid-wrap, .shown .image-frame { padding-top: 28px; box-sizing: border-box; }
.shown .grid-container { grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)) !important; }
.shown img, .slider img { image-rendering: pixelated; }
.role span { color: var(--neutral-500); margin-left: 0.8em; font-size: 0.9em; }
.status progress { width: 100%; height: 8px; display: block; margin-bottom: 4px; }
.status { min-height: 34px; }
@media (max-width: 640px) {
  .head { flex-direction: column; align-items: start; gap: 4px !important; }
  .model { text-align: left; }
}
"""


def credentials(text: str) -> list[tuple[str, str]]:
    """Names and passwords from USER:PASSWORD, or from a file with one such line for each user.

    Raises ValueError for anything else.
    """
    lines = Path(text).read_text(encoding="utf-8").splitlines() if Path(text).is_file() else [text]
    pairs = [line.strip().partition(":") for line in lines if line.strip() and not line.startswith("#")]
    if not pairs or not all(name and colon and password for name, colon, password in pairs):
        raise ValueError("--auth takes USER:PASSWORD, or a file with one such line for each user")
    return [(name, password) for name, _, password in pairs]


def check_port(host: str, port: int) -> None:
    """Raises ValueError if nothing can be served there; port 0 is any that is free."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is 0 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"cannot serve at {host}:{port} ({reason}); choose another --host or --port") from error


@contextmanager
def served(
    engine: Engine, host: str = "127.0.0.1", port: int = 0, auth: list[tuple[str, str]] | None = None
) -> Iterator[str]:
    """The app is served inside the with block, which gets its address. Uploads and results lie in a folder of its own,
    which goes away with it; no other file can be read."""
    check_port(host, port)
    folder = tempfile.mkdtemp(prefix="unireal-demo-")
    before = {name: os.environ.get(name) for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED")}
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}  # before gradio is imported
    import gradio as gr

    from unireal.demo.app import build_app

    app = build_app(engine)
    app.queue(max_size=engine.limits.queue, api_open=False, default_concurrency_limit=8)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # no web fonts: offline
    try:
        _, address, _ = app.launch(
            server_name=host,
            server_port=port or None,
            auth=auth,
            max_file_size=engine.limits.upload,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=["api"],
            theme=gr.themes.Default(primary_hue="blue", **fonts),
            css=CSS,
            _frontend=False,  # else it asks itself for the page and gives up after 3 s, too little on a busy machine
        )
        engine.start()
        yield address
    finally:
        app.close(verbose=False)
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
