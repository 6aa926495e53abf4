"""Tests `streamd/web/page/src/views/operations/index.tsx`: what the daemon does in numbers, and changes of versions."""

import re

from playwright.sync_api import Locator, Page, expect

from tests.support.page_browser import ViewOpener, check_accessible
from tests.support.page_daemon import PageDaemon


def open_change(page: Page, name: str) -> Locator:
    """Press a button that begins a change, and return the dialog."""
    page.get_by_role("button", name=name, exact=True).click()
    return page.get_by_role("dialog")


def find_other(page_daemon: PageDaemon) -> str:
    """Return the name of the version that does not serve."""
    engines = page_daemon.get("v1/engines")
    (other,) = [each["version"] for each in engines["versions"] if each["version"] != engines["serving"]]
    return str(other)


def test_the_view_says_how_the_daemon_does(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    page = open_view("operations")
    expect(page.get_by_role("heading", name="Operations", exact=True)).to_be_visible()
    status = page_daemon.get("v1/status")
    assert len(status["lanes"]) == 1
    summary = rf"The lane works; {status['servers']} servers; .*nothing waits\."
    expect(page.get_by_text(re.compile(summary))).to_be_visible()
    # 1. Each lane, each bucket and each reason is there, in words.
    for lane in status["lanes"]:
        expect(page.get_by_role("region", name="Lanes").get_by_text(lane["name"], exact=True)).to_be_visible()
    buckets = page.get_by_role("table", name="Measured cost of each bucket").get_by_role("rowheader")
    expect(buckets).to_have_text(list(status["bucket_ms"]))
    reasons = page.get_by_role("table", name="Batches by the reason for their size")
    expect(reasons.get_by_text("Took all that waited")).to_be_visible()
    # 2. What was passed over is there with the daemon's reason.
    for fallback in status["fallbacks"]:
        expect(page.get_by_text(fallback["reason"], exact=True)).to_be_visible()
    check_accessible(page)


def test_what_arrives_moves_the_numbers_without_a_reload(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    page = open_view("operations")
    accepted = (
        page.get_by_role("table", name="Samples by result").get_by_role("row", name="Accepted").get_by_role("cell")
    )
    before = page_daemon.get("v1/status")["samples"]["accepted"]
    expect(accepted.last).to_have_text(f"{before:,}")
    page_daemon.push_next("machine-1-2", rows=2)
    expect(accepted.last).to_have_text(f"{before + 2:,}")
    # A sample that is rejected is a problem, in words.
    expect(page.get_by_text("Nothing is wrong")).to_be_visible()
    sample = {"server": "machine-1-2", "time": 0, "values": {"cpu_user": 1.0}}
    page_daemon.call("POST", "v1/samples", {"samples": [sample]})
    problems = page.get_by_role("list", name="Problems")
    expect(problems.get_by_text("Samples are rejected.")).to_be_visible()
    expect(page.get_by_text("Rejected: too late")).to_be_visible()


def test_a_version_is_promoted_with_a_reason_and_rolled_back(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    first, second = page_daemon.get("v1/engines")["serving"], find_other(page_daemon)
    page = open_view("operations", is_admin=True)
    dialog = open_change(page, f"Promote {second}")
    # 1. The consequence is there before the change; without a reason nothing happens.
    expect(dialog.get_by_text(f"{second} replaces {first}")).to_be_visible()
    expect(dialog.get_by_text(f"{first} stays warm for 5 min; a rollback returns to it.")).to_be_visible()
    check_accessible(page)
    dialog.get_by_role("button", name="Promote", exact=True).click()
    expect(dialog.get_by_role("alert").filter(has_text="Give a reason")).to_be_visible()
    assert page_daemon.get("v1/engines")["serving"] == first
    # 2. With one, the version serves, and the record has the reason.
    dialog.get_by_label("Reason").fill("a test of the page")
    dialog.get_by_role("button", name="Promote", exact=True).click()
    expect(dialog.get_by_text(f"{second} serves now, in place of {first}.")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    page.get_by_text("History of promotions (1)").click()
    expect(page.get_by_role("cell", name="a test of the page")).to_be_visible()
    assert page_daemon.get("v1/engines")["serving"] == second
    # 3. The rollback returns to the first, which is still warm.
    dialog = open_change(page, "Roll back …")
    expect(dialog.get_by_text("It is still warm")).to_be_visible()
    dialog.get_by_label("Reason").fill("back again")
    dialog.get_by_role("button", name="Roll back", exact=True).click()
    expect(dialog.get_by_text(f"{first} serves now, in place of {second}.")).to_be_visible()
    assert page_daemon.get("v1/engines")["serving"] == first


def test_without_the_scope_a_change_is_refused_in_the_words_of_the_daemon_and_waits_for_a_token(
    open_view: ViewOpener, page_daemon: PageDaemon
) -> None:
    page = open_view("operations")
    dialog = open_change(page, f"Promote {find_other(page_daemon)}")
    expect(dialog.get_by_text("This needs a token with the scope admin")).to_be_visible()
    dialog.get_by_label("Reason").fill("no token")
    _, refusal = page_daemon.call("POST", "v1/engines/rollback", {})
    with open_view.watch(page).tolerate():
        dialog.get_by_role("button", name="Promote", exact=True).click()
        expect(dialog.get_by_role("alert").filter(has_text=refusal["message"])).to_be_visible()
    # The token that the page asks for leaves the change as it was.
    page.locator("input[type=password]").fill(page_daemon.token)
    page.get_by_role("button", name="Use this token").click()
    expect(page.locator("input[type=password]")).to_have_count(0)
    expect(dialog.get_by_text("This needs a token with the scope admin")).to_have_count(0)
    expect(dialog.get_by_label("Reason")).to_have_value("no token")


def test_a_shadow_begins_is_shown_and_ends(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    other = find_other(page_daemon)
    page = open_view("operations", is_admin=True, scheme="dark", width=390)
    dialog = open_change(page, f"Try {other}")
    expect(dialog.get_by_text("no reader gets them")).to_be_visible()
    dialog.get_by_text("Canary: delivered").click()
    expect(dialog.get_by_text("readers get its forecasts of them")).to_be_visible()
    dialog.get_by_text("Shadow: only scored").click()
    dialog.get_by_role("button", name="Start", exact=True).click()
    expect(dialog.get_by_text(f"{other} is the candidate now.")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    note = page.get_by_role("group", name="Candidate")
    expect(note.get_by_text("is tried as a shadow on 100 % of the servers")).to_be_visible()
    check_accessible(page)
    dialog = open_change(page, "End the candidate …")
    dialog.get_by_role("button", name="End it").click()
    expect(dialog.get_by_text(f"{other} is no candidate any more.")).to_be_visible()
    assert page_daemon.get("v1/status")["candidate"] is None
