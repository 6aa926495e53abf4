"""Results of parts of bodies, which several owners have taken, as one result. Pure."""

from collections.abc import Sequence

import numpy as np

from streamd.core.state.samples import MAX_LISTED_ERRORS, IngestResult


def merge_results(result: IngestResult, parts: Sequence[IngestResult]) -> None:
    """Add the results of parts of one body, their errors in the order of the body."""
    for part in parts:
        result.accepted += part.accepted
        result.rejected += part.rejected
    errors = sorted((error for part in parts for error in part.errors), key=lambda error: int(error["index"]))
    result.errors = [*result.errors, *errors][:MAX_LISTED_ERRORS]


def place_errors(result: IngestResult, indexes: bytes) -> IngestResult:
    """Return a result whose errors have the indexes of the whole frame; `indexes` are int64."""
    if result.errors:
        places = np.frombuffer(indexes, np.int64)
        for error in result.errors:
            error["index"] = int(places[error["index"]])
    return result
