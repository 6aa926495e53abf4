"""Tests `streamd/web/page/src/views/accuracy/index.tsx`: live scores as the daemon reports them."""

import pytest
from playwright.sync_api import expect

from tests.support.page_browser import ViewOpener, check_accessible
from tests.support.page_daemon import PageDaemon


def test_the_scores_are_those_of_the_daemon(open_view: ViewOpener, page_daemon: PageDaemon) -> None:
    page = open_view("accuracy")
    expect(page.get_by_role("heading", name="Accuracy", exact=True)).to_be_visible()
    status = page_daemon.get("v1/status")
    serving = status["accuracy"]["versions"][status["engine"]]
    # 1. Each target with its values, and how often its bands held.
    table = page.get_by_role("table", name="Scores by target")
    for target, scores in serving["targets"].items():
        row = table.get_by_role("row", name=target)
        expect(row.get_by_role("cell").last).to_have_text(f"{scores['values']:,}")
        shown = float(row.get_by_role("cell").nth(3).inner_text().strip(" %"))
        # A half in the last place is rounded up there and to an even digit here.
        assert shown == pytest.approx(scores["inside"]["0.1-0.9"] * 100, abs=0.0501)
    # 2. The version that serves, with its drift against training.
    versions = page.get_by_role("table", name="Scores by version")
    row = versions.get_by_role("row", name=status["engine"])
    expect(row.get_by_text("serves")).to_be_visible()
    expect(row.get_by_role("cell", name=f"{serving['forecasts']:,}", exact=True)).to_be_visible()
    # 3. A bar for each range of the horizon, and a plot of the quantiles for each target.
    expect(page.locator(".range-bar")).to_have_count(len(serving["by_range"]))
    expect(page.get_by_role("img", name="quantile 0.5")).to_have_count(len(serving["targets"]))
    check_accessible(page)
    # 4. All of it fits a phone, and can be read in the dark.
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    expect(table).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    check_accessible(page)
