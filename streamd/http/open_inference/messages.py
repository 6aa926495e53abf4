"""Requests for inference: a JSON header, with the bytes of tensors behind it.

Checks the form of a message; `inputs.py` reads the tensors.
"""

from collections.abc import Generator, Sequence
from typing import Annotated

import msgspec

from streamd.core.errors import MalformedError, TooLargeError
from streamd.http.routes.predict import MAX_COLONS, MAX_INPUTS
from streamd.http.wire.codecs import Decoder, Encoding
from streamd.http.wire.tensors import MAX_LIST_VALUES, MAX_LISTS

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header with the bytes of the JSON header; without it, the whole body is JSON."""

MAX_QUOTES = 10_000
"""Quotes in a JSON header. A request has some dozens; between them lies what may hold a bare NaN."""

JSON_PIECE_BYTES = 2**16
"""JSON is searched, and numbers are decoded, in pieces of this size; 64 KiB of zeros take 1.4 ms."""

MAX_NUMBERS_BYTES = 2**20
"""The largest piece of numbers; it is larger than `JSON_PIECE_BYTES` if a comma is late, as behind many spaces."""


class InputParameters(msgspec.Struct):
    """The parameters of an input that are known; any others are ignored."""

    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """The bytes of the tensor behind the JSON header; `None` if its numbers are in `data`."""
    shared_memory_region: str | None = None


class RequestInput(msgspec.Struct, kw_only=True):
    """An input tensor. `data` is empty if its bytes come behind the JSON header."""

    name: str
    shape: list[int]
    datatype: str
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class OutputParameters(msgspec.Struct):
    """The parameters of an output that are known; any others are ignored."""

    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class RequestOutput(msgspec.Struct):
    """An output that the caller wants."""

    name: str
    parameters: OutputParameters | None = None


class RequestParameters(msgspec.Struct):
    """The parameters of a request that are known; any others, such as a priority, are ignored."""

    binary_data_output: bool = False


class InferenceRequest(msgspec.Struct, kw_only=True):
    """The JSON header of a request."""

    inputs: Annotated[list[RequestInput], msgspec.Meta(max_length=MAX_INPUTS)]
    outputs: Annotated[list[RequestOutput], msgspec.Meta(max_length=MAX_INPUTS)] | None = None
    id: str | None = None
    parameters: RequestParameters | None = None


_request_decoder = Decoder(InferenceRequest)


def split_body(body: bytes, header_lengths: Sequence[str]) -> tuple[bytes, memoryview]:
    """Return the JSON header of a body, and the bytes behind it; `header_lengths` are the values of `HEADER_LENGTH`.

    Raises `MalformedError` if the header does not fit the body.
    """
    if not header_lengths:
        return body, memoryview(b"")
    given = header_lengths[0]
    if len(header_lengths) > 1 or not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise MalformedError(f"{HEADER_LENGTH} is {', '.join(header_lengths)[:64]!r}, expected one number of bytes")
    length = int(given)
    if not 0 < length <= len(body):
        raise MalformedError(f"{HEADER_LENGTH} is {length}, expected 1 to {len(body)}, the bytes of the body")
    return body[:length], memoryview(body)[length:]


def decode_request_in_steps(header: bytes) -> Generator[None, None, InferenceRequest]:
    """Decode a JSON header, between whose pieces the event loop may run; a bare NaN in it means null.

    Raises `MalformedError`, and `TooLargeError` for a header of too many keys, lists or numbers.
    """
    if header.count(b":") > MAX_COLONS or header.count(b'"') > MAX_QUOTES:
        raise TooLargeError(f"the JSON has over {MAX_COLONS} colons or {MAX_QUOTES} quotes")
    if header.count(b"[") > MAX_LISTS or header.count(b",") > MAX_LIST_VALUES:
        raise TooLargeError(
            f"over {MAX_LISTS} lists or {MAX_LIST_VALUES} numbers are accepted only as bytes behind the JSON"
        )
    plain = yield from replace_nan_in_steps(header)
    request: InferenceRequest = _request_decoder.decode(plain, Encoding.JSON)
    return request


def replace_nan_in_steps(header: bytes) -> Generator[None, None, bytes]:
    """Return JSON with null for each NaN that is not inside a string."""
    if b"NaN" not in header:
        return header
    parts = header.split(b'"')
    is_string = False
    for number, part in enumerate(parts):
        if is_string:
            backslashes = len(part) - len(part.rstrip(b"\\"))
            is_string = backslashes % 2 == 1  # the quote behind them is escaped, so the string goes on
        else:
            pieces: list[bytes] = []
            for piece in cut_at_commas(part):
                if pieces:
                    yield
                pieces.append(piece.replace(b"NaN", b"null"))
            parts[number] = b",".join(pieces)
            is_string = True
    return b'"'.join(parts)


def cut_at_commas(data: bytes) -> Generator[bytes, None, None]:
    """Yield pieces of about `JSON_PIECE_BYTES`, without the commas between them."""
    begin = 0
    while begin + JSON_PIECE_BYTES < len(data):
        end = data.find(b",", begin + JSON_PIECE_BYTES)
        if end < 0:
            break
        yield data[begin:end]
        begin = end + 1
    yield data[begin:]
