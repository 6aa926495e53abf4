"""Tests `streamd/runtime/outputs.py`: which ways forecasts take, by the settings."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamd.core.accuracy.history_selection import HistoryLimits
from streamd.core.alerts.settings import AlertSettings
from streamd.core.errors import ConfigError
from streamd.core.forecast_export.choice import ExportSettings
from streamd.runtime.outputs import ForecastOutputs, make_forecast_outputs
from streamd.runtime.remote_write.writer import RemoteWriteSettings
from streamd.runtime.state.state import State
from tests.support.state_files import opened

NOTHING = ExportSettings()
EXPORTS = ExportSettings(servers=("*",), horizons=("5m",), quantiles=(0.5,))
STORE = RemoteWriteSettings(url="http://127.0.0.1:9/write")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with opened(tmp_path) as each:
        yield each


def make(
    state: State, exports: ExportSettings, store: RemoteWriteSettings | None, alerts: AlertSettings | None
) -> ForecastOutputs:
    return make_forecast_outputs(state, history=HistoryLimits(), exports=exports, remote_write=store, alerts=alerts)


def test_only_what_the_settings_want_is_made(state: State) -> None:
    outputs = make(state, NOTHING, STORE, None)
    assert (outputs.exports, outputs.remote_write, outputs.alerts) == (None, None, None)
    assert outputs.listeners == (outputs.history,)
    assert outputs.owners == (outputs.history,)


def test_all_that_keeps_data_by_slot_hears_of_a_new_server(state: State) -> None:
    outputs = make(state, EXPORTS, STORE, AlertSettings())
    assert outputs.listeners == (outputs.history, outputs.remote_write, outputs.alerts)
    assert outputs.owners == (outputs.history, outputs.exports, outputs.remote_write, outputs.alerts)


def test_settings_that_do_not_fit_the_model_are_refused(state: State) -> None:
    with pytest.raises(ConfigError, match="forecast_targets"):
        make(state, ExportSettings(servers=("*",), targets=("fans",)), None, None)
