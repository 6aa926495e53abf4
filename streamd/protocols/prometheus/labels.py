"""Checks the labels of a Prometheus series as they are sent, and makes a `SourceSeries` of them."""

from collections.abc import Sequence

from streamd.core.errors import InvalidSampleError
from streamd.core.mapping.series import SourceSeries

METRIC_NAME = "__name__"
"""The label that is the name of the metric."""

MAX_SERIES_LABELS = 65
"""The largest number of labels of one series, `__name__` included."""

MAX_LABEL_BYTES = 1_024
"""The largest size of the name or the value of a label."""

_SHOWN_BYTES = 64


def build_series(pairs: Sequence[tuple[bytes, bytes]]) -> SourceSeries:
    """Return the series with these labels, which may be in any order; a label with an empty value is left out.

    Raises `InvalidSampleError` for a label that is repeated, too long, without a name or not UTF-8, for too many of
    them, and if the name of the metric is missing.
    """
    check_label_count(len(pairs))
    labels: dict[str, str] = {}
    try:
        for name, value in pairs:
            if len(name) > MAX_LABEL_BYTES or len(value) > MAX_LABEL_BYTES:
                raise _make_length_error(name, value)
            labels[name.decode()] = value.decode()
    except UnicodeDecodeError as exc:
        raise InvalidSampleError(f"the label {_show(name)}={_show(value)} is not UTF-8") from exc
    if len(labels) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InvalidSampleError(f"the label {_show(repeated)} is repeated")
    if "" in labels:
        raise InvalidSampleError("a label has no name")
    metric = labels.pop(METRIC_NAME, "")
    if not metric:
        raise InvalidSampleError("the label __name__ is missing or empty, expected the name of the metric")
    if "" in labels.values():
        # Prometheus treats a label without a value as a missing label.
        labels = {label: value for label, value in labels.items() if value}
    return SourceSeries(metric, labels)


def check_label_count(count: int) -> None:
    """Raise `InvalidSampleError` if a series has more than `MAX_SERIES_LABELS`."""
    if count > MAX_SERIES_LABELS:
        raise InvalidSampleError(f"{count} labels, at most {MAX_SERIES_LABELS} are taken, __name__ included")


def _make_length_error(name: bytes, value: bytes) -> InvalidSampleError:
    what, size = f"the label {_show(name)}", len(value)
    if len(name) > MAX_LABEL_BYTES:
        what, size = "the name of a label", len(name)
    return InvalidSampleError(f"{what} has {size} bytes, at most {MAX_LABEL_BYTES} are taken")


def _show(text: bytes) -> str:
    return repr(text[:_SHOWN_BYTES].decode("utf-8", "backslashreplace"))
