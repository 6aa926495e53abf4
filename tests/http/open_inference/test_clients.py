"""Tests `streamd/http/open_inference`: tritonclient, if it is installed (`pip install 'tritonclient[http]'`).

Without it the requests that it once sent are played back by `test_routes.py`.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.http.conftest import Start
from tests.support.access_tokens import grant_all, make_access_list, make_test_token
from tests.support.http_harness import MODEL, HttpDaemon, HttpDaemonSettings, is_same_array
from tests.support.open_inference import DATATYPES
from tests.support.predict_inputs import Inputs, compute_expected, make_inputs

http: Any = pytest.importorskip("tritonclient.http")
utils: Any = pytest.importorskip("tritonclient.utils")


async def run_client(daemon: HttpDaemon, use: Callable[[Any], Any]) -> Any:
    """Use a client in a thread, because it blocks."""

    def run() -> Any:
        with http.InferenceServerClient(daemon.url.removeprefix("http://")) as client:
            return use(client)

    return await asyncio.to_thread(run)


def infer_with(client: Any, given: Inputs, *, is_binary: bool = True, **more: Any) -> Any:
    inputs = []
    for name, array in given.items():
        entry = http.InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
        entry.set_data_from_numpy(array, binary_data=is_binary)
        inputs.append(entry)
    return client.infer("streamd", inputs, **more)


async def test_it_reads_health_and_metadata(daemon: HttpDaemon) -> None:
    def use(client: Any) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("streamd")
        assert client.is_model_ready("streamd", MODEL)
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["name"] == "streamd"
        assert client.get_model_metadata("streamd")["versions"] == [MODEL]
        assert client.get_model_config("streamd", MODEL)["max_batch_size"] == 4_096

    await run_client(daemon, use)


def exchange(client: Any, windows: int, coding: str | None, *, is_binary: bool, wants_bytes: bool) -> None:
    """Check the forecasts that a client gets in one form."""
    given = make_inputs(windows)
    result = infer_with(
        client,
        given,
        is_binary=is_binary,
        outputs=[http.InferRequestedOutput("predictions", binary_data=wants_bytes)],
        request_id="7",
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert is_same_array(result.as_numpy("predictions"), compute_expected(given))
    assert result.get_response()["id"] == "7"


async def test_it_gets_forecasts_in_every_form(daemon: HttpDaemon) -> None:
    def use(client: Any) -> None:
        for is_binary, wants_bytes in itertools.product((True, False), (True, False)):
            for windows, coding in itertools.product((1, 8), (None, "gzip", "deflate")):
                exchange(client, windows, coding, is_binary=is_binary, wants_bytes=wants_bytes)

    await run_client(daemon, use)


@pytest.mark.parametrize("wants_bytes", [True, False])
async def test_an_unknown_target_is_nan(daemon: HttpDaemon, wants_bytes: bool) -> None:
    given = make_inputs(2)
    given["encoder_cont"][1, :, 2] = np.nan

    def use(client: Any) -> Any:
        outputs = [http.InferRequestedOutput("predictions", binary_data=wants_bytes)]
        return infer_with(client, given, outputs=outputs).as_numpy("predictions")

    predictions = await run_client(daemon, use)
    expected = compute_expected(given)
    expected[1, :, 1] = np.nan
    assert is_same_array(predictions, expected)


async def test_it_shows_each_error(daemon: HttpDaemon) -> None:
    given = make_inputs(1)
    infinite = {**given, "encoder_cont": np.full_like(given["encoder_cont"], np.inf)}
    calls: list[tuple[Callable[[Any], Any], str, str]] = [
        (lambda client: infer_with(client, infinite), "400", "encoder_cont holds inf at"),
        (lambda client: infer_with(client, infinite, is_binary=False), "400", "Infinity at byte"),
        (lambda client: infer_with(client, given, model_version="1"), "404", "version '1' of streamd does not serve"),
        (lambda client: client.get_model_repository_index(), "404", "POST /v2/repository/index"),
    ]

    def use(client: Any) -> None:
        for call, status, message in calls:
            with pytest.raises(utils.InferenceServerException, match=message) as caught:
                call(client)
            assert caught.value.status() == status

    await run_client(daemon, use)


async def test_it_shows_that_a_token_is_needed(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(access=make_access_list(make_test_token("agent", grant_all()))))

    def use(client: Any) -> None:
        with pytest.raises(utils.InferenceServerException, match="token") as caught:
            client.get_model_metadata("streamd")
        assert caught.value.status() == "401"

    await run_client(daemon, use)
