"""Fixtures of the tests of the page: a browser and a daemon for each module, and views that fail on any complaint."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.page_browser import EmptyProfiles, ViewOpener, launch_chromium
from tests.support.page_daemon import PageDaemon


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium for one module: while Playwright runs, no other test of its thread may run an event loop."""
    if shutil.which("chromium") is None:
        pytest.skip("the tests of the page need Debian's package chromium")
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def profiles(browser: Browser) -> EmptyProfiles:
    """Return the profiles of the browser of one module."""
    return EmptyProfiles(browser)


@pytest.fixture(scope="module")
def page_daemon(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageDaemon]:
    """Start a daemon on the shipped fleet, the newest rows being of now; shared by the tests of one module."""
    daemon = PageDaemon(tmp_path_factory.mktemp("page"))
    daemon.start()
    try:
        daemon.fill()
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def open_view(profiles: EmptyProfiles, page_daemon: PageDaemon) -> Iterator[ViewOpener]:
    """Open views of the page: `open_view("fleet", {"search": "db"})`; any complaint of a page fails the test."""
    opener = ViewOpener(profiles, page_daemon.url, page_daemon.token)
    yield opener
    opener.close()
