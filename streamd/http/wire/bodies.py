"""Decodes the bodies and frames that agents send into samples; touches no state.

`body_types.py` has the shapes of a body. All of them end as `IndexedSamples`: pairs of an index and a `Sample` or its
error. Columns in which everything fits do not come here: `column_frames.py` decodes them.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from streamd.core.errors import InvalidInputError, InvalidSampleError, InvalidValueError, MalformedError, TooLargeError
from streamd.core.state.samples import MAX_SAMPLE_VALUES, IndexedSamples, Sample
from streamd.http.body_turns import LARGE_BODY_BYTES
from streamd.http.foreign_tokens import explain_sample, mark_pieces
from streamd.http.wire.body_types import (
    EXPECTED_SAMPLE_TIME,
    FIELD_ERRORS,
    GROUP_BYTES,
    GROUP_SAMPLES,
    MAX_DECODED_SAMPLES,
    MAX_DECODED_VALUES,
    Body,
    DecodingSteps,
    Identifier,
    LooseBody,
    has_too_many_values,
)
from streamd.http.wire.codecs import DECODING_ERRORS, Decoder, Encoding, join_array, translate_decoding_error
from streamd.http.wire.column_rows import read_columns
from streamd.http.wire.list_counts import count_commas_of_lists

_MAX_COLUMNS_COMMAS = 3 * MAX_DECODED_SAMPLES + MAX_SAMPLE_VALUES
"""Commas in the lists of columns: `servers`, `time`, `values` and `features`."""


class SampleList(Iterator[tuple[int, Sample]]):
    """Samples that are all decoded, each with its index; as a whole they are `samples`."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples
        self._rest = enumerate(samples)

    def __iter__(self) -> "enumerate[Sample]":
        """Return what is left; a loop over it does not call this object for each sample."""
        return self._rest

    def __next__(self) -> tuple[int, Sample]:
        """Return the next sample."""
        return next(self._rest)


_body_decoder = Decoder(Body)
_loose_body_decoder = Decoder(LooseBody)
_sample_decoder = Decoder(Sample)
_samples_decoder = Decoder(list[Sample])


def decode_body(data: bytes | str, encoding: Encoding) -> tuple[Identifier, IndexedSamples]:
    """Return the id of a body and its samples by index; a sample that cannot be decoded is an error in its place.

    Raises `MalformedError` if nothing of the body can be decoded, and `TooLargeError` if it has more samples or values
    than a body may have.
    """
    steps = decode_body_in_steps(data, encoding)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: tuple[Identifier, IndexedSamples] = stop.value
            return result


def decode_body_in_steps(data: bytes | str, encoding: Encoding) -> DecodingSteps[tuple[Identifier, IndexedSamples]]:
    """Decode a body as `decode_body` does; no step of a body of a few megabytes takes over 0.1 s."""
    body: Body | LooseBody | None = None
    if len(data) < LARGE_BODY_BYTES:
        try:
            body = _body_decoder.decode_raw(data, encoding)
        except DECODING_ERRORS:
            body = None
    if body is None:
        body = yield from _decode_loosely(data.encode() if isinstance(data, str) else data, encoding)
    if (body.samples is None) == (body.columns is None):
        raise MalformedError("expected an object with either 'samples' or 'columns'")
    if body.columns is not None:
        return body.id, read_columns(body.columns, encoding)
    assert body.samples is not None
    if isinstance(body, Body):
        return body.id, SampleList(body.samples)
    return body.id, _decode_samples(body.samples, encoding)


def _decode_loosely(data: bytes, encoding: Encoding) -> DecodingSteps[LooseBody]:
    """Decode a body without its samples, so that each of them can be refused alone."""
    if encoding is Encoding.JSON and len(data) >= LARGE_BODY_BYTES:
        yield from _check_lists(data)
    try:
        return _decode_loose_body(data, encoding)
    except DECODING_ERRORS as exc:
        if encoding is Encoding.JSON and (body := (yield from _decode_marked(data))) is not None:
            return body
        raise translate_decoding_error(exc, data) from exc


def _check_lists(data: bytes) -> DecodingSteps[None]:
    """Raise `TooLargeError` if a large body of JSON has lists of too many elements; none of them is built."""
    commas = data.count(b",")
    if commas > MAX_DECODED_VALUES:
        raise TooLargeError(f"the body has over {MAX_DECODED_VALUES} commas, and so more values than are accepted")
    if commas < MAX_DECODED_SAMPLES:
        return
    for counts in count_commas_of_lists(data):
        if counts.commas_at_2 >= MAX_DECODED_SAMPLES or counts.list_commas_at_3 >= _MAX_COLUMNS_COMMAS:
            raise TooLargeError(f"the lists of the body have more elements than {MAX_DECODED_SAMPLES} samples or rows")
        yield


def _decode_marked(data: bytes) -> DecodingSteps[LooseBody | None]:
    """Decode JSON with its foreign tokens marked; returns `None` if it has no foreign token or another fault."""
    pieces: list[bytes] = []
    has_marks = False
    try:
        for piece, is_marked in mark_pieces(data):
            pieces.append(piece)
            has_marks |= is_marked
            yield
        return _decode_loose_body(b"".join(pieces), Encoding.JSON) if has_marks else None
    except (*DECODING_ERRORS, MalformedError):
        return None


def _decode_loose_body(data: bytes, encoding: Encoding) -> LooseBody:
    try:
        body: LooseBody = _loose_body_decoder.decode_raw(data, encoding)
    except msgspec.ValidationError as exc:
        # MessagePack states the length first: in a body of fewer bytes it is false, and the body malformed.
        if len(data) > MAX_DECODED_SAMPLES and _TOO_LONG.search(str(exc)):
            raise TooLargeError(str(exc)) from exc
        raise
    return body


_TOO_LONG = re.compile(r"length <= \d+ - at `\$\.(samples|columns\.\w+)`$")


def _decode_samples(raws: list[msgspec.Raw], encoding: Encoding) -> IndexedSamples:
    for begin in range(0, len(raws), GROUP_SAMPLES):
        group = raws[begin : begin + GROUP_SAMPLES]
        try:
            if sum(map(len, group)) > GROUP_BYTES:
                raise ValueError("decoded one by one")
            samples: list[Any] = _samples_decoder.decode_raw(join_array(group, encoding), encoding)
        except DECODING_ERRORS:
            for index, raw in enumerate(group, begin):
                yield index, _decode_sample(raw, encoding)
        else:
            yield from enumerate(samples, begin)


def _decode_sample(raw: msgspec.Raw, encoding: Encoding) -> Sample | InvalidInputError:
    data = bytes(raw)
    if has_too_many_values(data, encoding):
        return InvalidValueError(f"values has over {MAX_SAMPLE_VALUES} features, at most so many are accepted")
    try:
        sample: Sample = _sample_decoder.decode_raw(data, encoding)
    except DECODING_ERRORS as exc:
        return explain_sample(data) or _make_sample_error(exc)
    return sample


_FIELD = re.compile(r"`\$\.(server|time|values|status)\b")


def _make_sample_error(exc: Exception) -> InvalidInputError:
    """Return the decoding error of a sample, with the code of the field that it names."""
    message = str(translate_decoding_error(exc))
    match = _FIELD.search(message)
    if match and match[1] == "time":
        message += EXPECTED_SAMPLE_TIME
    return (FIELD_ERRORS[match[1]] if match else InvalidSampleError)(message)
