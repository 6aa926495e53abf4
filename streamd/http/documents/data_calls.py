"""The calls of samples and of predictions, as the document describes them."""

from streamd.core import errors
from streamd.core.state.samples import Sample
from streamd.http.access.rules import RouteKey
from streamd.http.documents.answers import SamplesAnswer
from streamd.http.documents.operations import (
    BODY_ERRORS,
    JSON,
    MSGPACK,
    DocumentedAnswer,
    DocumentedCall,
    describe_failures,
    make_content,
)
from streamd.http.documents.parameters import make_socket_call
from streamd.http.documents.schemas import (
    ANY_SCHEMA,
    TEXT_SCHEMA,
    Schema,
    SchemaBook,
    add_predict_schemas,
    add_sample_schemas,
    add_tensor_schema,
    make_predictions_schema,
)
from streamd.http.routes.predict import MODEL_HEADER


def describe_sample_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of samples by route."""
    body = add_sample_schemas(book, book.refer(Sample), add_tensor_schema(book))
    return {
        ("POST", "/v1/samples"): DocumentedCall(
            name="sendSamples",
            group="samples",
            text="Take samples; a bad sample is rejected alone, and the others are kept.",
            details="The answer means that the accepted rows survive a `kill -9` of the daemon.",
            body=make_content(body),
            answers={
                200: DocumentedAnswer(text="What was taken.", content=make_content(book.refer(SamplesAnswer))),
                **describe_failures(book, BODY_ERRORS),
            },
        ),
        ("GET", "/v1/ingest"): make_socket_call(book, "openSampleSocket", "samples", "Send samples by a WebSocket."),
    }


def describe_predict_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of predictions by route."""
    predictions = book.add("Predictions", make_predictions_schema(book.contract))
    outputs = book.add("PredictOutputs", _make_object(predictions=predictions))
    plain = book.add("PredictAnswer", _make_object(predictions=predictions, model=TEXT_SCHEMA))
    wrapped = book.add("PredictOutputsAnswer", _make_object(outputs=outputs, model=TEXT_SCHEMA))
    answer: Schema = {"oneOf": [plain, wrapped]}
    body = {JSON: add_predict_schemas(book), MSGPACK: _add_tensor_call(book)}
    model = {MODEL_HEADER: {"schema": TEXT_SCHEMA, "description": "The version that made the answer."}}
    call_errors = (
        *BODY_ERRORS,
        errors.InvalidTensorError,
        errors.AllMissingError,
        errors.NotFiniteError,
        errors.InferenceError,
        errors.UnavailableError,
    )

    def describe(name: str, text: str) -> DocumentedCall:
        return DocumentedCall(
            name=name,
            group="predictions",
            text=text,
            details=(
                "In MessagePack each input is a tensor, `{shape, dtype, data}` with little-endian bytes, and so is the"
                " answer."
            ),
            body=body,
            answers={
                200: DocumentedAnswer(
                    text="The forecasts.", content={JSON: answer, MSGPACK: ANY_SCHEMA}, headers=model
                ),
                **describe_failures(book, call_errors),
            },
        )

    return {
        ("POST", "/v1/predict"): describe("predict", "Forecast the tensors of the caller."),
        ("POST", "/predict"): describe("predictForOthers", "The same, under the path that other model servers use."),
    }


def _make_object(**fields: Schema) -> Schema:
    """Return the schema of an object that has all of these fields."""
    return {"type": "object", "properties": fields, "required": list(fields)}


def _add_tensor_call(book: SchemaBook) -> Schema:
    """Add the body of a predict call in MessagePack, and return its reference."""
    tensors = dict.fromkeys(book.contract.input_shapes, add_tensor_schema(book))
    needed = ["encoder_cont", "decoder_cont"]
    inputs = book.add(
        "PredictTensors",
        {"type": "object", "properties": tensors, "required": needed, "additionalProperties": False},
    )
    return {"anyOf": [inputs, book.add("PredictTensorsBody", _make_object(inputs=inputs))]}
