"""Tests `streamd/http/documents/schemas.py`: the schemas of bodies accept what the daemon takes, and nothing else."""

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from streamd.core.state.samples import Sample
from streamd.core.values import EXPECTED_VALUE, LEAST_REFUSED
from streamd.http.documents.schemas import (
    SchemaBook,
    add_predict_schemas,
    add_sample_schemas,
    add_tensor_schema,
    make_predictions_schema,
)
from tests.support.http_harness import CONTRACT, JSON, HttpDaemon, make_rows, pack


def resolve(book: SchemaBook, schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": {"schemas": book.render()}})


@pytest.fixture(scope="module")
def predict_body() -> Draft202012Validator:
    book = SchemaBook(CONTRACT)
    return resolve(book, add_predict_schemas(book))


def make_inputs(*batch: int) -> dict[str, Any]:
    return {name: np.ones((*batch, *shape)).tolist() for name, shape in CONTRACT.input_shapes.items()}


def test_a_type_is_written_once() -> None:
    book = SchemaBook(CONTRACT)
    assert book.refer(Sample) == book.refer(Sample) == {"$ref": "#/components/schemas/Sample"}
    assert list(book.render()) == ["Sample"]


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
def test_the_inputs_of_a_call_are_valid_with_and_without_the_batch_axis(
    predict_body: Draft202012Validator, batch: tuple[int, ...]
) -> None:
    inputs = make_inputs(*batch)
    assert predict_body.is_valid(inputs)
    assert predict_body.is_valid({"inputs": inputs})


def change(name: str, value: Any) -> dict[str, Any]:
    return {**make_inputs(), name: value}


WINDOW = CONTRACT.input_shapes["encoder_cont"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        change("encoder_cont", np.ones((WINDOW[0], WINDOW[1] + 1)).tolist()),
        change("encoder_cont", [[None] * WINDOW[1]] * WINDOW[0]),
        change("encoder_cont", [[3.5e38] * WINDOW[1]] * WINDOW[0]),
        change("encoder_cat", [[0, 16]] * WINDOW[0]),
        change("decoder_cont", None),
        change("unknown", 1),
    ],
    ids=["empty", "shape", "no value", "overflow", "status", "null", "unknown"],
)
async def test_what_the_schema_refuses_the_daemon_refuses(
    predict_body: Draft202012Validator, daemon: HttpDaemon, body: dict[str, Any]
) -> None:
    assert not predict_body.is_valid(body)
    assert (await daemon.post("/v1/predict", body)).status == 422


def test_a_memory_may_be_given_and_its_means_may_be_missing() -> None:
    book = SchemaBook(replace(CONTRACT, memory_length=5, memory_step_seconds=120))
    body = resolve(book, add_predict_schemas(book))
    memory = [[None, 1.5, None]] * 5
    assert body.is_valid(make_inputs())
    assert body.is_valid({**make_inputs(), "memory_cont": memory})
    assert body.is_valid({**make_inputs(2), "memory_cont": [[[None] * 3] * 5, memory]})
    assert not body.is_valid({**make_inputs(), "memory_cont": memory[1:]})
    assert not body.is_valid({**make_inputs(), "memory_cont": [[1e39] * 3] * 5})


@pytest.mark.parametrize("name", ["encoder_cont", "decoder_cont"])
async def test_the_bound_of_numbers_is_that_of_the_daemon(
    predict_body: Draft202012Validator, daemon: HttpDaemon, name: str
) -> None:
    shape = CONTRACT.input_shapes[name]
    for number, is_taken in ((math.nextafter(LEAST_REFUSED, 0), True), (LEAST_REFUSED, False), (-3.4e38, False)):
        body = change(name, np.full(shape, number).tolist())
        assert predict_body.is_valid(body) is is_taken
        answer = await daemon.post("/v1/predict", body)
        assert answer.status == (200 if is_taken else 422)
    assert answer.body["message"] == f"{name} holds -3.4e+38 at [0, 0] of a window, expected {EXPECTED_VALUE}"


async def test_predictions_have_the_schema(daemon: HttpDaemon) -> None:
    predictions = Draft202012Validator(make_predictions_schema(CONTRACT))
    for batch in ((), (2,)):
        answer = (await daemon.post("/v1/predict", make_inputs(*batch))).body
        assert predictions.is_valid(answer["predictions"])
    window = [[1.0, 1.0, None]] * CONTRACT.context_length
    answer = (await daemon.post("/v1/predict", {**make_inputs(), "encoder_cont": window})).body
    assert answer["predictions"][0][1] == [None, None, None], "a target without a value"
    assert predictions.is_valid(answer["predictions"])
    assert not predictions.is_valid([1.0])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"samples": make_rows("a", 1, range(2))}, 200),
        ({"samples": [1, None]}, 200),
        ({"columns": {"servers": ["a"], "time": 0, "features": ["cpu_user"], "values": [[1]]}, "id": 1}, 200),
        ({}, 400),
        ({"samples": 1}, 400),
        ({"samples": [], "columns": None, "id": {}}, 400),
    ],
)
async def test_a_body_of_samples_is_valid_if_it_is_not_refused_as_a_whole(
    daemon: HttpDaemon, body: dict[str, Any], status: int
) -> None:
    book = SchemaBook(CONTRACT)
    schema = resolve(book, add_sample_schemas(book, book.refer(Sample), add_tensor_schema(book)))
    assert (await daemon.post("/v1/samples", body)).status == status
    assert schema.is_valid(msgspec.json.decode(pack(body, JSON))) is (status == 200)
