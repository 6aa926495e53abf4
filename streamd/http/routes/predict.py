"""The routes `POST /v1/predict` and `/predict`: tensors of a caller in, forecasts out.

The windows of a call are checked and queued by the service, and touch no server's state.
"""

from typing import Annotated, Any

import msgspec
from aiohttp import web

from streamd.core.errors import TooLargeError
from streamd.http.body_turns import finish_steps
from streamd.http.callers import cancel_if_caller_leaves
from streamd.http.errors import reply
from streamd.http.requests import BodyReader
from streamd.http.wire.codecs import Decoder, Encoding, parse_content_type
from streamd.http.wire.tensors import decode_tensor_in_steps, make_wire_tensor
from streamd.runtime.predict import Prediction
from streamd.runtime.service import Service

PREDICT_PATHS = ("/v1/predict", "/predict")

MODEL_HEADER = "X-Streamd-Model"
"""The header of an answer with the version that made it."""

MAX_INPUTS = 64
"""Entries of one object in a call."""

MAX_COLONS = 10_000
"""Colons in a call of JSON: there is one behind each key, so more of them are a call of thousands of keys."""

_message_decoder = Decoder(Annotated[dict[str, msgspec.Raw], msgspec.Meta(max_length=MAX_INPUTS)])


class PredictRoutes:
    """Handlers for callers that bring their own windows."""

    def __init__(self, service: Service, bodies: BodyReader) -> None:
        self._service = service
        self._bodies = bodies

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        for path in PREDICT_PATHS:
            app.router.add_post(path, self.predict)

    async def predict(self, request: web.Request) -> web.Response:
        """Return forecasts in the form of the call: under `outputs` if its tensors are under `inputs`."""
        encoding = parse_content_type(request.headers.get("Content-Type", ""))
        async with self._bodies.read_body(request) as body:
            if encoding is Encoding.JSON and body.count(b":") > MAX_COLONS:
                raise TooLargeError(
                    f"the call has over {MAX_COLONS} colons, and at most {MAX_INPUTS} inputs are accepted"
                )
            given: dict[str, msgspec.Raw] = _message_decoder.decode(body, encoding)
            is_wrapped = "inputs" in given
            if is_wrapped:
                given = _message_decoder.decode(bytes(given["inputs"]), encoding)
            inputs = {
                name: await finish_steps(decode_tensor_in_steps(name, value, encoding)) for name, value in given.items()
            }
        with cancel_if_caller_leaves(request):
            prediction = await self._service.predict(inputs)
        response = reply(request, make_message(prediction, encoding, is_wrapped=is_wrapped))
        response.headers[MODEL_HEADER] = prediction.model
        return response


def make_message(prediction: Prediction, encoding: Encoding, *, is_wrapped: bool) -> dict[str, Any]:
    """Return the answer to a call as a message: under `outputs` if its tensors were under `inputs`."""
    predictions = prediction.predictions if prediction.batched else prediction.predictions[0]
    values = make_wire_tensor(predictions) if encoding is Encoding.MSGPACK else predictions
    answer: dict[str, Any] = {"predictions": values}
    if is_wrapped:
        answer = {"outputs": answer}
    return {**answer, "model": prediction.model}
