"""Tests `streamd/web/page/src/views/alerts`: alerts come and go, are silenced with a reason, and are explained."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.support.page_browser import ViewOpener, check_accessible
from tests.support.page_daemon import SURE_RULE, PageDaemon

SERVER, OTHER_SERVER = "machine-2-4", "machine-1-4"


@pytest.fixture(scope="module")
def fired(page_daemon: PageDaemon) -> str:
    """Make the alert of `SURE_RULE` fire for a server, once for all tests; returns the server."""
    page_daemon.fire_alert(SERVER)
    return SERVER


@pytest.fixture
def firing(page_daemon: PageDaemon, fired: str) -> Iterator[str]:
    """A server whose alert of `SURE_RULE` fires; silences end with the test."""
    yield fired
    for silence in page_daemon.get("v1/silences")["silences"]:
        page_daemon.call("DELETE", f"v1/silences/{silence['id']}", is_admin=True)


def choose_part(page: Page, name: str) -> None:
    page.get_by_role("radio", name=re.compile(f"^{name}")).check(force=True)


def test_an_alert_fires_is_shown_live_and_ends_in_the_history(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    page = open_view("alerts", {"server": OTHER_SERVER, "rule": SURE_RULE})
    expect(page.get_by_text("No active alert matches these filters")).to_be_visible()
    page_daemon.fire_alert(OTHER_SERVER)
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=OTHER_SERVER))
    expect(row).to_contain_text(f"load_average reaches 4{SURE_RULE}")
    expect(row).to_contain_text(re.compile(r"in \d+|now"))
    check_accessible(page)
    page_daemon.clear_alert(OTHER_SERVER)
    expect(row).to_have_count(0)
    choose_part(page, "History")
    expect(row.first).to_contain_text("the forecast is clear of the threshold again")
    check_accessible(page)
    page.reload()
    expect(row.first).to_contain_text("the forecast is clear of the threshold again")
    row.first.get_by_role("link", name=OTHER_SERVER).click()
    expect(page.get_by_role("heading", level=1, name=OTHER_SERVER)).to_be_visible()
    assert "target=load_average" in page.url


def test_an_alert_is_silenced_with_a_reason_and_the_silence_ends(
    open_view: ViewOpener, page_daemon: PageDaemon, firing: str
) -> None:
    page = open_view("alerts", {"rule": SURE_RULE}, is_admin=True)
    page.get_by_role("button", name=f"Silence {SURE_RULE} on {firing}").click()
    dialog = page.get_by_role("dialog", name=f"Silence {firing}")
    dialog.get_by_role("button", name="Silence").click()
    expect(dialog.get_by_text("Give a reason.")).to_be_visible()
    check_accessible(page)
    dialog.get_by_role("radio", name="4 h").check(force=True)
    dialog.get_by_label("Reason").fill("planned work")
    dialog.get_by_label("Who").fill("anna")
    expect(dialog.get_by_text("1 of these alerts fires now")).to_be_visible()
    dialog.get_by_role("button", name="Silence").click()
    expect(dialog).to_have_count(0)
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=firing))
    expect(row).to_contain_text("warning, silenced")
    (silence,) = page_daemon.get("v1/silences")["silences"]
    assert (silence["servers"], silence["rules"], silence["who"], silence["why"]) == (
        [firing],
        [SURE_RULE],
        "anna",
        "planned work",
    )
    assert silence["ends_at"] - silence["starts_at"] == pytest.approx(4 * 3_600)
    choose_part(page, "Silences 1")
    expect(page.get_by_role("row").nth(1)).to_contain_text("planned work")
    check_accessible(page)
    page.get_by_role("button", name=f"End the silence of {SURE_RULE} on {firing}").click()
    page.get_by_role("dialog").get_by_role("button", name="End the silence").click()
    expect(page.get_by_text("Nothing is silenced")).to_be_visible()
    choose_part(page, "Active")
    expect(row).not_to_contain_text("silenced")
    assert page_daemon.token not in page_daemon.log.read_text()


def test_a_silence_of_others_is_shown_and_without_a_token_the_way_to_one_is(
    open_view: ViewOpener, page_daemon: PageDaemon, firing: str
) -> None:
    page = open_view("alerts", {"rule": SURE_RULE, "state": "silenced"}, scheme="dark", width=390, height=844)
    expect(page.get_by_text("No active alert matches these filters")).to_be_visible()
    body = {"servers": ["machine-2-*"], "seconds": 600, "why": "rack 2", "who": "bo"}
    assert page_daemon.call("POST", "v1/silences", body, is_admin=True)[0] == 201
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=firing))
    expect(row).to_contain_text("warning, silenced")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a phone scrolls in one direction"
    page.get_by_role("link", name=firing).focus()
    page.keyboard.press("s")
    dialog = page.get_by_role("dialog", name=f"Silence {firing}")
    expect(dialog.get_by_text("This needs a token with the scope")).to_be_visible()
    dialog.get_by_label("Reason").fill("longer")
    with open_view.watch(page).tolerate():
        dialog.get_by_role("button", name="Silence", exact=True).click()
        expect(page.get_by_role("dialog", name="Token")).to_be_visible()
    assert len(page_daemon.get("v1/silences")["silences"]) == 1


def test_rules_are_in_plain_words_and_lead_to_their_alerts(open_view: ViewOpener, firing: str) -> None:
    page = open_view("alerts", {"show": "rules"})
    row = page.get_by_role("row").filter(has_text=SURE_RULE)
    expect(row).to_contain_text("load_average reaches 4 within 8 h")
    expect(row).to_contain_text("all servers")
    check_accessible(page)
    row.get_by_role("button").click()
    expect(page.get_by_role("link", name=firing)).to_be_visible()
    assert f"rule={SURE_RULE}" in page.url


def test_a_server_whose_name_is_a_glob_is_silenced_alone_and_markup_is_text(
    open_view: ViewOpener, page_daemon: PageDaemon, firing: str
) -> None:
    hostile = ["*", "<img src=x onerror=alert(1)>\u202e"]
    for server in hostile:
        page_daemon.push_values(server, [{"load_average": 400.0}] * 60)
    page = open_view("alerts", {"rule": SURE_RULE}, is_admin=True)
    expect(page.get_by_role("link", name="<img src=x onerror=alert(1)>\\u202e")).to_be_visible()
    page.get_by_role("button", name=f"Silence {SURE_RULE} on *", exact=True).click()
    dialog = page.get_by_role("dialog", name="Silence *")
    dialog.get_by_label("Reason").fill("its name is a glob")
    dialog.get_by_role("button", name="Silence").click()
    expect(dialog).to_have_count(0)
    alerts = page_daemon.get(f"v1/alerts?rule={SURE_RULE}&state=firing")["alerts"]
    silenced = {alert["server"] for alert in alerts if alert["silenced_until"] is not None}
    assert silenced == {"*"} != {alert["server"] for alert in alerts} >= {firing}
