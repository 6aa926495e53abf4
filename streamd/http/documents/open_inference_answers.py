"""The answers of the Open Inference Protocol as the document describes them."""

from typing import Any

import msgspec


class InferenceServerAnswer(msgspec.Struct):
    """The name of this server, and the extensions of the protocol that it has."""

    name: str
    version: str
    extensions: list[str]


class InferenceLiveAnswer(msgspec.Struct):
    """The answer of a daemon whose event loop runs."""

    live: bool


class InferenceReadyAnswer(msgspec.Struct):
    """The readiness of the daemon; if it cannot forecast now, the reason."""

    ready: bool
    name: str | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class InferenceTensor(msgspec.Struct):
    """A tensor of the model; -1 is the batch axis."""

    name: str
    datatype: str
    shape: list[int]


class InferenceModelAnswer(msgspec.Struct, kw_only=True):
    """The tensors of the model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[InferenceTensor]
    outputs: list[InferenceTensor]


class InferenceConfigAnswer(msgspec.Struct, kw_only=True):
    """The configuration of the model."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    dynamic_batching: dict[str, Any]
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    parameters: dict[str, dict[str, str]]


class InferenceTime(msgspec.Struct):
    """The number of times that were taken, and the sum of the nanoseconds."""

    count: int
    ns: int


class InferenceBatchStatistics(msgspec.Struct, kw_only=True):
    """The micro-batches of one size."""

    batch_size: int
    compute_input: InferenceTime
    compute_infer: InferenceTime
    compute_output: InferenceTime


class InferenceModelStatistics(msgspec.Struct, kw_only=True):
    """The requests that a version has answered since the daemon started; `version` is its number among those."""

    name: str
    version: str
    version_name: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, InferenceTime]
    batch_stats: list[InferenceBatchStatistics]


class InferenceStatisticsAnswer(msgspec.Struct):
    """The statistics of the version that serves."""

    model_stats: list[InferenceModelStatistics]


class InferenceOutput(msgspec.Struct, kw_only=True):
    """The forecasts: numbers in `data`, or bytes behind the JSON, as many as `parameters` says.

    The numbers of a target without a value in its window are null, and NaN in bytes.
    """

    name: str
    datatype: str
    shape: list[int]
    data: list[float | None] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


class InferenceAnswerBody(msgspec.Struct):
    """The answer to a request for inference."""

    model_name: str
    model_version: str
    outputs: list[InferenceOutput]
    id: str | msgspec.UnsetType = msgspec.UNSET


class InferenceErrorAnswer(msgspec.Struct):
    """An error in the form of the protocol."""

    error: str
