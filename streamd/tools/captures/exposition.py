"""Reads what an exporter answers to a scrape: Prometheus' text format 0.0.4. No sender pushes it.

Prometheus adds the label `instance` to what it scrapes; here the caller gives it.
"""

import math
import re
from collections.abc import Iterator

from streamd.core.errors import InvalidSampleError, MalformedError
from streamd.core.mapping.series import PointSink, SeriesEntry, SourceSeries

SLICE_SCRAPE_LINES = 1_000
"""Lines after which the reader yields, as every decoder does."""

_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|\Z)')
_SAMPLE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*"
    r'(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?[ \t]*'
    r"(\S+)(?:[ \t]+(-?\d{1,15}))?[ \t]*"
)
"""Name, labels, value, time in milliseconds."""

_VALUE = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|NaN|[-+]?Inf")
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
_ESCAPE = re.compile(r"\\.")


def is_exposition(text: str) -> bool:
    """Whether the first line that is not empty is a comment, or a sample, of the text format."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if line.startswith(("# HELP ", "# TYPE ")):
        return True
    match = _SAMPLE.fullmatch(line)
    return match is not None and _VALUE.fullmatch(match[3]) is not None


def decode_exposition(body: bytes, sink: PointSink[SeriesEntry], instance: str, now: float) -> Iterator[None]:
    """Write the samples of a scrape to the sink; `now` is the time of those without one, as Prometheus takes it.

    Raises `MalformedError` if no line can be read.
    """
    read = 0
    for number, raw in enumerate(body.decode("utf-8", "replace").split("\n"), 1):
        line = raw.strip()
        if line and not line.startswith("#"):
            try:
                series, time, value = _parse_sample(line, instance, now)
                read += 1
                if math.isnan(value):
                    sink.skip("missing value")
                else:
                    sink.add_point(series, time, value)
            except InvalidSampleError as error:
                sink.reject(InvalidSampleError(f"line {number}: {error}"))
        if number % SLICE_SCRAPE_LINES == 0:
            yield
    if not read:
        raise MalformedError("no line is a sample of Prometheus' text format")


def _parse_sample(line: str, instance: str, now: float) -> tuple[SourceSeries, float, float]:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise InvalidSampleError("expected a name, labels, a value, and perhaps a timestamp")
    labels = {"instance": instance} | _parse_labels(match[2] or "")
    if not _VALUE.fullmatch(match[3]):
        raise InvalidSampleError(f"the value is {match[3][:64]!r}, expected a number")
    value = float(match[3])
    if math.isinf(value):
        raise InvalidSampleError(f"the value is {match[3][:64]}, expected a finite number")
    return SourceSeries(match[1], labels), int(match[4]) / 1000 if match[4] else now, value


def _parse_labels(text: str) -> dict[str, str]:
    labels, place = dict[str, str](), 0
    while place < len(text):
        match = _LABEL.match(text, place)
        if match is None:
            raise InvalidSampleError(f'expected labels like name="value", got {text[place : place + 64]!r}')
        labels[match[1]] = _ESCAPE.sub(lambda escape: _ESCAPES.get(escape[0], escape[0]), match[2])
        place = match.end()
    return labels
