"""Makes docs/images/demo.png, the demo's page after an example was run: python docs/make_demo_image.py

Needs the extra dev and the Debian package chromium.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from unireal.demo.engine import Engine
from unireal.demo.server import served

OUTPUT = Path(__file__).parent / "images" / "demo.png"
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # the image editor needs WebGL


def main() -> None:
    with served(Engine("unireal-tiny", "cpu")) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1300})
        page.set_default_timeout(180_000)
        page.goto(address)
        for tab in ("Edit", "insert"):
            page.get_by_role("tab", name=tab, exact=True).click()
        page.locator("table tbody tr").locator("visible=true").first.click()
        page.locator(".editor canvas").locator("visible=true").first.wait_for()
        page.get_by_role("button", name="Run", exact=True).locator("visible=true").click()
        page.locator(".status", has_text="done in").locator("visible=true").first.wait_for()
        page.wait_for_function("[...document.querySelectorAll('.shown img')].every(image => image.complete)")
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(3000)  # pictures fade in
        page.screenshot(path=OUTPUT)
        browser.close()
    print(OUTPUT)


if __name__ == "__main__":
    main()
