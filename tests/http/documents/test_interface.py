"""Tests `streamd/http/documents/*.py`: what a document says of a call is what a daemon does."""

from pathlib import Path
from typing import Any

import pytest

from streamd.http.access.rules import ROUTE_RULES, VERSION_RULES
from streamd.http.requests import TransportLimits
from tests.support.access_drivers import EVERYTHING
from tests.support.http_harness import MODEL, HttpDaemon
from tests.support.interface_check import CONFIG, SHORT, check_interface, run_described_daemon


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


LARGEST_BODY = 60_000
AS_400 = {"/api/v1/write", "/receive"}
"""Paths that refuse a large body with 400, for the sake of those that send to them."""


async def test_each_call_with_a_body_states_the_answer_to_one_that_is_too_large(tmp_path: Path) -> None:
    async with run_described_daemon(tmp_path, TransportLimits(max_body_bytes=LARGEST_BODY)) as daemon:
        document = (await daemon.get("/openapi.json")).body
        calls = [
            (path, operation, content_type)
            for path, operations in document["paths"].items()
            for operation in operations.values()
            if "requestBody" in operation
            for content_type in operation["requestBody"]["content"]
        ]
        assert len(calls) > 20
        for call in calls:
            await _check_large_body(daemon, *call)


async def _check_large_body(daemon: HttpDaemon, path: str, operation: Any, content_type: str) -> None:
    place = path.replace("{model}", "streamd").replace("{version}", MODEL)
    headers = {"Content-Type": content_type, **EVERYTHING.headers}
    answer = await daemon.call("POST", place, b"x" * (LARGEST_BODY + 1), headers)
    assert answer.status == (400 if path in AS_400 else 413), path
    content = operation["responses"][str(answer.status)].get("content", {})
    assert answer.headers["Content-Type"].partition(";")[0] in content, path


async def test_an_empty_target_of_the_fleet_is_in_the_document_and_taken(tmp_path: Path) -> None:
    async with run_described_daemon(tmp_path) as daemon:
        parameters = (await daemon.get("/openapi.json")).body["paths"]["/v1/fleet"]["get"]["parameters"]
        (schema,) = (each["schema"] for each in parameters if each["name"] == "target")
        for target in schema["enum"]:
            assert (await daemon.call("GET", f"/v1/fleet?target={target}", headers=EVERYTHING.headers)).status == 200
        assert "" in schema["enum"]
