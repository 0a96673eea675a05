"""A headless browser that looks at a page: broken images, wide tables, requests, screenshots."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, NARROW = 1280, 400  # pixels
INSPECT = """
const page = document.documentElement;
return {
  images: [...document.images].map(i => [i.alt, i.complete && i.naturalWidth > 0, i.getBoundingClientRect().right]),
  tables: [...document.querySelectorAll('table')].map(t => {
    let box = t.parentElement;
    return [t.innerText.slice(0, 60), t.getBoundingClientRect().right, box.getBoundingClientRect().right,
            getComputedStyle(box).overflowX];
  }),
  width: page.clientWidth, scroll: page.scrollWidth, text: document.body.innerText,
}
"""


class Browser:
    """A browser, at one width at a time."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str, width: int = DESKTOP) -> dict[str, Any]:
        """Open a page at a width; what `INSPECT` finds in it, and the addresses that were asked for."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get_log("performance")
        self.driver.get(address)
        return {**self.driver.execute_script(INSPECT), "requests": list(self._list_requests())}

    def _list_requests(self) -> Iterator[str]:
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                yield message["params"]["request"]["url"]

    def save_screenshot(self, path: Path) -> Path:
        """Write the whole page, not only what is in view."""
        parameters = {"captureBeyondViewport": True, "format": "png"}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", parameters)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a headless browser; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no browser here: chromium and chromedriver are needed to look at pages")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    words = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
    for word in (*words, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Browser(started)
    finally:
        started.quit()


def find_faults(page: dict[str, Any]) -> list[str]:
    """Find what is wrong with an opened page: broken or wide images, tables beyond their box, sideways scrolling."""
    faults = [f"broken image: {alt}" for alt, is_whole, _ in page["images"] if not is_whole]
    faults += [f"wide image: {alt}" for alt, _, right in page["images"] if right > page["width"] + 1]
    for name, right, edge, overflow in page["tables"]:
        if right > edge + 1 and overflow not in ("auto", "scroll"):
            faults.append(f"table beyond its box: {name}")
        if edge > page["width"] + 1:
            faults.append(f"table's box beyond the page: {name}")
    if page["scroll"] > page["width"]:
        faults.append(f"the page scrolls sideways: {page['scroll']} of {page['width']} pixels")
    return faults


def find_foreign(page: dict[str, Any]) -> list[str]:
    """Find addresses that a page asked for beyond itself."""
    return [url for url in page["requests"] if not url.startswith(("data:", "file:", "http://127.0.0.1", "blob:"))]
