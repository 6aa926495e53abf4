"""JSON Schemas of the documents: those of types, and those that depend on the contract of the model. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from streamd.core.contract import INPUT_TYPES, MAX_STATUS, MEMORY_INPUT, ModelContract
from streamd.core.values import LEAST_REFUSED
from streamd.http.wire.tensors import WIRE_DTYPES
from streamd.runtime.predict import MAX_WINDOWS

Schema = dict[str, Any]
"""A JSON Schema of the draft 2020-12, as OpenAPI 3.1 and AsyncAPI 3 take it."""

REFERENCE = "#/components/schemas/{name}"
"""The place of a schema in both documents."""

MAX_INT32 = 2**31 - 1

ANY_SCHEMA: Schema = {}
TEXT_SCHEMA: Schema = {"type": "string"}
BINARY_SCHEMA: Schema = {"description": "Bytes."}


class SchemaBook:
    """The schemas of one document, each of which is written once, and for the contract of one model."""

    def __init__(self, contract: ModelContract) -> None:
        self.contract = contract
        self._types: list[Any] = []
        self._added: dict[str, Schema] = {}

    def refer(self, type_: type[msgspec.Struct]) -> Schema:
        """Return a reference to the schema of a type, and add it."""
        if type_ not in self._types:
            self._types.append(type_)
        return refer_by_name(type_.__name__)

    def add(self, name: str, schema: Schema) -> Schema:
        """Add a schema that no type has, and return a reference to it."""
        self._added[name] = schema
        return refer_by_name(name)

    def render(self) -> dict[str, Schema]:
        """Return all schemas by name."""
        _, components = msgspec.json.schema_components(self._types, ref_template=REFERENCE)
        return dict(sorted({**components, **self._added}.items()))


def refer_by_name(name: str) -> Schema:
    """Return a reference to a schema."""
    return {"$ref": REFERENCE.format(name=name)}


def make_list_schema(items: Schema, *, least: int = 0, most: int | None = None, **more: Any) -> Schema:
    """Return the schema of a list."""
    limit = {} if most is None else {"maxItems": most}
    return {"type": "array", "items": items, **({"minItems": least} if least else {}), **limit, **more}


def make_choice_schema(values: Iterable[Any]) -> Schema:
    """Return the schema of some of these values, each at most once."""
    return make_list_schema(make_enum_schema(values), least=1, uniqueItems=True)


def make_enum_schema(values: Iterable[Any], **more: Any) -> Schema:
    """Return the schema of one of these values: texts or numbers. Generators of clients read no `enum` of numbers."""
    given = list(values)
    if isinstance(given[0], str):
        return {"type": "string", "enum": given, **more}
    return {"type": "number", "anyOf": [{"const": value} for value in given], **more}


def make_array_schema(shape: Sequence[int], number: Schema) -> Schema:
    """Return the schema of nested lists of exactly this shape."""
    schema = number
    for size in reversed(shape):
        schema = make_list_schema(schema, least=size, most=size)
    return schema


# ---------------------------------------------------------------- bodies of the daemon's own calls
def add_tensor_schema(book: SchemaBook) -> Schema:
    """Add the form of a tensor in MessagePack, and return its reference."""
    size: Schema = {"type": "integer", "minimum": 0}
    return book.add(
        "Tensor",
        {
            "type": "object",
            "description": "A tensor in MessagePack.",
            "properties": {
                "shape": make_list_schema(size, most=8),
                "dtype": make_enum_schema(WIRE_DTYPES),
                "data": {"description": "The numbers as bytes (bin), little-endian, in C order."},
            },
            "required": ["shape", "dtype", "data"],
        },
    )


def add_sample_schemas(book: SchemaBook, sample: Schema, tensor: Schema) -> Schema:
    """Add the body of samples, and return its reference.

    Everything that is rejected alone is valid here: such a body is answered with 200. `sample` is what is taken.
    """
    rejected_alone = {"description": "Anything else is rejected alone, with its index, and the others are kept."}
    samples = make_list_schema({"anyOf": [sample, rejected_alone]}, most=100_000)
    cells = make_list_schema({"anyOf": [make_list_schema({"type": ["number", "null"]}), rejected_alone]}, most=100_000)
    columns = {
        "type": "object",
        "description": (
            "Rows of many servers: `values[row][feature]` for `servers[row]`. `values` has a row, and a list `time` an"
            " entry, for each server. In MessagePack `values` may be a tensor of two axes."
        ),
        "properties": {
            "servers": make_list_schema({"anyOf": [TEXT_SCHEMA, rejected_alone]}, most=100_000),
            "time": {"description": "One time for all rows, or a list with one for each."},
            "features": make_list_schema(TEXT_SCHEMA, most=16_384, uniqueItems=True),
            "values": {"anyOf": [cells, tensor]},
        },
        "required": ["servers", "time", "features", "values"],
    }
    identifier = {"type": ["string", "number", "null"], "description": "Of a frame: the ack repeats it."}
    return book.add(
        "SamplesBody",
        {
            "type": "object",
            "description": "Samples, or the same in columns.",
            "oneOf": [
                {"properties": {"samples": samples, "id": identifier}, "required": ["samples"]},
                {"properties": {"columns": book.add("Columns", columns), "id": identifier}, "required": ["columns"]},
            ],
        },
    )


def add_predict_schemas(book: SchemaBook) -> Schema:
    """Add the body of a predict call in JSON, whose shapes are those of the model, and return its reference."""
    one = _list_inputs(book, ())
    many = _list_inputs(book, (MAX_WINDOWS,))
    inputs = book.add("PredictInputs", {"anyOf": [one, many]})
    wrapped = book.add(
        "PredictInputsBody", {"type": "object", "properties": {"inputs": inputs}, "required": ["inputs"]}
    )
    return book.add(
        "PredictBody",
        {
            "description": (
                "The inputs of the model, with or without the batch axis, or under `inputs` to get `outputs`. A window"
                " without any value is refused. All inputs have as many windows. A version that asks for no memory"
                f" disregards `{MEMORY_INPUT}`."
            ),
            "anyOf": [inputs, wrapped],
        },
    )


def _list_inputs(book: SchemaBook, batch: tuple[int, ...]) -> Schema:
    shapes = book.contract.input_shapes
    properties = {}
    for name, shape in shapes.items():
        schema = make_array_schema(shape[:-1], _make_row_schema(name, shape[-1]))
        if name == "encoder_cont":
            schema["contains"] = {"contains": {"type": "number"}}
        for most in batch:
            schema = make_list_schema(schema, least=1, most=most)
        properties[name] = schema
    return {
        "type": "object",
        "properties": properties,
        "required": ["encoder_cont", "decoder_cont"],
        "additionalProperties": False,
    }


def _make_row_schema(name: str, size: int) -> Schema:
    if INPUT_TYPES[name] == "int32":
        server_id = {"type": "integer", "minimum": 0, "maximum": MAX_INT32}
        status = {"type": "integer", "minimum": 0, "maximum": MAX_STATUS}
        return {"type": "array", "prefixItems": [server_id, status], "minItems": 2, "maxItems": 2}
    limits = {"exclusiveMinimum": -LEAST_REFUSED, "exclusiveMaximum": LEAST_REFUSED}
    number = ["number", "null"] if name in ("encoder_cont", MEMORY_INPUT) else "number"
    return make_array_schema((size,), {"type": number, **limits})


def make_predictions_schema(contract: ModelContract) -> Schema:
    """Return the schema of `predictions` in JSON: the output of the model, with or without the batch axis.

    The numbers of a target without a value in its window are null.
    """
    one = make_array_schema(contract.output_shape, {"type": ["number", "null"]})
    return {"anyOf": [one, make_list_schema(one, least=1, most=MAX_WINDOWS)]}
