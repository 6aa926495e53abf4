"""Tests `streamd/web/page/src/frame`: the token of a tab, keys, the state of the connection, phones and paper."""

import contextlib
import io
import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from streamd.cli import main
from tests.support.page_browser import EmptyProfiles, ViewOpener, check_accessible
from tests.support.page_daemon import PageDaemon

VIEWS = ("Fleet", "Server", "Alerts", "Accuracy", "Operations")
NARROWEST = 360


class TokenFile:
    """The tokens file of a daemon."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, name: str, *scopes: str) -> str:
        """Add a token with these scopes, and return it."""
        options = [option for scope in scopes for option in ("--scope", scope)]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["token", "create", name, *options, "--file", str(self.path)]) == 0
        found = re.search(r"streamd_\w+", printed.getvalue())
        assert found is not None
        return found[0]

    def revoke(self, name: str, daemon: PageDaemon) -> None:
        """Revoke a token of a daemon that runs."""
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["token", "revoke", name, "--file", str(self.path)]) == 0
        os.kill(daemon.pid, signal.SIGHUP)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenFile:
    """Make the tokens file of the daemon."""
    return TokenFile(tmp_path_factory.mktemp("tokens") / "tokens.json")


@pytest.fixture(scope="module")
def reader_token(tokens: TokenFile) -> str:
    """Make the token of a person who may look, but change no version."""
    return tokens.create("reader", "read", "subscribe", "ingest")


@pytest.fixture
def open_view(profiles: EmptyProfiles, page_daemon: PageDaemon, reader_token: str) -> Iterator[ViewOpener]:
    """Open views of the page; with `is_admin`, with the token of the reader."""
    opener = ViewOpener(profiles, page_daemon.url, reader_token)
    yield opener
    opener.close()


@pytest.fixture(scope="module")
def page_daemon(
    browser: Browser, tokens: TokenFile, reader_token: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PageDaemon]:
    """Start a daemon with tokens, with one server that has one row."""
    daemon = PageDaemon(tmp_path_factory.mktemp("page"), {"STREAMD_TOKENS_FILE": str(tokens.path)})
    daemon.start()
    try:
        send_sample(daemon, reader_token)
        yield daemon
    finally:
        daemon.stop()


def send_sample(daemon: PageDaemon, token: str) -> None:
    """Send one sample of one server, of now."""
    sample = {"server": "web-01", "time": time.time(), "values": {"cpu_user": 12.5}}
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"samples": [sample]}).encode()
    request = urllib.request.Request(f"{daemon.url}/v1/samples", body, headers)
    with urllib.request.urlopen(request) as response:
        assert json.load(response)["accepted"] == 1


def give_token(page: Page, token: str) -> None:
    """Type a token into the dialog, and use it."""
    page.locator("input[type=password]").fill(token)
    page.get_by_role("button", name="Use this token").click()


def read_state(page: Page) -> str:
    """Return all that the page keeps or shows outside of the password field."""
    kept = "document.cookie, JSON.stringify(localStorage), location.href, document.title, document.body.innerText"
    return str(page.evaluate(f"[{kept}].join()"))


def test_a_token_is_asked_for_tried_used_and_asked_for_again_when_it_is_revoked(
    open_view: ViewOpener, page_daemon: PageDaemon, tokens: TokenFile
) -> None:
    token = tokens.create("on-call", "read", "subscribe")
    os.kill(page_daemon.pid, signal.SIGHUP)
    page = open_view("fleet")
    dialog = page.get_by_role("dialog", name="Give a token")
    with open_view.watch(page).tolerate():
        expect(dialog).to_contain_text("this call needs a token")
        check_accessible(page)
        give_token(page, "streamd_wrong")
        expect(dialog.get_by_role("alert")).to_contain_text("does not take it")
        expect(page.locator("input[type=password]")).to_have_attribute("aria-invalid", "true")
        give_token(page, token)
        expect(dialog).to_have_count(0)
        expect(page.locator(".top-state")).to_contain_text("live")
    assert token not in read_state(page)
    page.reload()
    expect(page.locator(".top-state")).to_contain_text("live")
    with open_view.watch(page).tolerate():
        tokens.revoke("on-call", page_daemon)
        expect(dialog).to_contain_text("The daemon says")
        expect(page.locator(".top-state")).to_contain_text("token needed")
        page.get_by_role("button", name="Forget the token").click()
        expect(dialog).to_contain_text("needs a token")  # now nothing is sent
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("button", name="Give a token", exact=True)).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_token_that_may_not_subscribe_shows_why_nothing_is_live(
    open_view: ViewOpener, page_daemon: PageDaemon, tokens: TokenFile
) -> None:
    token = tokens.create("only-reads", "read")
    os.kill(page_daemon.pid, signal.SIGHUP)
    page = open_view("fleet")
    with open_view.watch(page).tolerate():
        give_token(page, token)
        expect(page.locator(".notice")).to_contain_text("does not have the scope subscribe")
        expect(page.locator(".top-state")).to_contain_text("not live")


def test_keys_lead_through_the_page(open_view: ViewOpener) -> None:
    page = open_view("fleet", is_admin=True)
    expect(page.locator(".top-state")).to_contain_text("live")
    # 1. To a view, whose heading gets the focus and whose name the tab.
    page.keyboard.press("g")
    page.keyboard.press("a")
    expect(page.get_by_role("heading", level=1, name="Accuracy")).to_be_focused()
    expect(page).to_have_title(re.compile("^Accuracy"))
    # 2. The help, which Escape closes.
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("go to Alerts")
    check_accessible(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    # 3. The search, in which keys are letters; Escape leaves it.
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("ga")
    expect(page.get_by_role("searchbox")).to_have_value("ga")
    expect(page.get_by_role("heading", level=1, name="Fleet")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("searchbox")).not_to_be_focused()
    # 4. Past the navigation.
    page.get_by_role("link", name="Skip to the view").focus()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert "#/fleet" in page.url


def test_the_page_says_that_the_daemon_is_away_and_goes_on_without_a_reload(
    open_view: ViewOpener, page_daemon: PageDaemon
) -> None:
    page = open_view("fleet", is_admin=True)
    expect(page.locator(".top-state")).to_contain_text("live")
    page.evaluate("window.isSame = true")
    with open_view.watch(page).tolerate():
        page_daemon.stop()
        expect(page.locator(".top-state")).to_contain_text("reconnecting")
        expect(page.get_by_text("The daemon does not answer.").first).to_be_visible()
        expect(page.get_by_role("status").filter(has_text="Connection to the daemon lost")).to_have_count(1)
        check_accessible(page)
        page_daemon.start()
        expect(page.locator(".top-state")).to_contain_text("live")
    expect(page.locator(".notice")).to_have_count(0)
    assert page.evaluate("window.isSame")


def test_every_view_fits_a_phone_and_paper(open_view: ViewOpener) -> None:
    # A zone without summer time: its offset is the same on every day.
    page = open_view("fleet", is_admin=True, width=NARROWEST, height=640, zone="Asia/Tokyo")
    for view in VIEWS:
        page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
        expect(page.get_by_role("link", name=view)).to_have_attribute("aria-current", "page")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_text("Loading")).to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROWEST, f"{view} is wider than a phone"
    page.emulate_media(media="print")
    expect(page.get_by_role("navigation", name="Views")).to_be_hidden()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".foot")).to_contain_text("Asia/Tokyo (UTC+9)")
