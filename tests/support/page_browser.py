"""A browser for tests of the page: Debian's Chromium, and pages whose every complaint fails the test.

What it opens is closed by the fixtures of `tests/web/conftest.py`.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urljoin

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    Response,
    Route,
    expect,
)

from streamd.http.routes.page import CONTENT_SECURITY_POLICY
from tests.support.worker_fleet import wait_until

CHROMIUM_FLAGS = [
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--force-color-profile=srgb", "--hide-scrollbars"),
]
EXPECT_MS = 20_000
"""How long Playwright waits for what is expected: the machine may be busy with other tests."""

SERIOUS = ("serious", "critical")
"""The impacts of axe-core's findings that fail a test."""

WATCH_POLICY = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`Content-Security-Policy: ${event.violatedDirective} blocks ${event.blockedURI || "inline code"}`));
"""
KEEP_TOKEN = "sessionStorage.setItem('streamd-token', {token!r});"

LOCAL_ASSETS = os.environ.get("PAGE_ASSETS", "")
"""A folder with a build of the page to test in place of the one that the daemon serves; for work on the page."""


def launch_chromium(playwright: Playwright) -> Browser:
    """Start Debian's Chromium without a window, with an empty profile."""
    expect.set_options(timeout=EXPECT_MS)
    return playwright.chromium.launch(
        executable_path=shutil.which("chromium"),
        chromium_sandbox=os.geteuid() != 0,  # Chromium refuses its sandbox to root
        # Chromium lets no page that Playwright answers, which has no address, open a WebSocket to this machine.
        args=[*CHROMIUM_FLAGS, *(["--disable-features=LocalNetworkAccessChecks"] if LOCAL_ASSETS else [])],
    )


class PageWatch:
    """What went wrong on one page: errors and warnings of the console, exceptions, failed or foreign requests."""

    def __init__(self, page: Page, origin: str) -> None:
        self.faults: list[str] = []
        self.requests: list[str] = []
        """The addresses that the page requested, WebSockets included."""
        self._page = page
        self.origin = origin
        self._is_tolerant = False
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self._note(f"exception: {error}"))
        page.on("requestfailed", self._note_failure)
        page.on("request", lambda request: self._note_request(request.url))
        page.on("websocket", lambda socket: self._note_request(socket.url))
        page.on("response", self._note_response)

    @contextmanager
    def tolerate(self) -> Iterator[None]:
        """Ignore what goes wrong meanwhile, because the test makes it so: the daemon is away, a call is refused."""
        self._is_tolerant = True
        try:
            yield
        finally:
            self._is_tolerant = False

    def wait_fault(self, fault: str) -> None:
        """Wait until a fault contains this text."""

        def has_fault() -> bool:
            self._page.evaluate("0")  # events of a page arrive only during calls of Playwright
            return any(fault in each for each in self.faults)

        wait_until(has_fault)

    def take_faults(self) -> str:
        """Return what went wrong until now, and forget it."""
        faults, self.faults = self.faults, []
        return "\n".join(faults)

    def _note(self, fault: str) -> None:
        if not self._is_tolerant:
            self.faults.append(fault)

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self._note(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

    def _note_failure(self, request: Request) -> None:
        # A view that is left ends its calls.
        if "ERR_ABORTED" not in (request.failure or ""):
            self._note(f"failed: {request.method} {request.url}: {request.failure}")

    def _note_request(self, url: str) -> None:
        self.requests.append(url)
        if url.startswith(("data:", "blob:")):
            return
        if url.partition("://")[2].partition("/")[0] != self.origin.partition("://")[2]:
            self.faults.append(f"a request to another host: {url}")
        if "streamd_" in url:
            self.faults.append(f"a token in an address: {url}")

    def _note_response(self, response: Response) -> None:
        if response.status >= 400:
            self._note(f"answer {response.status}: {response.request.method} {response.url}")


STORAGES = "local_storage,indexeddb,cache_storage,service_workers"
"""What a page can store that outlives it, beside cookies, as the protocol of Chromium's tools names it."""


class EmptyProfiles:
    """The profiles of one browser: each is of one page at a time, and is emptied when that page is closed.

    A profile keeps a blank page beside it, and so the process that draws: a page then opens for 0.8 s of CPU time, and
    not for 2 s.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._free: dict[tuple[str, ...], list[BrowserContext]] = {}
        self._kinds: dict[BrowserContext, tuple[str, ...]] = {}

    def open_page(self, zone: str, *scripts: str) -> Page:
        """Open a page in an empty profile, in this time zone; these scripts run before those of each document."""
        kind = (zone, *scripts)
        free = self._free.setdefault(kind, [])
        profile = free.pop() if free else self._make_profile(kind)
        return profile.new_page()

    def close_page(self, page: Page, origin: str) -> None:
        """Close a page, and empty its profile, which has what documents of this origin stored, for another one."""
        profile = page.context
        session = profile.new_cdp_session(page)
        session.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": STORAGES})
        page.close()
        profile.clear_cookies()
        self._free[self._kinds[profile]].append(profile)

    def _make_profile(self, kind: tuple[str, ...]) -> BrowserContext:
        zone, *scripts = kind
        profile = self._browser.new_context(
            timezone_id=zone, locale="en-GB", permissions=["clipboard-read", "clipboard-write"]
        )
        profile.set_default_timeout(EXPECT_MS)
        for script in scripts:
            profile.add_init_script(script)
        profile.new_page()
        self._kinds[profile] = kind
        return profile


class ViewOpener:
    """Opens views of the page, each in a browser profile of its own: `open_view("fleet", {"search": "db"})`."""

    def __init__(self, profiles: EmptyProfiles, url: str, token: str = "") -> None:
        """Open views of the daemon at `url`; `token` is its admin token."""
        self._profiles = profiles
        self._url = url
        self._token = token
        self._watches: list[tuple[Page, PageWatch]] = []

    def __call__(
        self,
        view: str = "fleet",
        query: Mapping[str, str] | None = None,
        *,
        base: str | None = None,
        is_admin: bool = False,
        scheme: str = "light",
        width: int = 1280,
        height: int = 800,
        is_still: bool = True,
        zone: str = "Europe/Berlin",
    ) -> Page:
        """Open a view and return its Playwright page, which fails the test at its end if anything went wrong on it.

        `base` is the address of a proxy in front of the daemon, with a slash at its end; `is_admin` gives the tab the
        admin token; `is_still` stands for a reader who wants reduced motion.
        """
        base = base or f"{self._url}/"
        scripts = [WATCH_POLICY, *([KEEP_TOKEN.format(token=self._token)] if is_admin else [])]
        page = self._profiles.open_page(zone, *scripts)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce" if is_still else "no-preference",
        )
        if LOCAL_ASSETS:
            page.route(f"{base}", _serve_local)
            page.route(f"{base}assets/*", _serve_local)
        self._watches.append((page, PageWatch(page, "/".join(base.split("/")[:3]))))
        page.goto(urljoin(base, make_hash(view, query)))
        return page

    def watch(self, page: Page) -> PageWatch:
        """Return the watch of a page that was opened here."""
        return next(watch for each, watch in self._watches if each is page)

    def close(self) -> None:
        """Close all pages, then fail if anything went wrong on one of them."""
        for page, watch in self._watches:
            self._profiles.close_page(page, watch.origin)
        faults = [watch.take_faults() for _, watch in self._watches]
        self._watches.clear()
        assert not any(faults), "the page complained:\n" + "\n".join(faults)


def make_hash(view: str, query: Mapping[str, str] | None = None) -> str:
    """Return the fragment of the address that opens a view."""
    return f"#/{view}" + (f"?{urlencode(query)}" if query else "")


def check_accessible(page: Page) -> None:
    """Fail if axe-core has a serious or critical finding on what the page shows now."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    response = page.evaluate("() => axe.run({ resultTypes: ['violations'] })")
    findings = [
        f"{finding['impact']} {finding['id']}: {finding['help']}\n"
        + "\n".join(f"    {node['html'][:200]}\n    {node['failureSummary']}" for node in finding["nodes"][:3])
        for finding in response["violations"]
        if finding["impact"] in SERIOUS
    ]
    assert not findings, f"axe-core on {page.url}:\n" + "\n".join(findings)


def _serve_local(route: Route, request: Request) -> None:
    name = request.url.partition("#")[0].rpartition("/")[2] or "index.html"
    folder = Path(LOCAL_ASSETS) / ("assets" if name != "index.html" else "")
    route.fulfill(path=folder / name, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})
