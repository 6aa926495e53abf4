"""Writes tiny ONNX files, so that a graph of any shape can be refused without the onnx package.

Field numbers are those of onnx.proto; a message is its fields one after the other.
"""

from collections.abc import Sequence

from streamd.core.contract import ModelContract

FLOAT, INT32, INT64 = 1, 6, 7
Dim = int | str
Tensor = tuple[str, int, Sequence[Dim]]
"""Name, element type, shape; a string is a dynamic axis."""


def identity_model(inputs: Sequence[Tensor], outputs: Sequence[Tensor], copied: str, copy: str) -> bytes:
    """Return a model whose output `copy` is its input `copied`."""
    node = _text(1, copied) + _text(2, copy) + _text(4, "Identity")
    graph = _message(1, node) + _text(2, "tiny")
    graph += b"".join(_message(11, _value_info(tensor)) for tensor in inputs)
    graph += b"".join(_message(12, _value_info(tensor)) for tensor in outputs)
    opset = _text(1, "") + _number(2, 17)
    return _number(1, 8) + _message(7, graph) + _message(8, opset)


def tensors_of(contract: ModelContract) -> dict[str, Tensor]:
    """What a graph must take and give by the contract."""
    given: dict[str, Tensor] = {
        name: (name, INT32 if name.endswith("_cat") else FLOAT, ("batch", *shape))
        for name, shape in contract.input_shapes.items()
    }
    return {**given, "predictions": ("predictions", FLOAT, ("batch", *contract.output_shape))}


def _value_info(tensor: Tensor) -> bytes:
    name, element, shape = tensor
    dims = b"".join(_message(1, _text(2, dim) if isinstance(dim, str) else _number(1, dim)) for dim in shape)
    return _text(1, name) + _message(2, _message(1, _number(1, element) + _message(2, dims)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
