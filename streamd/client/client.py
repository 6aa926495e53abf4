"""The client of a daemon: `Client` has a method for each call."""

import math
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from streamd.client.alerts import AlertReader, ReportedAlert
from streamd.client.answers import (
    AlertListPage,
    PredictAnswer,
    PredictMessage,
    ReportingServer,
    ServerListPage,
    WindowContent,
    WindowMessage,
    convert_tensors,
)
from streamd.client.connection import DaemonConnection
from streamd.client.errors import RefusedError
from streamd.client.forecast_reader import ForecastReader
from streamd.client.forecasts import ForecastMessage, ForecastPending, ServerForecast
from streamd.client.ingest_socket import DEFAULT_IN_FLIGHT, IngestSocket
from streamd.client.samples import ClientSample, PushResult, make_columns_body, make_samples_body
from streamd.client.selections import ForecastSelection, list_names
from streamd.client.tensors import make_tensor_object

DEFAULT_RETRY_SECONDS = 10.0
DEFAULT_TIMEOUT_SECONDS = 30.0
PAGE_ENTRIES = 1_000
"""Servers, or alerts, that are fetched at once."""


class Client:
    """A client of one daemon, or of a cluster, for one event loop: `async with Client(url) as client: ...`.

    `url` may be a list with the addresses of the nodes of a cluster: the first is used until it does not answer, or
    answers that it cannot serve now; then the next one, and after the last the first again.

    A call that the daemon refuses because it is busy or starting, or that gets no answer, is made again for
    `retry_seconds`: after the time that `Retry-After` names, if it does. Making a call twice does no harm: a row that
    is sent again amends itself. A call raises `RefusedError` if the daemon refuses it, and `DaemonUnreachableError` if
    no answer comes.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        token: str | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        retry_seconds: float = DEFAULT_RETRY_SECONDS,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        """Raises `ValueError` if an address is not the base of an HTTP URL, or the token cannot be sent.

        `tls` is for a CA of your own, or a client certificate: `ssl.create_default_context(cafile=...)`.
        """
        self._connection = DaemonConnection(
            url, token, tls=tls, retry_seconds=retry_seconds, timeout_seconds=timeout_seconds
        )

    async def __aenter__(self) -> Self:
        await self._connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.close()

    # ------------------------------------------------------------ samples
    async def push_samples(self, samples: Iterable[ClientSample]) -> PushResult:
        """Send samples with one call. A sample that is rejected is in the answer, and does not raise."""
        return await self._connection.call("POST", "/v1/samples", PushResult, body=make_samples_body(samples))

    async def push_columns(
        self, servers: Sequence[str], times: float | Sequence[float], features: Sequence[str], values: npt.ArrayLike
    ) -> PushResult:
        """Send one row for each of many servers: `values (servers, features)`, NaN where one is missing.

        `times` is one time for all rows, or one for each. Raises `ValueError` if the lengths do not fit.
        """
        body = make_columns_body(servers, times, features, values)
        return await self._connection.call("POST", "/v1/samples", PushResult, body=body)

    def open_ingest(
        self, *, max_in_flight: int = DEFAULT_IN_FLIGHT, reconnect_seconds: float = math.inf
    ) -> IngestSocket:
        """Return a connection for samples that stays open, for use in `async with`."""
        return IngestSocket(self._connection, max_in_flight=max_in_flight, reconnect_seconds=reconnect_seconds)

    # ------------------------------------------------------------ forecasts
    def subscribe(
        self,
        servers: str | Sequence[str] = ("*",),
        *,
        targets: str | Sequence[str] | None = None,
        quantiles: Sequence[float] | None = None,
        every: int = 1,
        batch: bool = False,
        dtype: str = "float32",
        last_event_id: int | None = None,
        reconnect_seconds: float = math.inf,
    ) -> ForecastReader:
        """Return a subscription, for use in `async with`; it is an iterator of events.

        `servers` are names or globs. With `last_event_id` it continues where an earlier one was; 0 gives the latest
        forecast of each server first.
        """
        selection = ForecastSelection(
            servers=servers, targets=targets, quantiles=quantiles, every=every, batch=batch, dtype=dtype
        )
        return ForecastReader(
            self._connection, selection, last_event_id=last_event_id, reconnect_seconds=reconnect_seconds
        )

    async def get_forecast(
        self,
        server: str,
        *,
        targets: str | Sequence[str] = (),
        quantiles: Sequence[float] = (),
        every: int = 1,
    ) -> ServerForecast | ForecastPending:
        """Return the latest forecast of a server, or the state of its window if it has none; empty means all.

        Raises `RefusedError` with the code `unknown_server` if no server of this name reports.
        """
        query = [("server", server), ("every", str(every))]
        query += [("targets", name) for name in list_names(targets)] + [
            ("quantiles", str(level)) for level in quantiles
        ]
        message = await self._connection.call("GET", "/v1/forecasts", ForecastMessage, query=query)
        if message.status:
            return ForecastPending(message.server, message.status, message.have, message.need)
        return message.to_forecast()

    async def predict(self, inputs: Mapping[str, npt.ArrayLike]) -> PredictAnswer:
        """Return the forecasts of tensors that the caller brings, by the names of the model's inputs."""
        tensors = {name: make_tensor_object(np.asarray(value)) for name, value in inputs.items()}
        answer = await self._connection.call("POST", "/v1/predict", PredictMessage, body={"inputs": tensors})
        return PredictAnswer(answer.outputs["predictions"].to_array(), answer.model)

    async def get_accuracy(self, server: str, **parameters: str | float) -> dict[str, Any]:
        """Return past forecasts of a server against what came true, with arrays in place of tensors.

        `parameters` are those of `GET /v1/accuracy`: `targets`, `every`, `limit`, `since`, `until`.
        """
        query = [("server", server), *((name, str(value)) for name, value in parameters.items())]
        answer = await self._connection.call("GET", "/v1/accuracy", dict[str, Any], query=query)
        converted: dict[str, Any] = convert_tensors(answer)
        return converted

    # ------------------------------------------------------------ alerts
    def subscribe_alerts(
        self,
        servers: str | Sequence[str] = ("*",),
        rules: str | Sequence[str] | None = None,
        *,
        reconnect_seconds: float = math.inf,
    ) -> AlertReader:
        """Return a subscription to alerts, for use in `async with`; it is an iterator of updates."""
        return AlertReader(self._connection, servers, rules, reconnect_seconds=reconnect_seconds)

    async def list_alerts(
        self,
        *,
        states: str | Sequence[str] = ("firing", "pending"),
        servers: str | Sequence[str] = (),
        rules: str | Sequence[str] = (),
    ) -> AsyncIterator[ReportedAlert]:
        """Yield the alerts of some states, servers (names or globs) and rules; empty means all. Read page by page."""
        # The query splits `servers` at commas; `server` is a name as it is.
        query = [("state", ",".join(list_names(states))), ("limit", str(PAGE_ENTRIES))]
        query += [("server" if "," in each else "servers", each) for each in list_names(servers)]
        query += [("rule", each) for each in list_names(rules)]
        cursor: str | None = ""
        while cursor is not None:
            more = [("cursor", cursor)] if cursor else []
            page = await self._connection.call("GET", "/v1/alerts", AlertListPage, query=query + more)
            for alert in page.alerts:
                yield alert
            cursor = page.next

    async def list_alert_rules(self) -> list[dict[str, Any]]:
        """Return the rules that forecasts are judged by; the keys are those of `GET /v1/alerts/rules`."""
        return (await self._connection.call("GET", "/v1/alerts/rules", dict[str, list[dict[str, Any]]]))["rules"]

    async def list_silences(self) -> list[dict[str, Any]]:
        """Return the silences that hold; the keys are those of `GET /v1/silences`."""
        return (await self._connection.call("GET", "/v1/silences", dict[str, list[dict[str, Any]]]))["silences"]

    async def begin_silence(
        self, servers: str | Sequence[str], *, seconds: float, why: str, rules: str | Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Let no receiver be notified of alerts that begin, for a while, and return the silence; `None`: all rules."""
        body = {"servers": list_names(servers), "seconds": seconds, "why": why}
        if rules is not None:
            body["rules"] = list_names(rules)
        return (await self._connection.call("POST", "/v1/silences", dict[str, dict[str, Any]], body=body))["silence"]

    async def end_silence(self, silence_id: str) -> None:
        """End a silence before its time. Raises `RefusedError` with the code `unknown_silence`."""
        await self._connection.call("DELETE", f"/v1/silences/{silence_id}", type(None))

    # ------------------------------------------------------------ servers, and the daemon
    async def list_servers(self) -> AsyncIterator[ReportingServer]:
        """Yield the servers that report, by name. Read page by page."""
        cursor: str | None = ""
        while cursor is not None:
            query = [("limit", str(PAGE_ENTRIES)), ("cursor", cursor)]
            page = await self._connection.call("GET", "/v1/servers", ServerListPage, query=query)
            for server in page.servers:
                yield server
            cursor = page.next

    async def get_fleet(self, **parameters: str | int) -> dict[str, Any]:
        """Return all servers at a glance, worst first.

        `parameters` and the keys are those of `GET /v1/fleet`: `search`, `target`, `rule`, `condition`, `sort`,
        `group`, `offset`, `limit`.
        """
        query = [(name, str(value)) for name, value in parameters.items()]
        return await self._connection.call("GET", "/v1/fleet", dict[str, Any], query=query)

    async def get_window(self, server: str) -> WindowContent:
        """Return what the window of a server holds. Raises `RefusedError` with the code `unknown_server`."""
        found = await self._connection.call("GET", "/v1/servers", WindowMessage, query=[("server", server)])
        return WindowContent(
            server=found.server,
            step_seconds=found.step_seconds,
            origin=found.origin,
            have=found.have,
            features=found.features,
            values=found.values.to_array(),
        )

    async def forget_server(self, server: str) -> None:
        """Forget a server, its window and its forecast. Raises `RefusedError` with the code `unknown_server`."""
        await self._connection.call("DELETE", "/v1/servers", type(None), query=[("server", server)])

    async def get_status(self) -> dict[str, Any]:
        """Return what is loaded and how it does; the keys are those of `GET /v1/status`."""
        return await self._connection.call("GET", "/v1/status", dict[str, Any])

    async def is_ready(self) -> bool:
        """Whether the daemon can forecast now. Asks once; raises `DaemonUnreachableError` if no answer comes."""
        try:
            await self._connection.call("GET", "/readyz", dict[str, Any], retry_seconds=0.0)
        except RefusedError as error:
            if error.status == 503:
                return False
            raise
        return True
