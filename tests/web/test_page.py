"""Tests `streamd/web/page/src/app.tsx`: the page as a whole, in Chromium, on a daemon with the shipped fleet."""

import re
import signal
from datetime import UTC, datetime
from typing import Literal

import pytest
from playwright.sync_api import Error, Page, expect

from tests.support.page_browser import ViewOpener, check_accessible
from tests.support.page_daemon import PageDaemon
from tests.support.prefix_proxy import PREFIX, run_prefix_proxy

DISK_SERVER = "machine-3-5"
"""The server of the demo whose disk crosses its threshold next."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
VERSION, OTHER_VERSION = "patch_tensorrt_20261129_232000", "tft_tensorrt_20261129_232100"


MISTAKES = (
    ("console.warn('careless')", "console warning: careless"),
    ("setTimeout(() => { throw new Error('broken') })", "exception: broken"),
    ("fetch('http://cdn.example/').catch(() => {})", "Content-Security-Policy: connect-src"),
    ("fetch('v1/nothing')", "answer 404: GET"),
    ("fetch('v1/status?token=streamd_00ff')", "a token in an address"),
    ("document.body.insertAdjacentHTML('beforeend', '<p onclick=\"\">x</p>')", "Content-Security-Policy: script-src"),
)
"""What a page may do wrong, and what the harness says of it."""


def test_what_a_page_does_wrong_is_noticed(open_view: ViewOpener) -> None:
    page = open_view("fleet")
    watch = open_view.watch(page)
    for script, fault in MISTAKES:
        assert watch.take_faults() == ""
        page.evaluate(f"() => {{ {script} }}")
        watch.wait_fault(fault)
        page.evaluate("() => new Promise((done) => setTimeout(done, 50))")  # what else it causes
        watch.take_faults()
    with pytest.raises(Error, match="ERR_"):
        page.goto("http://cdn.example/")
    assert "a request to another host: http://cdn.example/" in watch.take_faults()


def test_findings_of_axe_fail_a_test(open_view: ViewOpener) -> None:
    page = open_view("fleet")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\">')")
    with pytest.raises(AssertionError, match="critical image-alt"):
        check_accessible(page)


def test_every_view_opens_without_a_complaint_and_is_accessible_in_light_and_dark(open_view: ViewOpener) -> None:
    page = open_view("servers", {"server": DISK_SERVER})
    expect(page.get_by_role("heading", level=1, name=DISK_SERVER)).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    check_both_schemes(page)
    for view in ("Fleet", "Alerts", "Accuracy", "Operations"):
        page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
        expect(page.get_by_role("heading", level=1, name=view)).to_be_visible()
        expect(page.get_by_text("Loading")).to_have_count(0)
        check_both_schemes(page)


def check_both_schemes(page: Page) -> None:
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        check_accessible(page)


def test_the_fleet_says_whose_disk_crosses_its_threshold_and_when(
    open_view: ViewOpener, page_daemon: PageDaemon
) -> None:
    # Whether that is in hours, in minutes or by now depends on the hour at which the tests run.
    crossing = page_daemon.get("v1/fleet?target=disk_usage")["servers"][0]["crossing"]
    likely = datetime.fromtimestamp(crossing["crosses_at"]["likely"], UTC)
    page = open_view("fleet", {"target": "disk_usage"}, zone="UTC")
    first = page.get_by_role("row").nth(1)  # after the head
    expect(first).to_contain_text(DISK_SERVER)
    expect(first.locator(".fleet-when")).to_contain_text(re.compile(rf"^(\d+ (h|min).*{likely:%H:%M}|now)"))


def test_a_forecast_that_arrives_changes_the_pictures(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    server = "machine-1-4"
    fleet = open_view("fleet", {"search": server, "target": "cpu_user"})
    view = open_view("servers", {"server": server, "target": "cpu_user"})
    curve, canvas = fleet.locator(".fleet-curve path").last, view.locator("canvas").first
    expect(curve).to_have_attribute("d", re.compile("M"))
    expect(canvas).to_be_visible()
    before = curve.get_attribute("d"), canvas.evaluate("canvas => canvas.toDataURL()")
    page_daemon.push_next(server, cpu_user=90.0)
    expect(curve).not_to_have_attribute("d", before[0] or "")
    view.wait_for_function("before => document.querySelector('canvas').toDataURL() !== before", arg=before[1])


def test_an_alert_that_fires_and_its_end_are_shown(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    server = "machine-2-4"
    page = open_view("fleet", {"search": server})
    row = page.get_by_role("row").nth(1)
    expect(row).to_contain_text("nothing")
    page_daemon.fire_alert(server)
    expect(row).to_contain_text("load_average")
    page_daemon.clear_alert(server)
    expect(row).to_contain_text("nothing")


def test_after_a_restart_of_the_daemon_the_page_goes_on_without_a_reload(
    open_view: ViewOpener, page_daemon: PageDaemon
) -> None:
    server = "machine-2-5"
    page = open_view("fleet", {"search": server, "target": "cpu_user"})
    curve = page.locator(".fleet-curve path").last
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    before = curve.get_attribute("d") or ""
    page.evaluate("window.isStillThere = true")
    with open_view.watch(page).tolerate():
        page_daemon.stop(signal.SIGKILL)
        expect(page.get_by_text("live", exact=True)).to_be_hidden()
        page_daemon.start()
        expect(page.get_by_text("live", exact=True)).to_be_visible()
    page_daemon.push_next(server, cpu_user=90.0)
    expect(curve).not_to_have_attribute("d", before)
    assert page.evaluate("window.isStillThere") is True


def test_a_version_is_promoted_and_rolled_back_and_the_token_stays_secret(
    open_view: ViewOpener, page_daemon: PageDaemon
) -> None:
    page = open_view("operations", is_admin=True)
    page.get_by_role("button", name=f"Promote {OTHER_VERSION}").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Give a reason")
    dialog.get_by_label("Reason").fill("to see how it does")
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog.get_by_role("status")).to_contain_text(f"{OTHER_VERSION} serves now")
    dialog.get_by_role("button", name="Close").click()
    assert page_daemon.get("v1/status")["engine"] == OTHER_VERSION

    page.get_by_role("button", name="Roll back").click()
    dialog.get_by_label("Reason").fill("that was all")
    dialog.get_by_role("button", name="Roll back").click()
    expect(dialog.get_by_role("status")).to_contain_text(f"{VERSION} serves now")
    assert page_daemon.get("v1/engines")["history"][0]["why"] == "that was all"
    assert page_daemon.token not in page_daemon.log.read_text()


def test_it_works_below_a_path_of_a_reverse_proxy(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    with run_prefix_proxy(page_daemon.url) as base:
        page = open_view("fleet", base=base)
        expect(page.get_by_text("live", exact=True)).to_be_visible()
        page.get_by_role("link", name=DISK_SERVER).click()
        expect(page.get_by_role("heading", level=1, name=DISK_SERVER)).to_be_visible()
        expect(page.locator("canvas").first).to_be_visible()
        requests = open_view.watch(page).requests
        assert all(PREFIX in url for url in requests), requests
        page.goto("about:blank")  # before the proxy ends
