"""Bodies of the form of an earlier one: their windows are found at known places, without decoding.

A client repeats the form of its bodies: of two messages of one length, in which all bytes but those of the tensors are
equal, the tensors have the same names, types, shapes and places.
"""

import sys
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from streamd.core.contract import INPUT_TYPES, MEMORY_INPUT, ModelContract
from streamd.http.direct.framing import PlainRequest
from streamd.http.wire.tensors import WireTensor
from streamd.runtime.message_windows import InputPlace, MessageWindows

MAX_FORMS = 64
"""Forms that are remembered; each takes less than a kilobyte."""

_KEY_BYTES = 32
"""The first bytes of a body, which tell forms of the same length apart."""

_IS_NATIVE = sys.byteorder == "little"
"""Whether tensors on the wire are as the model needs them."""


class ViewedTensor(WireTensor, forbid_unknown_fields=True):
    """A tensor and nothing else; its data lie in the message that was decoded."""

    data: memoryview  # type: ignore[assignment]


class BodyForm(NamedTuple):
    """The common parts of bodies of a form: `constants` are the bytes around the tensors, with their places.

    `places` are those of the inputs, in the order of `Inputs.buffers`; that of the memory may be absent.
    """

    constants: tuple[tuple[int, bytes], ...]
    places: tuple[InputPlace, ...]
    windows: int
    batched: bool


class BodyForms:
    """The forms of the bodies that were decoded; the first one of its length and begin is remembered."""

    def __init__(self, contract: ModelContract) -> None:
        self._shapes = contract.input_shapes
        self._forms: dict[tuple[int, bytes], BodyForm | None] = {}

    def find_windows(self, request: PlainRequest) -> MessageWindows | None:
        """Return the windows of a request whose body has a known form, or `None`."""
        form = self._forms.get(_make_key(request))
        if form is None:
            return None
        message, begin = request.message, request.head.head_bytes
        for place, constant in form.constants:
            if not message.startswith(constant, begin + place):
                return None
        return MessageWindows(
            message=memoryview(message),
            body_begin=begin,
            places=form.places,
            windows=form.windows,
            batched=form.batched,
        )

    def is_known(self, request: PlainRequest) -> bool:
        """Whether a body of this length and begin was given to `learn`."""
        return _make_key(request) in self._forms

    def learn(self, request: PlainRequest, tensors: Mapping[str, ViewedTensor]) -> None:
        """Remember the form of a body, of which `tensors` were decoded: views of it, which follow the contract."""
        if len(self._forms) >= MAX_FORMS:
            self._forms.clear()
        self._forms[_make_key(request)] = _find_form(self._shapes, request, tensors)


def _make_key(request: PlainRequest) -> tuple[int, bytes]:
    begin = request.head.head_bytes
    return request.head.body_bytes, request.message[begin : begin + _KEY_BYTES]


def _find_form(
    shapes: Mapping[str, tuple[int, ...]], request: PlainRequest, tensors: Mapping[str, ViewedTensor]
) -> BodyForm | None:
    """Return the form of a body; `None` if an input is missing, or has another type than the model needs.

    The memory may be missing.
    """
    if not _IS_NATIVE or not shapes.keys() - {MEMORY_INPUT} <= tensors.keys() <= shapes.keys():
        return None
    if any(tensor.dtype != INPUT_TYPES[name] for name, tensor in tensors.items()):
        return None
    body = request.body
    origin = _find_address(body)
    begins = {name: _find_address(tensor.data) - origin for name, tensor in tensors.items()}
    batched = len(tensors["encoder_cont"].shape) == len(shapes["encoder_cont"]) + 1
    windows = tensors["encoder_cont"].shape[0] if batched else 1
    constants: list[tuple[int, bytes]] = []
    end = 0
    for begin, name in sorted((begin, name) for name, begin in begins.items()):
        constants.append((end, bytes(body[end:begin])))
        end = begin + len(tensors[name].data)
    constants.append((end, bytes(body[end:])))
    names = [name for name in INPUT_TYPES if name in tensors]
    places = tuple(InputPlace(begins[name], len(tensors[name].data) // windows) for name in names)
    return BodyForm(tuple(constants), places, windows, batched)


def _find_address(data: memoryview) -> int:
    return np.frombuffer(data, np.uint8).ctypes.data
