"""Calls every route of a daemon as its OpenAPI document describes it, with schemathesis.

`python -m tests.support.interface_check` runs all phases for long; the suite runs a short form.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from streamd.core.accuracy.history_selection import HistoryLimits
from streamd.core.forecast_export.choice import ExportSettings
from streamd.http.requests import TransportLimits
from streamd.http.routes.versions import ChangeReport, VersionList
from streamd.rule_sets import list_rule_sets, load_rule_set
from streamd.runtime.service import Service, ServiceLimits
from tests.support.access_drivers import EVERYTHING
from tests.support.access_tokens import make_access_list
from tests.support.http_harness import JSON, NEED, HttpDaemon, HttpDaemonSettings, make_rows, pack, run_http_daemon
from tests.support.made_alerts import ServedAlerts, make_alert, make_pending_alert

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")


LONG = ("--suppress-health-check=too_slow",)
"""Arguments of a long run, in which a busy machine must not end the search in a call with large bodies."""


class AgreeableChanges:
    """A `VersionChanges` that answers as if it had done what is requested."""

    async def list_versions(self) -> VersionList:
        return {
            "serving": "before",
            "previous": None,
            "candidate": None,
            "pinned": False,
            "problem": None,
            "versions": [],
            "history": [],
        }

    async def promote(self, version: str, who: str, why: str) -> ChangeReport:
        return {"engine": version, "before": "before", "seconds": 0.1}

    async def rollback(self, who: str, why: str) -> ChangeReport:
        return {"engine": "before", "before": "after", "seconds": 0.1}

    async def start_candidate(self, version: str, share: float, shadow: bool) -> ChangeReport:
        return {"candidate": None}

    async def end_candidate(self) -> ChangeReport:
        return {"ended": None}


ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "SCHEMATHESIS_HOOKS": "tests.support.interface_hooks",
    "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis"),  # it has tables that take seconds to make
}

SHORT = """
[phases]
examples.enabled = false
fuzzing.generation.max-examples = 3
stateful.enabled = false

[[operations]]
# To cover every edge of their bodies takes a minute.
include-operation-id = ["sendSamples", "predict", "predictForOthers", "infer", "inferVersion", "putPoints"]
phases.coverage.enabled = false
"""
"""What is added to the configuration for a run of a few seconds: each edge of most calls, and a few examples."""


@contextlib.asynccontextmanager
async def run_described_daemon(folder: Path, limits: TransportLimits | None = None) -> AsyncIterator[HttpDaemon]:
    """Run a daemon with tokens, every rule set and a few servers, whose event streams end by themselves."""
    settings = HttpDaemonSettings(
        limits=limits or TransportLimits(),
        access=make_access_list(EVERYTHING),
        engines=AgreeableChanges(),
        rule_sets=[load_rule_set(name) for name in list_rule_sets()],
        service_limits=ServiceLimits(
            history=HistoryLimits(every_steps=1, settle_steps=0),
            exports=ExportSettings(servers=("*",), horizons=("2m", "4m"), max_age_steps=0),
        ),
    )
    async with run_http_daemon(folder, settings) as daemon:
        rows = [row for name in ("web-01", "web-02") for row in make_rows(name, 1, range(NEED))]
        rows += make_rows("new-01", 1, range(1))
        reply = await daemon.post_bytes("/v1/samples", pack({"samples": rows}, JSON), **EVERYTHING.headers)
        assert reply.body["rejected"] == 0
        ServedAlerts(daemon.service, make_alert(server="web-01"), make_pending_alert(server="web-02"))
        _end_streams(daemon.service)
        yield daemon


def _end_streams(service: Service) -> None:
    """Let each event stream end when what waits for it is sent, as in a daemon that stops: no caller leaves one."""
    for owner in (service.hub, service.alert_subscriptions):
        owner.subscribe = partial(_subscribe_closed, owner.subscribe)  # type: ignore[method-assign]


def _subscribe_closed(subscribe: Callable[..., Any], *choice: Any) -> Any:
    subscription = subscribe(*choice)
    subscription.close()
    return subscription


async def check_interface(
    folder: Path, config: str, arguments: Sequence[str], edit: Callable[[Any], None] | None = None
) -> tuple[int, str]:
    """Run schemathesis with a configuration against a daemon; returns its exit status and what it printed.

    `edit` may change the document, which is then not that of the daemon.
    """
    (folder / CONFIG.name).write_text(config, encoding="utf-8")
    async with run_described_daemon(folder / "state") as daemon:
        # From a file: schemathesis does not call the route that it has the document from.
        document = (await daemon.get("/openapi.json")).body
        if edit is not None:
            edit(document)
        (folder / "openapi.json").write_bytes(msgspec.json.encode(document))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG.name, "run", "--no-color"),
            *("openapi.json", "--url", daemon.url),
            *("-H", f"Authorization: {EVERYTHING.headers['Authorization']}"),
            *arguments,
            cwd=folder,  # it leaves files
            env={**os.environ, **ENVIRONMENT},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def main() -> int:
    """Run all phases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200, help="test cases of each call and phase")
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        status, output = asyncio.run(
            check_interface(
                Path(folder), CONFIG.read_text(encoding="utf-8"), [*LONG, "-n", str(options.examples), *more]
            )
        )
    sys.stdout.write(output)
    return status


if __name__ == "__main__":
    sys.exit(main())
