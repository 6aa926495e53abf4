"""Tests `streamd/server/page.py`: the page as a process loads it, by its settings and from any installation."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streamd.server.config import ServerSection
from streamd.server.page import load_page
from streamd.web.files import load_page_files


async def test_the_files_of_the_package_are_loaded() -> None:
    with capture_logs() as logs:
        page = await load_page(ServerSection())
    assert page is not None
    assert (page.problem, logs) == (None, [])


async def test_a_page_that_is_turned_off_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("streamd.server.page.load_page_files")
    assert await load_page(ServerSection(page=False)) is None


async def test_an_installation_without_the_files_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.server.page.load_page_files", lambda: load_page_files(Path("/nowhere")))
    with capture_logs() as logs:
        page = await load_page(ServerSection())
    assert page is not None
    assert [each["event"] for each in logs] == ["page_missing"]
    assert logs[0]["problem"] == page.problem
