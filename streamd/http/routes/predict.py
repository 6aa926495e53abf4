"""`POST /v1/predict` and `/predict`: a caller's tensors in, forecasts out."""

from typing import Any

import msgspec
from aiohttp import web

from streamd.http.callers import Callers
from streamd.http.errors import reply
from streamd.http.requests import BodyReader
from streamd.http.wire.codecs import Decoder, Encoding, parse_content_type
from streamd.http.wire.tensors import decode_tensor, make_wire_tensor
from streamd.runtime.service import Service

MODEL_HEADER = "X-Streamd-Model"

_message = Decoder(dict[str, msgspec.Raw])


class PredictRoutes:
    """Prediction on request."""

    def __init__(self, service: Service, bodies: BodyReader) -> None:
        self._service = service
        self._bodies = bodies
        self._callers = Callers()

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/v1/predict", self.predict)
        app.router.add_post("/predict", self.predict)

    async def predict(self, request: web.Request) -> web.Response:
        """Answer in the form of the question: tensors under `inputs` with tensors under `outputs`, lists bare."""
        encoding = parse_content_type(request.headers.get("Content-Type", ""))
        async with self._bodies.read_body(request) as body:
            given: dict[str, msgspec.Raw] = _message.decode(body, encoding)
            wrapped = "inputs" in given
            if wrapped:
                given = _message.decode(bytes(given["inputs"]), encoding)
            inputs = {name: decode_tensor(name, value, encoding) for name, value in given.items()}
        with self._callers.waiting(request):
            made = await self._service.predict(inputs)
        predictions = made.predictions if made.batched else made.predictions[0]
        shown = make_wire_tensor(predictions) if encoding is Encoding.MSGPACK else predictions
        answer: dict[str, Any] = {"predictions": shown}
        if wrapped:
            answer = {"outputs": answer}
        response = reply(request, {**answer, "model": made.model})
        response.headers[MODEL_HEADER] = made.model
        return response
