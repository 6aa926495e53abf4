"""Tests `streamd/server/exports.py`: a daemon sends its forecasts to a store.

Settings that do not fit the model, or each other, are refused.
"""

import asyncio
import re
from pathlib import Path

import pytest

from streamd.core.errors import ConfigError
from streamd.server.config import load_config
from streamd.server.exports import check_exports
from streamd.server.limits import make_service_limits
from tests.support.daemon_process import NEED, make_small_settings, make_whole_rows, run_command
from tests.support.remote_write_store import run_remote_write_store
from tests.support.tiny_version import SHIPPED_CONTRACT
from tests.support.version_calls import StartDaemon

TOKEN = "a-token-of-the-store"


async def test_a_daemon_shows_and_sends_the_forecasts_that_it_makes(start: StartDaemon, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    async with run_remote_write_store() as store:
        settings = {
            "STREAMD_FORECAST_SERVERS": "web-*",
            "STREAMD_FORECAST_TARGETS": "disk_usage",
            "STREAMD_FORECAST_MAX_AGE_STEPS": "0",
            "STREAMD_REMOTE_WRITE_URL": store.url,
            "STREAMD_REMOTE_WRITE_TIME": "both",
            "STREAMD_REMOTE_WRITE_INTERVAL_SECONDS": "0.1",
            "STREAMD_REMOTE_WRITE_TOKEN_FILE": str(token),
        }
        daemon = await asyncio.to_thread(lambda: start(tmp_path / "state", **settings))
        await asyncio.to_thread(daemon.wait_for, "ready")
        for server in ("web-01", "db-01"):
            rows = make_whole_rows(server, range(NEED), SHIPPED_CONTRACT.features)
            await asyncio.to_thread(daemon.call, "POST", "/v1/samples", {"samples": rows})
        async with asyncio.timeout(20):
            while not store.list_samples("streamd_forecast_at"):
                store.arrived.clear()
                await store.arrived.wait()
        _, page = await asyncio.to_thread(daemon.get, "/metrics/forecasts")
    assert store.headers[0]["Authorization"] == f"Bearer {TOKEN}"
    curves = store.list_samples("streamd_forecast_at")
    assert {(labels["server"], labels["target"]) for labels, _, _ in curves} == {("web-01", "disk_usage")}
    assert len(curves) == 3 * SHIPPED_CONTRACT.horizon
    lines = re.findall(
        r'^streamd_forecast\{server="(.*?)",target="(.*?)",horizon="8h",quantile="0.5"\} (\S+)$', page, re.M
    )
    assert [line[:2] for line in lines] == [("web-01", "disk_usage")]
    last = max((time, value) for labels, time, value in curves if labels["quantile"] == "0.5")
    assert float(lines[0][2]) == pytest.approx(last[1], rel=1e-6)


def test_a_choice_that_the_model_lacks_stops_the_start_before_the_state_is_opened(tmp_path: Path) -> None:
    settings = {"STREAMD_FORECAST_SERVERS": "*", "STREAMD_FORECAST_TARGETS": "nothing"}
    state = tmp_path / "state"
    ended = run_command("serve", "--state-dir", str(state), cwd=tmp_path, **make_small_settings(), **settings)
    assert ended.returncode == 2
    assert "[forecast_metrics] forecast_targets has 'nothing', expected some of ['cpu_user'" in ended.stderr
    assert not list(state.glob("*.streamd"))


def test_without_chosen_servers_the_choice_of_the_rest_does_not_matter() -> None:
    check_exports(load_config(None, {"STREAMD_FORECAST_TARGETS": "nothing"}), SHIPPED_CONTRACT)
    with pytest.raises(ConfigError, match="nothing"):
        check_exports(
            load_config(None, {"STREAMD_FORECAST_TARGETS": "nothing", "STREAMD_FORECAST_SERVERS": "a"}),
            SHIPPED_CONTRACT,
        )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"REMOTE_WRITE_URL": "http://a/"}, "forecast_servers: is empty, expected globs"),
        (
            {"REMOTE_WRITE_URL": "store:8428", "FORECAST_SERVERS": "*"},
            "remote_write_url is no URL, expected one such as",
        ),
        ({"REMOTE_WRITE_TIME": "later"}, "REMOTE_WRITE_TIME: Invalid enum value 'later'"),
        ({"REMOTE_WRITE_INTERVAL_SECONDS": "0"}, "REMOTE_WRITE_INTERVAL_SECONDS"),
        ({"MAX_FORECAST_SERIES": "0"}, "MAX_FORECAST_SERIES"),
        ({"FORECAST_SERVERS": ",".join(f"a{n}*b" for n in range(2_000))}, "forecast_servers has 2000 globs"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, {f"STREAMD_{name}": value for name, value in variables.items()})


def test_the_settings_reach_the_service() -> None:
    limits = make_service_limits(load_config(None, {}))
    assert (limits.exports.servers, limits.remote_write) == ((), None)
    variables = {"REMOTE_WRITE_URL": "https://a/", "REMOTE_WRITE_TIME": "future", "FORECAST_SERVERS": "a,b"}
    variables |= {"FORECAST_HORIZONS": "5m,1h", "FORECAST_QUANTILES": "0.5", "MAX_FORECAST_SERIES": "7"}
    limits = make_service_limits(load_config(None, {f"STREAMD_{name}": value for name, value in variables.items()}))
    exports, write = limits.exports, limits.remote_write
    assert (exports.servers, exports.horizons, exports.quantiles) == (("a", "b"), ("5m", "1h"), (0.5,))
    assert (exports.max_series, exports.max_age_steps) == (7, 12)
    assert write is not None
    assert (write.url, write.times, write.interval_seconds) == ("https://a/", "future", 60.0)
