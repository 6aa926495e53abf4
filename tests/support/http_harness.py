"""A whole service behind real sockets, in this process, on fake lanes.

The sender sets the time, so nothing here needs a clock: `at(step)` is the time at which a step begins.
"""

import asyncio
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import numpy.typing as npt
from aiohttp import WSMsgType, web, web_app

from streamd.cluster.rows.cluster_ingest import ClusterTakers
from streamd.core.access.access_list import AccessList
from streamd.core.alerts.settings import AlertSettings
from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.mapping.rules import RuleSet
from streamd.core.scheduling.costs import CostTable
from streamd.http.access.origins import OriginPolicy
from streamd.http.app import HttpApp, make_http_app
from streamd.http.other_nodes import OtherNodes
from streamd.http.requests import TransportLimits
from streamd.http.routes.versions import VersionChanges
from streamd.inference.fake import FakeBackend, make_fake_forecast
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.process_links import ALONE
from streamd.runtime.service import Service, ServiceLimits
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import WindowLimits
from streamd.runtime.traces import NO_TRACES, Traces
from streamd.runtime.wiring import build_service
from streamd.server.cluster.part import ClusterPart
from streamd.web.files import PageFiles
from tests.support.small_page import make_small_page

Message = dict[str, Any]
Values = Mapping[str, float | None]

CONTRACT = ModelContract(
    features=("cpu_user", "mem_used", "load_average"),
    targets=("cpu_user", "load_average"),
    quantiles=(0.1, 0.5, 0.9),
    context_length=8,
    horizon=4,
    step_seconds=60,
    units={"cpu_user": "percent", "mem_used": "percent", "load_average": "1"},
    architecture="fake",
)
NEED = 3
MODEL = "fake_tensorrt_20260101_000000"
BASE_SECONDS = 1_700_000_040
"""A time at which a step begins."""

JSON = "application/json"
MSGPACK = "application/msgpack"
TYPES = (JSON, MSGPACK)

ADMIN_TOKEN = "the token of an administrator"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
"""The headers of an administrator."""


# ---------------------------------------------------------------- samples, and the expected windows and forecasts
def at(step: int) -> int:
    """Return the time at which a step begins, in epoch seconds."""
    return BASE_SECONDS + step * CONTRACT.step_seconds


def origin(step: int) -> int:
    """Return the origin of a forecast whose newest row is that of this step."""
    return at(step + 1)


def values_of(number: int, step: int) -> dict[str, float]:
    """Return the values of a server in a step; no other server and step has the same."""
    return {"cpu_user": number + step / 64, "mem_used": 1000 + number - step / 64, "load_average": number * 8 + step}


def make_sample(server: str, step: int, values: Values | None = None, **more: Any) -> Message:
    return {"server": server, "time": at(step), "values": values_of(0, step) if values is None else values, **more}


def make_rows(server: str, number: int, steps: Iterable[int]) -> list[Message]:
    """Make one whole row for each step, as samples."""
    return [make_sample(server, step, values_of(number, step)) for step in steps]


def make_window(samples: Iterable[Mapping[str, Any]], newest: int, contract: ModelContract = CONTRACT) -> Float32:
    """Build the window of one server in the obvious way: `(context_length, features)`, NaN where a value is missing."""
    window = np.full((contract.context_length, len(contract.features)), np.nan, np.float32)
    for each in samples:
        age = newest - (each["time"] - BASE_SECONDS) // contract.step_seconds
        if 0 <= age < contract.context_length:
            for name, value in each["values"].items():
                if name in contract.features and value is not None:
                    window[contract.context_length - 1 - age, contract.features.index(name)] = value
    return window


def make_wire_forecast(window: Float32, contract: ModelContract = CONTRACT) -> Float32:
    """Return the fake's forecast of a window in the order of the wire: `(targets, steps, quantiles)`."""
    return np.ascontiguousarray(make_fake_forecast(contract, window).transpose(1, 0, 2))


def make_tensor(array: npt.NDArray[Any]) -> Message:
    array = np.ascontiguousarray(array)
    return {"shape": list(array.shape), "dtype": array.dtype.name, "data": array.tobytes()}


def make_question(*firsts: float) -> Message:
    """Return a predict call of one window for each number, which fills the first feature."""
    cont = np.ones((len(firsts), *CONTRACT.input_shapes["encoder_cont"]), np.float32)
    cont[:, :, 0] = np.asarray(firsts, np.float32)[:, None]
    future = np.zeros((len(firsts), *CONTRACT.input_shapes["decoder_cont"]), np.float32)
    return {"inputs": {"encoder_cont": make_tensor(cont), "decoder_cont": make_tensor(future)}}


def read_array(shown: Any) -> npt.NDArray[Any]:
    """Read a tensor or nested lists as they come from the wire."""
    if isinstance(shown, dict):
        return np.frombuffer(shown["data"], np.dtype(shown["dtype"]).newbyteorder("<")).reshape(shown["shape"])
    return np.asarray(shown, np.float32)


def pack(message: Any, content_type: str) -> bytes:
    return json.dumps(message).encode() if content_type == JSON else msgspec.msgpack.encode(message)


def unpack(data: bytes | str, content_type: str) -> Any:
    return (
        json.loads(data) if content_type == JSON else msgspec.msgpack.decode(data if isinstance(data, bytes) else b"")
    )


# ---------------------------------------------------------------- the client
@dataclass
class Reply:
    """An HTTP response that was read whole."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        return unpack(self.data, self.headers["Content-Type"].partition(";")[0])

    @property
    def code(self) -> str:
        """The code of an error, whose other fields are checked too."""
        body = self.body
        assert body["type"] == "error"
        assert isinstance(body["message"], str)
        assert body["message"]
        return str(body["code"])


class Socket:
    """A WebSocket in one encoding."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, content_type: str) -> None:
        self.raw = socket
        self.content_type = content_type

    async def send(self, message: Any) -> None:
        await self.send_bytes(pack(message, self.content_type))

    async def send_bytes(self, frame: bytes) -> None:
        if self.content_type == JSON:
            await self.raw.send_str(frame.decode())
        else:
            await self.raw.send_bytes(frame)

    async def receive(self) -> Message:
        """Return the next message, which must be in the encoding of this socket."""
        frame = await self.raw.receive()
        expected = WSMsgType.TEXT if self.content_type == JSON else WSMsgType.BINARY
        assert frame.type is expected, f"got {frame}"
        message = unpack(frame.data, self.content_type)
        assert isinstance(message, dict)
        return message

    async def ask(self, message: Any) -> Message:
        await self.send(message)
        return await self.receive()

    async def wait_closed(self) -> int:
        """Wait until the daemon closes the socket; returns the close code."""
        frame = await self.raw.receive()
        assert frame.type is WSMsgType.CLOSE, f"got {frame}"
        return int(frame.data)


@dataclass
class HttpDaemon:
    """A service that runs behind HTTP, and a client of it."""

    service: Service
    backend: FakeBackend
    http_app: HttpApp
    session: aiohttp.ClientSession
    port: int
    runner: web.AppRunner
    _workers: list[LaneWorker] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open_lanes(self, count: int) -> None:
        """Open warm fake lanes."""
        loop = asyncio.get_running_loop()
        lanes = [self.backend.make_lane(index) for index in range(count)]
        self._workers = [LaneWorker(lane, loop, self.service.pipeline.handle_result) for lane in lanes]
        costs = CostTable({bucket: 0.001 * bucket for bucket in self.backend.buckets}, pads=False)
        self.service.pipeline.open_lanes(self._workers, costs)
        self.service.begin()

    def has_stalled_reader(self) -> bool:
        """Whether a peer leaves so much unread that a send waits for it."""
        assert self.runner.server is not None
        return any(connection.writing_paused for connection in self.runner.server.connections)

    def release_lanes(self) -> None:
        """Let the batches end in which the fake lanes are held."""
        self.backend.script.hold = False
        for gate in self.backend.script.gates.values():
            gate.set()

    # ------------------------------------------------------------ calls
    async def call(
        self, method: str, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        skipped = [] if headers and "Content-Type" in headers else ["Content-Type"]
        async with self.session.request(
            method, self.url + path, data=data and io.BytesIO(data), headers=headers, skip_auto_headers=skipped
        ) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def get(self, path: str, accept: str = JSON) -> Reply:
        return await self.call("GET", path, headers={"Accept": accept})

    async def post(self, path: str, message: Any, content_type: str = JSON) -> Reply:
        return await self.post_bytes(path, pack(message, content_type), content_type)

    async def post_bytes(self, path: str, data: bytes, content_type: str = JSON, **headers: str) -> Reply:
        return await self.call("POST", path, data, {"Content-Type": content_type, **headers})

    async def accept(self, samples: Sequence[Message]) -> None:
        """Send samples, all of which must be accepted."""
        reply = await self.post("/v1/samples", {"samples": samples})
        assert reply.status == 200
        assert reply.body == {"accepted": len(samples), "rejected": 0, "errors": []}

    async def window(self, server: str) -> Float32:
        reply = await self.get(f"/v1/servers/{server}")
        assert reply.status == 200
        return np.asarray([[np.nan if cell is None else cell for cell in row] for row in reply.body["values"]], "<f4")

    async def status(self) -> Message:
        body = (await self.get("/v1/status")).body
        assert isinstance(body, dict)
        return body

    @asynccontextmanager
    async def socket(self, path: str, content_type: str = JSON) -> AsyncIterator[Socket]:
        async with self.session.ws_connect(self.url + path, max_msg_size=0) as socket:
            yield Socket(socket, content_type)

    @asynccontextmanager
    async def subscribed(self, content_type: str = JSON, **choice: Any) -> AsyncIterator[Socket]:
        async with self.socket("/v1/forecasts", content_type) as socket:
            answer = await socket.ask({"type": "subscribe", **choice})
            assert answer["type"] == "subscribed"
            yield socket


def is_same_array(a: Float32, b: Float32) -> bool:
    """Whether two arrays have the same shape and values; NaN equals NaN."""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=True))


def open_listener(send_buffer_bytes: int | None = None) -> socket.socket:
    """Open a listening socket; accepted connections inherit its send buffer."""
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer_bytes is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    listener.setblocking(False)
    return listener


@dataclass(kw_only=True)
class HttpDaemonSettings:
    """The settings of a service that a test may change."""

    contract: ModelContract = CONTRACT
    limits: TransportLimits = field(default_factory=TransportLimits)
    service_limits: ServiceLimits = field(default_factory=ServiceLimits)
    capacity: int = 256
    grace_seconds: float = 3600.0
    lanes: int = 2
    backend: FakeBackend | None = None
    listener: socket.socket | None = None
    engines: VersionChanges | None = None
    admin_token: str = ADMIN_TOKEN
    access: AccessList | None = None
    """The tokens; without it the daemon is open, but for what `admin_token` permits."""
    origins: OriginPolicy = field(default_factory=OriginPolicy)
    rule_sets: Sequence[RuleSet] = ()
    traces: Traces = NO_TRACES
    page: PageFiles | None = field(default_factory=make_small_page)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    wall: Callable[[], float] = time.time
    nodes: OtherNodes | None = None
    """The other nodes of a cluster."""
    make_takers: Callable[[Service], ClusterTakers] | None = None
    """Makes what takes samples and points at a node of a cluster."""
    cluster: ClusterPart | None = None
    """Makes the daemon a whole node of a cluster; a test joins it."""


@asynccontextmanager
async def run_http_daemon(folder: Path, setup: HttpDaemonSettings) -> AsyncIterator[HttpDaemon]:
    """Start a service behind HTTP; at the end, stop all its parts whatever they are doing."""
    window_limits = WindowLimits(
        capacity=setup.capacity,
        need=NEED,
        late_steps=setup.contract.context_length,
        grace_seconds=setup.grace_seconds,
    )
    state = open_state(folder, setup.contract, window_limits, time.monotonic())
    service = build_service(
        state,
        MODEL,
        {},
        setup.service_limits,
        rule_sets=setup.rule_sets,
        traces=setup.traces,
        links=ALONE if setup.cluster is None else setup.cluster.make_links(state),
        alerts=setup.alerts,
        wall=setup.wall,
    )
    if setup.cluster is not None:
        setup.cluster.open(service)
    service.alert_subscriptions.begin()  # as if the alerts had been started, without their thread
    service.engine.shown = {
        "backend": "fake",
        "precision": "fp32",
        "fallbacks": [{"backend": "none", "reason": "a test"}],
    }
    access = setup.access or AccessList(None, setup.admin_token)
    http_app = make_http_app(
        service,
        setup.limits,
        setup.engines,
        access=access,
        origins=setup.origins,
        page=setup.page,
        **_list_seams(service, setup),
    )
    if setup.cluster is not None:
        setup.cluster.serve(http_app)
    runner = http_app.make_runner(shutdown_timeout_seconds=0.05)
    await runner.setup()
    await web.SockSite(runner, setup.listener or open_listener()).start()
    backend = setup.backend or FakeBackend(setup.contract)
    try:
        async with aiohttp.ClientSession() as session:
            daemon = HttpDaemon(service, backend, http_app, session, runner.addresses[0][1], runner)
            if setup.lanes:
                daemon.open_lanes(setup.lanes)
            try:
                yield daemon
            finally:
                daemon.release_lanes()
    finally:  # also after a test that failed: uvloop waits for ever for a server that is left open
        await runner.cleanup()
        service.close()
        # aiohttp remembers the handlers of a thousand routes of former applications, and each has its service.
        web_app._cached_build_middleware.cache_clear()


def _list_seams(service: Service, setup: HttpDaemonSettings) -> dict[str, Any]:
    """Return what the routes take from a cluster."""
    if setup.cluster is not None:
        return dict(setup.cluster.list_seams())
    if setup.make_takers is None:
        return {"nodes": setup.nodes}
    takers = setup.make_takers(service)
    return {"nodes": setup.nodes, "taker": takers.samples, "singles": takers.singles, "points": takers.points}
