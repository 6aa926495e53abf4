"""Calls of `/v1/predict` with tensors in MessagePack, the usual form, which connections serve themselves."""

from functools import lru_cache, partial
from typing import Annotated, Any

import msgspec
import numpy as np
import structlog
from aiohttp.helpers import rfc822_formatted_time

from streamd.core.errors import DrainingError, InvalidInputError, StreamdError
from streamd.http.access.gate import AccessGate
from streamd.http.access.rules import RouteRule
from streamd.http.body_turns import LARGE_BODY_BYTES
from streamd.http.direct.answers import format_error, format_head
from streamd.http.direct.body_forms import BodyForms, ViewedTensor
from streamd.http.direct.connection import Cancel, DirectCaller
from streamd.http.direct.framing import PlainRequest
from streamd.http.direct.heads import PlainHeads
from streamd.http.routes.predict import MAX_INPUTS, MODEL_HEADER, make_message
from streamd.http.wire.codecs import CONTENT_TYPES, Encoding, encode
from streamd.http.wire.tensors import WIRE_DTYPES, read_tensor
from streamd.runtime.predict import Prediction, PredictRequest
from streamd.runtime.predict_calls import Ended
from streamd.runtime.service import Service

log = structlog.get_logger(__name__)


class _PlainCall(msgspec.Struct, forbid_unknown_fields=True):
    """The message of a call: any other is not plain."""

    inputs: Annotated[dict[str, ViewedTensor], msgspec.Meta(max_length=MAX_INPUTS)]


_MSGPACK_TYPES = [name for name, encoding in CONTENT_TYPES.items() if encoding is Encoding.MSGPACK]

_FLOAT32 = WIRE_DTYPES["float32"]

_decoder = msgspec.msgpack.Decoder(_PlainCall)


class DirectPredict:
    """Serves plain calls of some paths that have one rule of access."""

    def __init__(self, service: Service, gate: AccessGate, rules: dict[str, RouteRule], max_body_bytes: int) -> None:
        self.heads = PlainHeads(rules, _MSGPACK_TYPES, min(max_body_bytes, LARGE_BODY_BYTES - 1))
        self._calls = service.predict_calls
        self._forms = BodyForms(service.state.contract)
        self._gate = gate
        self._rules = rules

    def begin(self, request: PlainRequest, certificate: Any, caller: DirectCaller) -> Cancel | None:
        """Begin a call; returns how to cancel it, or `None` if aiohttp must serve it.

        A call that is refused or wrong in any way is one of those: then aiohttp finds the same fault, and answers.
        """
        head = request.head
        try:
            self._gate.admit_plain(head, certificate, self._rules[head.path])
            call = self._begin_call(request, partial(_end, caller))
        except (StreamdError, msgspec.DecodeError, ValueError):
            return None
        return partial(self._calls.cancel, call)

    def _begin_call(self, request: PlainRequest, ended: Ended) -> PredictRequest:
        windows = self._forms.find_windows(request)
        if windows is not None:
            return self._calls.begin_windows(windows, ended)
        tensors = _decoder.decode(request.body).inputs
        call = self._calls.begin({name: read_tensor(name, tensor) for name, tensor in tensors.items()}, ended)
        if not self._forms.is_known(request):
            self._forms.learn(request, tensors)
        return call


def _end(caller: DirectCaller, result: Prediction | StreamdError) -> None:
    if isinstance(result, Prediction):
        caller.answer(format_prediction(result))
        return
    if isinstance(result, InvalidInputError):  # its windows were checked in the lane's inputs
        if caller.decline():
            return
        result = DrainingError("the daemon is stopping")
    caller.answer(format_error(result, Encoding.MSGPACK))


def format_prediction(prediction: Prediction) -> bytes:
    """Return the answer to a call that succeeded."""
    values = np.ascontiguousarray(prediction.predictions, _FLOAT32)
    before, after = _make_frame(values.shape, prediction.batched, prediction.model, rfc822_formatted_time())
    return b"".join((before, values.data, after))


@lru_cache(maxsize=64)
def _make_frame(shape: tuple[int, ...], batched: bool, model: str, date: str) -> tuple[bytes, bytes]:
    """Return what stands before and after the values, of `shape` with the batch axis, in an answer of this `date`."""
    empty = Prediction(np.zeros(shape, np.float32), batched, model)
    body = encode(make_message(empty, Encoding.MSGPACK, is_wrapped=True), Encoding.MSGPACK)
    head = format_head(200, Encoding.MSGPACK, ((MODEL_HEADER, model),), len(body), date)
    tail = b"".join(encode(text, Encoding.MSGPACK) for text in ("model", model))
    assert body.endswith(tail), "the values are followed by the model"
    return head + body[: len(body) - len(tail) - empty.predictions.nbytes], tail
