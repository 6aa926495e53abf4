"""What agents send, and what they are told back."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import msgspec

from streamd.core.contract import MAX_STATUS
from streamd.core.errors import InvalidInputError, StreamdError

Time = float | Annotated[datetime, msgspec.Meta(tz=True)]
"""Epoch seconds, or RFC 3339 with an offset."""

MAX_LISTED_ERRORS = 1_000
"""Rejections that one answer spells out; all are counted."""


class Sample(msgspec.Struct, gc=False):
    """Some features of one server at one time; null or NaN is missing."""

    server: str
    time: Time
    values: dict[str, float | None]
    status: Annotated[int, msgspec.Meta(ge=0, le=MAX_STATUS)] | None = None


@dataclass(slots=True)
class IngestResult:
    """The answer to one body or frame."""

    accepted: int = 0
    rejected: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, index: int, error: StreamdError) -> None:
        """Note that the sample of this index was not taken, and why."""
        self.rejected += 1
        if len(self.errors) < MAX_LISTED_ERRORS:
            self.errors.append({"index": index, "code": error.code, "message": str(error)})

    def as_dict(self) -> dict[str, Any]:
        """The wire's form."""
        return {"accepted": self.accepted, "rejected": self.rejected, "errors": self.errors}


IndexedSamples = Iterator[tuple[int, Sample | InvalidInputError]]
"""Samples by their place in the body; what could not be read is an error in its place."""
