"""Tests `streamd/client/forecasts.py`: what only a cluster sends."""

from typing import Any

import msgspec
import numpy as np

from streamd.client.forecasts import FORECAST_DECODER


def make_message(**fields: Any) -> bytes:
    shape = [2, 1, 1, 1] if "servers" in fields else [1, 1, 1]
    values = {"shape": shape, "dtype": "float32", "data": np.zeros(shape, "<f4").tobytes()}
    return msgspec.msgpack.encode({"targets": ["cpu"], "quantiles": [0.5], "model": "m", "values": values, **fields})


def test_a_forecast_of_a_cluster_has_its_fence() -> None:
    fields = {"type": "forecast", "server": "a", "origin": 300.0, "context": 3}
    assert FORECAST_DECODER.decode(make_message(**fields, fence=7)).to_forecast().fence == 7
    assert FORECAST_DECODER.decode(make_message(**fields)).to_forecast().fence is None


def test_a_batch_of_a_cluster_has_the_fence_of_each_forecast() -> None:
    fields = {"type": "forecasts", "servers": ["a", "b"], "origins": [300.0, 300.0], "contexts": [3, 4]}
    batch = FORECAST_DECODER.decode(make_message(**fields, fences=[7, 0])).to_batch()
    assert [forecast.fence for forecast in batch] == [7, 0]
    assert [forecast.fence for forecast in batch.drop([0])] == [0]
    alone = FORECAST_DECODER.decode(make_message(**fields)).to_batch()
    assert [forecast.fence for forecast in alone] == [None, None]
