"""The scopes of a token: the kinds of calls that it permits."""

from enum import StrEnum


class Scope(StrEnum):
    """A kind of call; no scope includes another one."""

    INGEST = "ingest"
    """Writing samples, over any protocol."""

    SUBSCRIBE = "subscribe"
    """Receiving forecasts as they are made."""

    PREDICT = "predict"
    """Forecasts of windows that the caller brings along."""

    READ = "read"
    """The latest forecasts, the list of servers, the status and the metrics."""

    ADMIN = "admin"
    """Changing the version that serves, forgetting servers, and silencing alerts."""
