"""The demo in a real browser, without a window: Debian's Chromium through Playwright.

Run by `make test-browser`, not with the other tests: they take a minute of a processor that does nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unireal.demo.engine import Engine
from unireal.demo.limits import Limits
from unireal.demo.server import served
from unireal.tasks import TASKS

sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright, of the extra dev")
families = pytest.importorskip("unireal.demo.app", reason="the demo needs the extra demo").families

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="browser tests need the Debian package chromium"),
    pytest.mark.skipif("BROWSER_TESTS" not in os.environ, reason="browser tests are run by make test-browser"),
]

EXAMPLES = Path(__file__).parent.parent / "examples"
# The image editor draws with WebGL; without a GPU that is SwiftShader's.
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 120_000  # milliseconds, for a machine with other work


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    engine = Engine("unireal-tiny", "cpu", limits=Limits(upload=300_000))
    with served(engine) as address:
        yield address
    engine.close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """A page and what one does on it. outside: addresses that it asked for elsewhere."""

    def __init__(self, browser, address: str):
        # coarse pixels: the image editor is drawn by the processor
        self.context = browser.new_context(viewport={"width": 1000, "height": 700}, device_scale_factor=0.4)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.outside: list[str] = []
        own = (address, "data:", "blob:")
        self.page.on("request", lambda r: None if r.url.startswith(own) else self.outside.append(r.url))
        self.page.goto(address)
        self.seen(self.page.locator(".model", has_text="unireal-tiny on cpu")).first.wait_for()

    def seen(self, locator):
        return locator.locator("visible=true")

    def task(self, name: str) -> None:
        family = next(family for family, specs in families().items() if TASKS[name] in specs)
        for tab in (family, name):
            self.page.get_by_role("tab", name=tab, exact=True).click()

    def button(self, name: str) -> None:
        self.seen(self.page.get_by_role("button", name=name, exact=True)).first.click()

    def advanced(self) -> None:
        self.seen(self.page.get_by_role("button", name="Advanced")).first.click()

    def fill(self, label: str, text: str) -> None:
        self.seen(self.page.get_by_label(label, exact=True)).first.fill(text)

    def upload(self, path: Path) -> None:
        self.seen(self.page.locator(".card")).first.locator("input[type=file]").first.set_input_files(path)

    def status(self, text: str) -> None:
        self.seen(self.page.locator(".status", has_text=text)).first.wait_for()

    def download(self, folder: Path, number: int = 0) -> Path:
        with self.page.expect_download() as download:
            self.seen(self.page.locator(".files a[download]")).nth(number).click()
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path


@pytest.fixture
def visitor(browser, address):
    visitor = Visitor(browser, address)
    yield visitor
    visitor.context.close()


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_page_has_a_tab_for_each_family_and_needs_no_other_server(visitor):
    for name, specs in families().items():
        visitor.page.get_by_role("tab", name=name, exact=True).click()
        for spec in specs:
            visitor.seen(visitor.page.get_by_role("tab", name=spec.name, exact=True)).wait_for()
    assert visitor.outside == []


def test_upload_run_see_and_download(visitor, tmp_path):
    visitor.task("edit")
    visitor.upload(EXAMPLES / "room.png")
    visitor.fill("prompt", "Make the red circle green.")
    visitor.button("Run")
    visitor.status("done in")
    shown = visitor.seen(visitor.page.locator(".shown img")).last
    assert shown.evaluate("image => image.naturalWidth") == 64
    path = visitor.download(tmp_path)
    with Image.open(path) as image:
        record = json.loads(image.info["unireal"])
    assert record["options"]["prompt"] == "Make the red circle green."
    visitor.page.get_by_role("tab", name="Before and after").locator("visible=true").click()
    visitor.seen(visitor.page.locator(".slider img")).first.wait_for()
    visitor.page.get_by_role("tab", name="Gallery").locator("visible=true").click()
    visitor.seen(visitor.page.locator(".grid-wrap img, .gallery-item img")).first.wait_for()


def test_only_what_is_painted_changes(visitor, tmp_path):
    visitor.task("inpaint")
    canvas = visitor.seen(visitor.page.locator(".editor canvas")).first
    canvas.wait_for()
    visitor.upload(EXAMPLES / "room_wide.png")
    zoomed = visitor.page.locator(".editor", has_text=re.compile(r"[1-9]\d\d%"))  # to a picture smaller than itself
    visitor.seen(zoomed).first.wait_for()
    visitor.seen(visitor.page.get_by_role("button", name="Brush")).first.click()
    box = canvas.bounding_box()
    middle, centre = box["y"] + box["height"] / 2, box["x"] + box["width"] / 2
    visitor.page.mouse.move(centre - 40, middle)
    visitor.page.mouse.down()
    visitor.page.mouse.move(centre + 40, middle, steps=8)
    visitor.page.mouse.up()
    visitor.button("Run")
    visitor.status("done in")
    changed = (pixels(visitor.download(tmp_path)) != pixels(EXAMPLES / "room_wide.png")).any(axis=2)
    assert changed[20:44, 30:66].any()  # around the middle of 96x64 pixels
    assert not changed[:10].any() and not changed[-10:].any()


def test_points_are_dragged_by_two_clicks(visitor):
    visitor.task("control")
    visitor.seen(visitor.page.get_by_label("kind", exact=True)).first.click()
    visitor.page.get_by_role("option", name="drag").click()
    visitor.upload(EXAMPLES / "room.png")
    board = visitor.seen(visitor.page.locator(".board img"))
    board.wait_for()
    for x in (0.25, 0.75):
        before = board.get_attribute("src")
        box = board.bounding_box()  # the picture is square, as the box is
        board.click(position={"x": x * box["width"], "y": box["height"] / 2})
        visitor.page.wait_for_function("before => document.querySelector('.board img')?.src !== before", arg=before)
    marks = json.loads(visitor.seen(visitor.page.get_by_label("as JSON", exact=True)).first.input_value())
    (drag,) = marks["drags"]
    assert np.allclose([*drag["start"], *drag["end"]], [16, 32, 48, 32], atol=1)
    visitor.fill("as JSON", json.dumps(marks)[:-1])
    visitor.seen(visitor.page.get_by_text("the marks are not JSON")).wait_for()
    visitor.fill("as JSON", json.dumps(marks))
    visitor.seen(visitor.page.get_by_text("Click a point of the picture")).wait_for()
    visitor.fill("prompt", "a sand room with a red circle")
    visitor.button("Run")
    visitor.status("done in")


def test_cancel_and_run_again(visitor):
    visitor.task("t2i")
    visitor.fill("prompt", "a red circle in a sand room")
    visitor.advanced()
    visitor.fill("steps", "200")
    visitor.fill("width", "160")
    visitor.fill("height", "160")
    visitor.button("Run")
    visitor.status("of 200")
    visitor.button("Cancel")
    visitor.status("cancelled")
    visitor.fill("steps", "1")
    visitor.button("Run")
    visitor.status("done in")


def test_a_bad_file_is_told(visitor, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    visitor.task("edit")
    visitor.upload(bad)
    visitor.fill("prompt", "Make it red.")
    visitor.page.wait_for_timeout(500)
    visitor.button("Run")
    visitor.status("not a picture")
    large = tmp_path / "large.png"
    large.write_bytes(b"x" * 400_000)
    visitor.task("tryon")
    visitor.upload(large)
    visitor.page.get_by_text("maximum allowed size", exact=False).first.wait_for()


def test_two_users_at_once(browser, address, tmp_path):
    visitors = [Visitor(browser, address) for _ in range(2)]
    for number, visitor in enumerate(visitors):
        visitor.task("t2i")
        visitor.fill("prompt", f"a {('red', 'blue')[number]} circle")
        visitor.advanced()
        visitor.fill("steps", "8")
    for visitor in visitors:
        visitor.button("Run")
    prompts = []
    for number, visitor in enumerate(visitors):
        visitor.status("done in")
        folder = tmp_path / str(number)
        with Image.open(visitor.download(folder)) as image:
            prompts.append(json.loads(image.info["unireal"])["options"]["prompt"])
        visitor.context.close()
    assert prompts == ["a red circle", "a blue circle"]
