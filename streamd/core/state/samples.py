"""The samples that agents send, and the answer to them. Decodes nothing: that is the part of `http/wire/`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from streamd.core.contract import MAX_STATUS
from streamd.core.errors import InvalidInputError, StreamdError

CellsT = TypeVar("CellsT")

Time = float | Annotated[datetime, msgspec.Meta(tz=True)]
"""Epoch seconds, or RFC 3339 with an offset."""

MAX_SAMPLE_VALUES = 16_384
"""Values in one sample, those of unknown features included: a row of so many takes 3 ms."""

MAX_LISTED_ERRORS = 1_000
"""Rejections that one answer lists; all are counted."""


Status = Annotated[int, msgspec.Meta(ge=0, le=MAX_STATUS)] | None


class Sample(msgspec.Struct, gc=False):
    """Values of some features of one server at one time; null and NaN are missing values."""

    server: str
    time: Time
    values: Annotated[dict[str, float | None], msgspec.Meta(max_length=MAX_SAMPLE_VALUES)]
    status: Status = None


class CellSample(msgspec.Struct, Generic[CellsT], gc=False):
    """A sample of which each value is a feature of the model: a field of `values`, see `RowReader.cells_type`."""

    server: str
    time: Time
    values: CellsT
    status: Status = None


@dataclass(slots=True)
class IngestResult:
    """The answer to one body or frame."""

    accepted: int = 0
    rejected: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, index: int, error: StreamdError) -> None:
        """Record that the sample of this index was rejected, with the reason."""
        self.rejected += 1
        if len(self.errors) < MAX_LISTED_ERRORS:
            self.errors.append({"index": index, "code": error.code, "message": str(error)})

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as it is sent."""
        return {"accepted": self.accepted, "rejected": self.rejected, "errors": self.errors}


IndexedSamples = Iterator[tuple[int, Sample | InvalidInputError]]
"""Samples with their index in the body; in place of one that could not be read there is its error."""
