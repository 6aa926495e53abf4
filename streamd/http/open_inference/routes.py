"""The routes below `/v2`. Errors below it have the form of the protocol, which `http/errors.py` gives them.

The windows of a request are checked and queued by the service, and touch no server's state.
"""

import asyncio
from typing import Any

from aiohttp import web

from streamd.core.errors import StreamdError, UnknownModelError
from streamd.http.body_turns import finish_steps
from streamd.http.callers import cancel_if_caller_leaves
from streamd.http.open_inference.answers import InferenceAnswer, choose_coding, compress, is_output_binary, make_answer
from streamd.http.open_inference.inputs import RequestReader
from streamd.http.open_inference.messages import HEADER_LENGTH, decode_request_in_steps, split_body
from streamd.http.open_inference.metadata import (
    MODEL_NAME,
    describe_config,
    describe_model,
    describe_server,
    describe_statistics,
)
from streamd.http.requests import BodyReader
from streamd.http.wire.codecs import Encoding, encode
from streamd.runtime.inference_statistics import InferenceCall
from streamd.runtime.service import Service

MODEL_PATHS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
"""The paths of a model, without and with its version."""

DIRECTLY_COMPRESSED_BYTES = 2**14
"""A larger answer is compressed in a thread: 16 KiB take 0.4 ms."""

BINARY_TYPE = "application/octet-stream"


class OpenInferenceRoutes:
    """Handlers for clients of the Open Inference Protocol."""

    def __init__(self, service: Service, bodies: BodyReader) -> None:
        self._service = service
        self._bodies = bodies
        self._reader = RequestReader(service.contract)

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v2", self.get_server)
        app.router.add_get("/v2/health/live", self.get_live)
        app.router.add_get("/v2/health/ready", self.get_ready)
        for path in MODEL_PATHS:
            app.router.add_get(path, self.get_model)
            app.router.add_get(f"{path}/ready", self.get_model_ready)
            app.router.add_get(f"{path}/config", self.get_config)
            app.router.add_get(f"{path}/stats", self.get_statistics)
            app.router.add_post(f"{path}/infer", self.infer)

    # ------------------------------------------------------------ health and metadata
    async def get_server(self, request: web.Request) -> web.Response:
        """Return the name, the release and the extensions of the server."""
        return _reply(describe_server())

    async def get_live(self, request: web.Request) -> web.Response:
        """Answer 200 as long as the event loop runs."""
        return _reply({"live": True})

    async def get_ready(self, request: web.Request) -> web.Response:
        """Answer 200 if a lane is warm and the daemon is not stopping, else 503."""
        return self._answer_readiness({})

    async def get_model_ready(self, request: web.Request) -> web.Response:
        """Answer as `get_ready` does, if the model and the version are those that serve."""
        self._require_model(request)
        return self._answer_readiness({"name": MODEL_NAME})

    def _answer_readiness(self, names: dict[str, Any]) -> web.Response:
        if self._service.is_ready:
            return _reply({**names, "ready": True})
        reason = "the daemon is stopping" if self._service.is_draining else "no lane is ready"
        return _reply({**names, "ready": False, "error": reason}, 503)

    async def get_model(self, request: web.Request) -> web.Response:
        """Return the tensors of the model."""
        self._require_model(request)
        return _reply(describe_model(self._service.served_contract, self._service.model, self._backend))

    async def get_config(self, request: web.Request) -> web.Response:
        """Return the configuration of the model, which perf_analyzer reads."""
        self._require_model(request)
        return _reply(describe_config(self._service.served_contract, self._service.model, self._backend))

    async def get_statistics(self, request: web.Request) -> web.Response:
        """Return the counts and times of the calls of `infer` that the version which serves has answered."""
        self._require_model(request)
        version = self._service.model
        return _reply(describe_statistics(version, self._service.inference_statistics.get_version(version)))

    @property
    def _backend(self) -> str:
        return str(self._service.engine.shown.get("backend") or "")  # empty before the first version is loaded

    def _require_model(self, request: web.Request) -> None:
        """Raise `UnknownModelError` if the path names another model, or a version that does not serve."""
        model = request.match_info["model"]
        if model != MODEL_NAME:
            raise UnknownModelError(f"model {model!r} is unknown, expected {MODEL_NAME}")
        self._require_version(request, self._service.model)

    def _require_version(self, request: web.Request, served: str) -> None:
        version = request.match_info.get("version")
        if version is not None and version != served:
            raise UnknownModelError(f"version {version!r} of {MODEL_NAME} does not serve, expected {served} or none")

    # ------------------------------------------------------------ inference
    async def infer(self, request: web.Request) -> web.Response:
        """Forecast the windows of a request, batched with all other work; tensors are JSON or bytes, both ways."""
        self._require_model(request)
        call = InferenceCall(self._service.inference_statistics)
        try:
            answer = await self._forecast(request, call)
        except StreamdError:
            call.fail(self._service.model)
            raise
        return await _send(request, answer)

    async def _forecast(self, request: web.Request, call: InferenceCall) -> InferenceAnswer:
        async with self._bodies.read_body(request) as body:
            call.begin()
            header, behind = split_body(body, request.headers.getall(HEADER_LENGTH, ()))
            message = await finish_steps(decode_request_in_steps(header))
            is_binary = is_output_binary(message)
            inputs = await finish_steps(self._reader.read_in_steps(message.inputs, behind))
        with cancel_if_caller_leaves(request):
            prediction = await self._service.predict(inputs, call)
        self._require_version(request, prediction.model)  # it may have changed meanwhile
        names = MODEL_NAME, prediction.model
        answer = make_answer(prediction.predictions, names, message.id, is_binary=is_binary)
        call.succeed(prediction.model, len(prediction.predictions))
        return answer


async def _send(request: web.Request, answer: InferenceAnswer) -> web.Response:
    """Return an answer as a response, compressed if the caller accepts it."""
    headers = {}
    body = answer.body
    if answer.header_bytes is not None:
        headers[HEADER_LENGTH] = str(answer.header_bytes)
    coding = choose_coding(request.headers.get("Accept-Encoding", ""))
    if coding is not None:
        headers["Content-Encoding"] = coding
        if len(body) <= DIRECTLY_COMPRESSED_BYTES:
            body = compress(body, coding)
        else:
            body = await asyncio.to_thread(compress, body, coding)
    content_type = Encoding.JSON.value if answer.header_bytes is None else BINARY_TYPE
    return web.Response(body=body, content_type=content_type, headers=headers)


def _reply(message: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=encode(message, Encoding.JSON), status=status, content_type=Encoding.JSON.value)
