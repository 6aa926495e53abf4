"""Tests `streamd/web/page/src/views/server/index.tsx`: one server in a real browser, live from a real daemon."""

import csv
import io
from datetime import datetime
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect

from tests.support.page_browser import ViewOpener, check_accessible
from tests.support.page_daemon import SURE_RULE, PageDaemon, read_shipped_fleet
from tests.support.worker_fleet import wait_until

PAINTED = """
(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const colors = new Set();
  for (let at = 0; at < data.length; at += 4) colors.add(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
  return colors.size;
}
"""
"""How many colours a canvas has; an empty one has one."""

NO_NUMBER = "\N{EN DASH}"

AWKWARD = "a [1]* & b/accuracy"
"""A name with characters that globs, addresses and paths use."""


def open_server(open_view: ViewOpener, server: str, **query: str) -> Page:
    page = open_view("servers", {"server": server, **query})
    expect(page.locator(".chart-plot canvas").first).to_be_visible()
    return page


def card(page: Page, target: str) -> Locator:
    return page.get_by_role("region", name=target, exact=True)


def picture(page: Page, target: str) -> str:
    return str(card(page, target).locator("canvas").evaluate("(canvas) => canvas.toDataURL()"))


def copy_csv(page: Page) -> list[dict[str, str]]:
    page.get_by_role("button", name="Copy as CSV").click()
    expect(page.get_by_text("Copied as CSV")).to_be_visible()
    return list(csv.DictReader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))


def as_number(text: str) -> float | None:
    return float(text) if text else None


def read_forecast(daemon: PageDaemon, server: str) -> Any:
    return daemon.get(f"v1/forecasts?server={quote(server)}")


def test_each_target_is_drawn_with_its_threshold_scores_and_past_forecast(
    open_view: ViewOpener, page_daemon: PageDaemon
) -> None:
    page = open_server(open_view, "machine-1-2")
    for target in page_daemon.get("v1/status")["contract"]["targets"]:
        assert card(page, target).locator("canvas").evaluate(PAINTED) > 20, target
        expect(card(page, target)).to_contain_text("values lay in its 80 % band")
        expect(card(page, target)).to_contain_text("likely in 8 h")
    rules = page_daemon.get("v1/alerts/rules?server=machine-1-2")["rules"]
    expect(page.get_by_role("region", name="Thresholds").get_by_role("row")).to_have_count(1 + len(rules))
    expect(page.get_by_role("region", name="How good its forecasts were")).to_contain_text("The 80 % band held")
    check_accessible(page)


def test_in_the_dark_and_on_a_phone_it_is_as_accessible_and_no_wider(open_view: ViewOpener) -> None:
    page = open_view("servers", {"server": "machine-1-2", "target": "mem_used"}, scheme="dark", width=360, height=740)
    expect(page.locator(".chart-plot canvas")).to_be_visible()
    expect(page.get_by_role("region", name="How good its forecasts were")).to_contain_text("held")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    check_accessible(page)
    dark = picture(page, "mem_used")
    page.emulate_media(color_scheme="light")
    wait_until(lambda: picture(page, "mem_used") != dark)  # the canvas takes the colours of the new theme


def test_a_new_row_and_its_forecast_change_picture_and_numbers_without_a_reload(
    open_view: ViewOpener, page_daemon: PageDaemon
) -> None:
    page = open_server(open_view, "machine-1-3", target="cpu_user", past="none")
    plot = card(page, "cpu_user").get_by_role("application")
    plot.press("ArrowLeft")  # the crosshair on the last step of the forecast
    legend = card(page, "cpu_user").locator(".chart-legend")
    expect(legend).to_contain_text("98 %")
    before, numbers = picture(page, "cpu_user"), legend.inner_text()
    origin = page_daemon.push_next("machine-1-3", rows=6, cpu_user=93.0)
    page_daemon.wait_forecast("machine-1-3", origin)
    expect(card(page, "cpu_user")).to_contain_text("93 % now")
    plot.press("PageDown")  # on to the last step of the new forecast
    expect(legend).not_to_have_text(numbers)
    assert picture(page, "cpu_user") != before
    median = read_forecast(page_daemon, "machine-1-3")["values"][0][-1][3]
    shown = legend.get_by_role("listitem").filter(has_text="Forecast").locator(".chart-number").inner_text()
    assert abs(float(shown.removesuffix(" %")) - median) <= max(0.05, median * 0.006)


def test_a_link_reopens_the_stretch_of_time_that_was_drawn(open_view: ViewOpener) -> None:
    page = open_server(open_view, "machine-1-4", target="mem_used")
    expect(card(page, "mem_used")).to_contain_text("80 % band")  # the last that is read
    box = page.locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 60, steps=4)
    page.mouse.up()
    expect(page.get_by_role("button", name="show all times")).to_be_visible()
    seen = [row["time"] for row in copy_csv(page)]
    query = dict(part.split("=") for part in page.url.partition("?")[2].split("&"))
    assert {"server", "target", "from", "to"} <= set(query)
    assert 20 < len(seen) < 200
    other = open_server(open_view, query["server"], **{name: query[name] for name in ("target", "from", "to")})
    assert [row["time"] for row in copy_csv(other)] == seen
    card(other, "mem_used").get_by_role("application").press("0")
    expect(other.get_by_role("button", name="show all times")).to_be_hidden()
    assert "from" not in other.url


def test_the_copy_holds_the_numbers_of_the_wire(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    page = open_server(open_view, "machine-1-7")
    rows = copy_csv(page)
    window = page_daemon.get("v1/servers?server=machine-1-7")
    forecast = read_forecast(page_daemon, "machine-1-7")
    assert len(rows) == window["have"] + len(forecast["values"][0])
    assert [datetime.fromisoformat(row["time"]).timestamp() for row in rows[window["have"] - 1 :][:2]] == [
        window["origin"] - 300,
        window["origin"],
    ]
    for place, target in enumerate(forecast["targets"]):
        column = window["features"].index(target)
        measured = [as_number(row[target]) for row in rows]
        assert measured[: window["have"]] == [row[column] for row in window["values"]]
        assert not any(measured[window["have"] :])
        for quantile, level in enumerate(forecast["quantiles"]):
            curve = [as_number(row[f"{target}_q{level}"]) for row in rows[window["have"] :]]
            assert curve == [step[quantile] for step in forecast["values"][place]]


def test_missing_values_are_shown_as_missing_also_for_an_awkward_name(
    open_view: ViewOpener, page_daemon: PageDaemon
) -> None:
    page_daemon.push_values(
        AWKWARD, [{"cpu_user": None if 20 <= row < 32 else 10.0, "net_in": 1.0} for row in range(40)]
    )
    page = open_server(open_view, AWKWARD)
    expect(page.get_by_role("heading", name=AWKWARD)).to_be_visible()
    expect(page.get_by_label("Condition")).to_contain_text("40 of 48 rows")
    expect(card(page, "cpu_user")).to_contain_text("12 of 40 values are missing")
    expect(card(page, "mem_used")).to_contain_text("Never sent, or not for 1 d.")
    card(page, "cpu_user").get_by_role("button", name="show as table").click()
    assert card(page, "cpu_user").get_by_role("cell", name=NO_NUMBER).count() == 12
    origin = page_daemon.push_values(AWKWARD, [{"cpu_user": 11.0, "net_in": 1.0}] * 10)
    page_daemon.wait_forecast(quote(AWKWARD), origin)
    expect(page.get_by_label("Condition")).to_contain_text("Forecast from")
    expect(card(page, "cpu_user")).to_contain_text("12 of 50 values are missing")
    expect(card(page, "mem_used")).to_contain_text("so its forecast is unknown, and no rule alerts")
    thresholds = page.get_by_role("region", name="Thresholds")
    busy = thresholds.get_by_role("row").filter(has_text="disk_busy")
    expect(busy).to_contain_text("disk_usage is not sent")
    expect(busy).to_contain_text("unknown")
    expect(thresholds.get_by_role("row").filter(has_text="cpu_busy")).to_contain_text("quiet")
    assert read_forecast(page_daemon, AWKWARD)["unknown"] == [
        target for target in page_daemon.get("v1/status")["contract"]["targets"] if target not in ("cpu_user", "net_in")
    ]


def test_a_server_that_does_not_exist_is_said_to_be_unknown(open_view: ViewOpener) -> None:
    page = open_view("servers")
    expect(page.get_by_role("table")).to_contain_text("machine-1-2")
    with open_view.watch(page).tolerate():
        page.goto(page.url.partition("#")[0] + "#/servers?server=nobody")
        expect(page.get_by_text("No server named nobody reports")).to_be_visible()


def test_keys_find_a_server_and_enlarge_a_target(open_view: ViewOpener) -> None:
    page = open_server(open_view, "machine-1-2")
    page.keyboard.press("/")
    page.keyboard.type("NE-3-3")
    expect(page.get_by_role("listbox", name="Servers").get_by_role("option")).to_have_text(["machine-3-3"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="machine-3-3")).to_be_visible()
    expect(page.locator(".chart-plot canvas")).to_have_count(7)
    page.keyboard.press("j")
    expect(page.locator(".chart-plot").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".chart-plot canvas")).to_have_count(1)
    assert "target=cpu_user" in page.url
    page.get_by_label("Compare with the forecast of").select_option("none")
    expect(card(page, "cpu_user")).not_to_contain_text("80 % band")


def test_an_alert_that_fires_is_named_without_a_reload(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    # What the demo's servers are forecast to do depends on the hour at which the tests run.
    active = {alert["server"] for alert in page_daemon.get("v1/alerts")["alerts"]}
    server = next(name for name in sorted(read_shipped_fleet().servers) if name not in active)
    page = open_server(open_view, server, target="load_average")
    expect(page.get_by_label("Condition")).not_to_contain_text("fires")
    page_daemon.fire_alert(server)
    expect(page.get_by_label("Condition")).to_contain_text(f"{SURE_RULE} fires")
    expect(page.get_by_role("row", name=SURE_RULE)).to_contain_text("firing")
    expect(page.get_by_role("row", name=SURE_RULE)).to_contain_text("likely")
    page_daemon.clear_alert(server)
    expect(page.get_by_label("Condition")).not_to_contain_text(f"{SURE_RULE} fires")
