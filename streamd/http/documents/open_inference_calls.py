"""The calls of the Open Inference Protocol as the document describes them; its errors have a form of their own."""

from collections.abc import Iterable

import msgspec

from streamd.core import errors
from streamd.core.contract import MEMORY_INPUT
from streamd.core.errors import StreamdError
from streamd.http.access.rules import RouteKey
from streamd.http.documents.open_inference_answers import (
    InferenceAnswerBody,
    InferenceConfigAnswer,
    InferenceErrorAnswer,
    InferenceLiveAnswer,
    InferenceModelAnswer,
    InferenceReadyAnswer,
    InferenceServerAnswer,
    InferenceStatisticsAnswer,
)
from streamd.http.documents.operations import (
    BODY_ERRORS,
    CALLER_ERRORS,
    JSON,
    SITE_ERRORS,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    make_error_answers,
)
from streamd.http.documents.schemas import (
    ANY_SCHEMA,
    BINARY_SCHEMA,
    TEXT_SCHEMA,
    Schema,
    SchemaBook,
    make_enum_schema,
    make_list_schema,
)
from streamd.http.errors import choose_inference_status, choose_status
from streamd.http.open_inference.answers import OUTPUT
from streamd.http.open_inference.inputs import DATATYPES
from streamd.http.open_inference.messages import HEADER_LENGTH
from streamd.http.open_inference.metadata import MODEL_NAME
from streamd.http.open_inference.routes import BINARY_TYPE, MODEL_PATHS
from streamd.runtime.predict import MAX_WINDOWS


def describe_open_inference_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of the Open Inference Protocol by route."""
    public = _describe_errors(book, (), is_public=True)
    calls: dict[RouteKey, DocumentedCall] = {
        ("GET", "/v2"): DocumentedCall(
            name="getInferenceServer",
            group="inference",
            text="Return the name, the release and the extensions of the server.",
            answers={
                200: DocumentedAnswer(text="The server.", content={JSON: book.refer(InferenceServerAnswer)}),
                **_describe_errors(book, ()),
            },
        ),
        ("GET", "/v2/health/live"): DocumentedCall(
            name="getInferenceLive",
            group="inference",
            text="Answer as long as the event loop runs.",
            answers={200: DocumentedAnswer(text="Alive.", content={JSON: book.refer(InferenceLiveAnswer)}), **public},
        ),
        ("GET", "/v2/health/ready"): DocumentedCall(
            name="getInferenceReady",
            group="inference",
            text="Answer whether the daemon can forecast now.",
            answers={**_describe_readiness(book), **public},
        ),
    }
    for path, suffix in zip(MODEL_PATHS, ("", "Version"), strict=True):
        calls |= _describe_model_calls(book, path, suffix)
    return calls


def _describe_model_calls(book: SchemaBook, path: str, suffix: str) -> dict[RouteKey, DocumentedCall]:
    named = _list_path_parameters(has_version=bool(suffix))
    unknown = _describe_errors(book, (errors.UnknownModelError,))

    def describe(name: str, text: str, shown: str, answer: type[msgspec.Struct]) -> DocumentedCall:
        return DocumentedCall(
            name=f"{name}{suffix}",
            group="inference",
            text=text,
            parameters=named,
            answers={200: DocumentedAnswer(text=shown, content={JSON: book.refer(answer)}), **unknown},
        )

    return {
        ("GET", path): describe("getModel", "Return the tensors of the model.", "The tensors.", InferenceModelAnswer),
        ("GET", f"{path}/config"): describe(
            "getModelConfig", "Return the configuration of the model.", "The configuration.", InferenceConfigAnswer
        ),
        ("GET", f"{path}/stats"): describe(
            "getModelStatistics",
            "Return counts and times of the calls for inference.",
            "The statistics.",
            InferenceStatisticsAnswer,
        ),
        ("GET", f"{path}/ready"): DocumentedCall(
            name=f"getModelReady{suffix}",
            group="inference",
            text="Answer whether the model can forecast now.",
            parameters=named,
            answers={
                **_describe_readiness(book),
                **_describe_errors(book, (errors.UnknownModelError,), is_public=True),
            },
        ),
        ("POST", f"{path}/infer"): _describe_inference(book, f"infer{suffix}", named),
    }


def _describe_readiness(book: SchemaBook) -> dict[int, DocumentedAnswer]:
    ready = {JSON: book.refer(InferenceReadyAnswer)}
    return {
        200: DocumentedAnswer(text="A lane is warm.", content=ready),
        503: DocumentedAnswer(text="Not now.", content=ready),
    }


def _describe_inference(book: SchemaBook, name: str, parameters: tuple[DocumentedParameter, ...]) -> DocumentedCall:
    failures = (
        *BODY_ERRORS,
        errors.UnknownModelError,
        errors.InvalidTensorError,
        errors.InferenceError,
        errors.UnavailableError,
    )
    return DocumentedCall(
        name=name,
        group="inference",
        text="Forecast the windows of the caller.",
        details=(
            f"Numbers are in the JSON, or follow it as bytes: then the header `{HEADER_LENGTH}` states the bytes of"
            " the JSON, in the request as in the answer. An input has as many numbers as its shape says, and all"
            f" inputs have as many windows. `{MEMORY_INPUT}` may be given, and a version that asks for no memory"
            " disregards it."
        ),
        parameters=parameters,
        body={JSON: _add_request(book), BINARY_TYPE: BINARY_SCHEMA},
        answers={
            200: DocumentedAnswer(
                text="The forecasts.",
                content={JSON: book.refer(InferenceAnswerBody), BINARY_TYPE: BINARY_SCHEMA},
                headers={HEADER_LENGTH: {"schema": {"type": "integer", "minimum": 1}}},
            ),
            **_describe_errors(book, failures),
        },
    )


def _list_path_parameters(*, has_version: bool) -> tuple[DocumentedParameter, ...]:
    model = DocumentedParameter(
        name="model", schema=make_enum_schema([MODEL_NAME]), text="The only model.", place="path"
    )
    version = DocumentedParameter(
        name="version", schema=TEXT_SCHEMA, text="The name of the version that serves.", place="path"
    )
    return (model, version) if has_version else (model,)


def _describe_errors(
    book: SchemaBook, types: Iterable[type[StreamdError]], *, is_public: bool = False
) -> dict[int, DocumentedAnswer]:
    every = (*types, *SITE_ERRORS, *(() if is_public else CALLER_ERRORS))
    statuses = {choose_inference_status(choose_status(each.__new__(each))) for each in every}
    return make_error_answers(sorted(statuses), {JSON: book.refer(InferenceErrorAnswer)})


def _add_request(book: SchemaBook) -> Schema:
    """Add the request for inference with numbers in the JSON, and return its reference."""
    inputs = [_make_input_schema(name, shape) for name, shape in book.contract.input_shapes.items()]
    needed = [
        {"contains": {"type": "object", "properties": {"name": {"const": name}}, "required": ["name"]}}
        for name in ("encoder_cont", "decoder_cont")
    ]
    binary = {"type": "object", "properties": {"binary_data": {"type": ["boolean", "null"]}}}
    output = {"type": "object", "properties": {"name": {"const": OUTPUT}, "parameters": binary}, "required": ["name"]}
    more = {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}}
    return book.add(
        "InferenceRequestBody",
        {
            "type": "object",
            "properties": {
                "id": {"type": ["string", "null"]},
                "inputs": make_list_schema({"anyOf": inputs}, most=len(inputs), allOf=needed),
                "outputs": make_list_schema(output, most=1),
                "parameters": more,
            },
            "required": ["inputs"],
        },
    )


def _make_input_schema(name: str, shape: tuple[int, ...]) -> Schema:
    windows: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_WINDOWS}
    sizes: list[Schema] = [windows, *({"const": size} for size in shape)]
    axes: Schema = {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)}
    return {
        "type": "object",
        "properties": {
            "name": {"const": name},
            "datatype": make_enum_schema(DATATYPES),
            "shape": axes,
            "data": make_list_schema(
                ANY_SCHEMA, description="Numbers, flat or nested in any way; null is a missing value."
            ),
        },
        "required": ["name", "datatype", "shape", "data"],
    }
