"""The types of the answers that other agents expect, as they are in JSON; a test compares real answers with them."""

from typing import Any, Literal

import msgspec

from streamd.http.documents.answers import Count


class RejectedPoint(msgspec.Struct):
    """The reason why a point was rejected."""

    code: str
    message: str


class PointsAnswer(msgspec.Struct, kw_only=True):
    """The answer to a body of points: taken, wanted by no rule, without a value, rejected; and the first reasons."""

    taken: Count
    ignored: Count
    skipped: Count
    rejected: Count
    errors: list[RejectedPoint]


class InfluxErrorAnswer(msgspec.Struct):
    """An error for clients of InfluxDB: version 2 reads `message`, version 1 `error`."""

    code: str
    message: str
    error: str


class InfluxStatement(msgspec.Struct):
    """The result of a statement."""

    statement_id: Count


class InfluxQueryAnswer(msgspec.Struct):
    """The answer to `CREATE DATABASE`."""

    results: list[InfluxStatement]


class InfluxHealthAnswer(msgspec.Struct):
    """The answer that clients of InfluxDB 2 expect."""

    name: str
    message: str
    status: Literal["pass"]
    checks: list[dict[str, Any]]


class OtlpPartialSuccess(msgspec.Struct):
    """Points of an export that were rejected, a number as text, and the reasons."""

    rejectedDataPoints: str  # noqa: N815 -- the name in OTLP
    errorMessage: str  # noqa: N815 -- likewise


class OtlpAnswer(msgspec.Struct):
    """The answer to an export: an `ExportMetricsServiceResponse`."""

    partialSuccess: OtlpPartialSuccess | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 -- the name in OTLP


class OtlpErrorAnswer(msgspec.Struct):
    """A `google.rpc.Status`."""

    code: int
    message: str


class PutErrorBody(msgspec.Struct):
    """An error as OpenTSDB reports it."""

    code: int
    message: str
    details: str | msgspec.UnsetType = msgspec.UNSET


class PutErrorAnswer(msgspec.Struct):
    """The answer to a body that was not taken, or of which some datapoints were rejected."""

    error: PutErrorBody


class PutDatapointError(msgspec.Struct):
    """The reason why a datapoint was rejected, and the datapoint unless it is large."""

    error: str
    datapoint: Any = msgspec.UNSET


class PutSummaryAnswer(msgspec.Struct):
    """The answer with `?summary` or `?details`; only the latter has `errors`."""

    success: Count
    failed: Count
    errors: list[PutDatapointError] | msgspec.UnsetType = msgspec.UNSET
