#!/usr/bin/env python3
"""Take the pictures of the page that the documents show, from a daemon on the shipped fleet.

The data are those of the recording; the times are of now. A second version runs as a shadow, so that two are compared.
Needs Chromium and Playwright. Writes `docs/images/*.png`.
"""

import argparse
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from streamd.tools.loadtest.demo_folder import DEMO_RULES
from tests.support.page_browser import EmptyProfiles, ViewOpener, launch_chromium
from tests.support.page_daemon import PageDaemon
from tests.support.worker_fleet import wait_until

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
SETTINGS = {
    "STREAMD_MAX_SERVERS": "1000",
    "STREAMD_LANES": "3",
    "STREAMD_BUCKETS": "1,4,8,16,32",
    "STREAMD_WARMUP_SECONDS": "1",
}
SHADOW = "tft_tensorrt_20261129_232100"
STREAM_STEPS = 372
"""Steps that are forecast one after the other; after as many, scores are no longer too few to judge."""
BUSY_STEPS = 180
"""Of these, how many are over when the picture of the daemon at work is taken."""
DRAWN_MS = 2_500
"""How long a view gets to draw what it loads one after the other."""
BUSY_MS = 12_000
"""The same for the daemon at work: rates are differences."""
MAX_BYTES = 200_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of one view."""

    name: str
    view: str
    heading: str
    query: dict[str, str] = field(default_factory=dict)
    scheme: str = "light"
    width: int = 1280
    height: int = 800
    is_busy: bool = False
    """Whether rows arrive while the picture is taken."""


SERVER = {"server": "machine-3-5", "target": "disk_usage"}
PICTURES = (
    Picture("fleet", "fleet", "Fleet"),
    Picture("server", "servers", "machine-3-5", SERVER),
    Picture("alerts", "alerts", "Alerts"),
    Picture("accuracy", "accuracy", "Accuracy"),
    Picture("operations", "operations", "Operations", is_busy=True),
    Picture("server-dark", "servers", "machine-3-5", SERVER, scheme="dark"),
    Picture("fleet-phone", "fleet", "Fleet", width=390, height=780),
)


def main() -> int:
    """Take all pictures, or those that are named; returns 1 if one is too large for a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(each.name for each in PICTURES)}")
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder to write into [default: docs/images]")
    args = parser.parse_args()
    chosen = [each for each in PICTURES if not args.names or each.name in args.names]
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="streamd-pictures-") as folder, sync_playwright() as playwright:
        daemon = PageDaemon(Path(folder), SETTINGS, DEMO_RULES)
        browser = launch_chromium(playwright)
        try:
            daemon.start()
            camera = Camera(ViewOpener(EmptyProfiles(browser), daemon.url), args.output)
            take_all(daemon, camera, chosen)
        finally:
            browser.close()
            daemon.stop()
    return int(camera.largest > MAX_BYTES)


def take_all(daemon: PageDaemon, camera: "Camera", pictures: list[Picture]) -> None:
    """Take the pictures of the daemon at work while it is filled, and then the others."""
    body = {"version": SHADOW, "share": 1.0, "shadow": True}
    status, answer = daemon.call("POST", "v1/engines/candidate", body, is_admin=True)
    assert status == 200, answer
    filling = threading.Thread(target=daemon.fill, args=[(1,) * STREAM_STEPS])
    filling.start()
    busy_rows = 12 * BUSY_STEPS
    wait_until(lambda: bool(daemon.get("v1/status")["rows"]["delivered"] > busy_rows), seconds=300)
    for picture in pictures:
        if picture.is_busy:
            camera.take(picture, BUSY_MS)
    filling.join()
    for picture in pictures:
        if not picture.is_busy:
            camera.take(picture, DRAWN_MS)


class Camera:
    """Takes pictures of views into a folder."""

    def __init__(self, open_view: ViewOpener, folder: Path) -> None:
        self.largest = 0
        """The size of the largest file in bytes."""
        self._open_view = open_view
        self._folder = folder

    def take(self, picture: Picture, drawn_ms: int) -> None:
        """Open a view, give it time to draw, and take its picture; any complaint of the page ends the program."""
        page = self._open_view(
            picture.view, picture.query, scheme=picture.scheme, width=picture.width, height=picture.height
        )
        expect(page.get_by_role("heading", level=1, name=picture.heading)).to_be_visible()
        expect(page.get_by_text("Loading")).to_have_count(0)
        page.wait_for_timeout(drawn_ms)
        path = self._folder / f"{picture.name}.png"
        page.screenshot(path=path)
        size = path.stat().st_size
        self.largest = max(self.largest, size)
        print(f"{path}: {size:,} bytes")
        self._open_view.close()


if __name__ == "__main__":
    raise SystemExit(main())
