"""Tests `streamd/web/page/src/views/fleet/index.tsx`: the list of all servers, on the shipped fleet."""

import re
from collections.abc import Iterator
from time import time
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.page_browser import EmptyProfiles, ViewOpener, check_accessible
from tests.support.page_daemon import PageDaemon, read_shipped_fleet

SERVERS = sorted(read_shipped_fleet().servers)


@pytest.fixture(scope="module")
def empty_daemon(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageDaemon]:
    """Start a daemon without servers and rules; `browser` skips these tests where there is none."""
    daemon = PageDaemon(tmp_path_factory.mktemp("empty"), {"STREAMD_MAX_SERVERS": "3000"}, rules="")
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def test_lists_the_servers_as_the_daemon_ranks_them(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    page = open_view("fleet", height=1200)
    ranked = read_fleet(page_daemon)["servers"]

    expect(find_rows(page)).to_have_count(len(ranked))
    assert read_names(page) == [each["server"] for each in ranked]
    expect(page.get_by_role("grid", name="Servers")).to_have_attribute("aria-rowcount", str(len(ranked) + 1))
    check_accessible(page)


def test_shows_when_a_threshold_is_reached(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    first = next(each for each in read_fleet(page_daemon)["servers"] if each["crossing"])
    target = first["crossing"]["target"]
    page = open_view("fleet", {"target": target}, scheme="dark")
    row = find_row(page, first["server"])

    expect(row).to_contain_text(re.compile(r"now|unlikely|\d (min|h)"))
    expect(row).to_contain_text(f"{target} reaches")
    expect(row.locator(".fleet-range")).to_have_count(1)
    expect(page.get_by_role("combobox", name="Target")).to_have_value(target)
    check_accessible(page)


def test_searches_by_a_part_and_by_a_glob_and_keeps_it_in_the_address(open_view: ViewOpener) -> None:
    page = open_view("fleet", height=1200)
    search = page.get_by_role("searchbox", name="Search")
    search.fill("-1-")
    expect_names(page, [server for server in SERVERS if "-1-" in server])

    search.fill("MACHINE-?-4")
    expect_names(page, [server for server in SERVERS if server.endswith("-4")])
    expect(page).to_have_url(re.compile(r"#/fleet\?search=MACHINE-%3F-4$"))

    page.reload()
    expect_names(page, [server for server in SERVERS if server.endswith("-4")])
    search.fill("nothing like this")
    page.get_by_role("button", name="Show all servers").click()
    expect_names(page, SERVERS)


def test_filters_by_condition(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    page_daemon.push_values("new-1", [{"cpu_user": 5.0}] * 12)
    page = open_view("fleet", width=390, height=844)
    page.get_by_role("button", name="1 warming").click()

    expect(find_rows(page)).to_have_count(1)
    expect(find_row(page, "new-1")).to_contain_text("warming, 12 of 48 rows")
    check_accessible(page)
    page_daemon.call("DELETE", "v1/servers?server=new-1", is_admin=True)
    expect(page.get_by_role("button", name="0 warming")).to_be_visible()
    expect(page.get_by_text("No server matches")).to_be_visible()


def test_says_of_a_target_that_is_not_sent_that_it_is_unknown(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    page_daemon.wait_forecast("new-2", page_daemon.push_values("new-2", [{"cpu_user": 5.0}] * 50))
    page = open_view("fleet", {"target": "disk_usage", "search": "new-2"})
    row = find_row(page, "new-2")

    expect(row).to_contain_text("disk_usage: not sent")
    expect(row.locator(".fleet-when")).to_have_text("unknown")
    expect(row.locator(".fleet-median")).to_have_count(0)
    page_daemon.call("DELETE", "v1/servers?server=new-2", is_admin=True)
    expect(page.get_by_text("No server matches")).to_be_visible()


def test_groups_by_prefix_and_opens_a_group(open_view: ViewOpener) -> None:
    page = open_view("fleet", height=1200)
    page.get_by_role("checkbox", name="Group by prefix").check()
    members = [server for server in SERVERS if server.startswith("machine-2-")]
    row = find_row(page, "machine-2-*")

    expect(page.get_by_role("grid", name="Groups of servers")).to_be_visible()
    expect(row.locator(".fleet-age")).to_have_text(str(len(members)))
    check_accessible(page)
    row.get_by_role("link").click()
    expect_names(page, members)
    expect(page).to_have_url(re.compile(r"#/fleet\?prefix=machine-2-$"))
    page.get_by_role("button", name="group machine-2-*").click()
    expect(find_row(page, "machine-2-*")).to_be_visible()


def test_shows_one_problem_on_a_phone_and_counts_the_others(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    server = SERVERS[-1]
    page_daemon.push_values(server, [{"load_average": 4000.0, "cpu_user": 99.0}] * 12)
    page_daemon.fire_alert(server)
    page = open_view("fleet", {"search": server}, width=360, height=740)
    row = find_row(page, server)
    badges, others = row.locator(".badge:visible"), row.locator(".fleet-wrong .fleet-plus:visible")

    expect(badges).to_have_count(1)
    expect(badges).to_have_text(re.compile(r"^\w+ reaches \d+ %?"))
    shown, whole = badges.locator(".fleet-problem").evaluate("each => [each.clientWidth, each.scrollWidth]")
    assert shown >= whole, "the badge is not cut"
    expect(others).to_contain_text(re.compile(r"^\+\d"))
    check_accessible(page)
    page_daemon.clear_alert(server, rows=12)


def test_moves_and_opens_by_keys(open_view: ViewOpener) -> None:
    page = open_view("fleet", {"sort": "name"})
    expect(find_rows(page).first).to_contain_text(SERVERS[0])
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Search")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    chosen = page.locator("[role=row][aria-selected=true]")

    expect(chosen).to_contain_text(SERVERS[1])
    page.keyboard.press("End")
    expect(chosen).to_contain_text(SERVERS[-1])
    expect(chosen).to_be_in_viewport()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"#/servers\?server={re.escape(SERVERS[-2])}"))


def test_draws_a_new_forecast(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    server = SERVERS[0]
    page = open_view("fleet", {"sort": "name", "target": "cpu_user"})
    median = find_row(page, server).locator("path.fleet-median")
    expect(median).to_have_attribute("d", re.compile("^M"))
    former = median.get_attribute("d") or ""

    origin = page_daemon.push_next(server, cpu_user=90.0)
    expect(find_row(page, server).locator(".fleet-picture")).to_have_attribute("data-origin", str(origin))
    expect(median).not_to_have_attribute("d", former)


def test_keeps_the_order_under_the_pointer_while_an_alert_fires(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    page = open_view("fleet", {"search": "machine-1-*"})
    expect(find_rows(page).first).to_be_visible()
    former = read_names(page)
    find_rows(page).nth(2).hover()

    page_daemon.fire_alert(former[-1])
    other = page.get_by_role("button", name="The order has changed")
    expect(find_row(page, former[-1])).to_contain_text("load_average reaches 4, firing for")
    expect(other).to_be_visible()
    assert read_names(page) == former
    page.keyboard.press("u")
    expect(other).to_have_count(0)
    assert read_names(page) == [each["server"] for each in read_fleet(page_daemon, "?search=machine-1-*")["servers"]]
    assert read_names(page) != former


def test_names_what_the_daemon_refuses(open_view: ViewOpener) -> None:
    page = open_view("fleet", {"target": "no_such_target"})

    expect(page.get_by_role("alert")).to_contain_text("no_such_target")
    page.get_by_role("combobox", name="Target").select_option("All targets")
    expect(find_rows(page).first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_says_how_to_begin_and_shows_the_first_server_as_soon_as_it_reports(
    profiles: EmptyProfiles, empty_daemon: PageDaemon
) -> None:
    opener = ViewOpener(profiles, empty_daemon.url)
    page = opener("fleet", width=390, height=844)
    expect(page.get_by_text("No server has reported yet")).to_be_visible()
    expect(page.get_by_text(f"{empty_daemon.url}/api/v1/write")).to_be_visible()
    check_accessible(page)

    push_servers(empty_daemon, ["web-01"])
    expect(find_row(page, "web-01")).to_contain_text("warming, 0 of 48 rows")
    expect(find_row(page, "web-01")).to_contain_text("no rule")
    expect(page.get_by_text("No alert rule gives a threshold")).to_be_visible()
    opener.close()


def test_keeps_only_the_rows_near_the_reader_in_the_document(profiles: EmptyProfiles, empty_daemon: PageDaemon) -> None:
    names = [f"web-{number:04d}" for number in range(2000)]
    push_servers(empty_daemon, names)
    opener = ViewOpener(profiles, empty_daemon.url)
    page = opener("fleet", {"sort": "name", "search": "web-????"})
    page.get_by_role("grid").focus()

    for key, name in (("End", names[-1]), ("Home", names[0])):
        page.keyboard.press(key)
        expect(find_row(page, name)).to_be_in_viewport()
    page.get_by_role("grid").evaluate("grid => grid.scrollTo(0, grid.scrollHeight / 2)")
    expect(find_row(page, names[1000])).to_be_in_viewport()
    expect(page.get_by_text("loading …")).to_have_count(0)
    assert find_rows(page).count() < 60
    opener.close()


def read_fleet(daemon: PageDaemon, query: str = "") -> Any:
    """Return what the daemon answers about its fleet."""
    return daemon.get(f"v1/fleet{query}")


def push_servers(daemon: PageDaemon, servers: list[str]) -> None:
    """Send one sample of each server."""
    columns = {"servers": servers, "time": time(), "features": ["cpu_user"], "values": [[12.5]] * len(servers)}
    status, answer = daemon.call("POST", "v1/samples", {"columns": columns})
    assert (status, answer["rejected"]) == (200, 0), answer


def find_rows(page: Page) -> Locator:
    """Return the rows of the list, without its head."""
    return page.locator("[role=row][data-index]")


def find_row(page: Page, name: str) -> Locator:
    """Return the row of a server or of a group."""
    return find_rows(page).filter(has=page.get_by_role("link", name=name, exact=True))


def read_names(page: Page) -> list[str]:
    """Return the names in the order of the list."""
    rows = find_rows(page).evaluate_all(
        "rows => rows.map(row => [Number(row.dataset.index), row.querySelector('a')?.textContent])"
    )
    return [name for _, name in sorted(rows)]


def expect_names(page: Page, names: list[str]) -> None:
    """Wait until the list has exactly these names, in any order."""
    expect(find_rows(page)).to_have_count(len(names))
    for name in names:
        expect(find_row(page, name)).to_have_count(1)
