"""Tests `streamd/http/documents/*.py`: what a document says of a call is what a daemon does."""

from pathlib import Path
from typing import Any

import pytest

from streamd.http.access.rules import ROUTE_RULES, VERSION_RULES
from tests.support.interface_check import CONFIG, SHORT, check_interface


@pytest.mark.timeout(180)
async def test_each_call_is_as_its_document_says(tmp_path: Path) -> None:
    status, output = await check_interface(tmp_path, CONFIG.read_text(encoding="utf-8") + SHORT, ["--seed", "1"])
    assert status == 0, output
    assert f"Tested: {len(ROUTE_RULES) + len(VERSION_RULES)}\n" in output


async def test_a_document_that_is_wrong_is_found(tmp_path: Path) -> None:
    def claim_another_answer(document: Any) -> None:
        document["paths"]["/healthz"]["get"]["responses"] = {"204": {"description": "Alive."}}

    arguments = ["--include-operation-id", "getHealth", "--phases", "coverage"]
    config = CONFIG.read_text(encoding="utf-8")
    status, output = await check_interface(tmp_path, config, arguments, claim_another_answer)
    assert status == 1, output
    assert "Undocumented" in output
