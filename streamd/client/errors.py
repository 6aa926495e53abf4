"""The errors of the client: one small tree. What the daemon rejects of a body is no error, but part of the answer."""


class ClientError(Exception):
    """Any failure of a call or a subscription."""

    is_temporary = False
    """Whether the same call may succeed later."""

    retry_after_seconds: float | None = None
    """The time after which it may succeed, if the answer says so."""


class DaemonUnreachableError(ClientError):
    """No answer came: no connection, a connection that broke, or no answer in time."""

    def __init__(self, message: str, *, is_temporary: bool = True) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


class RefusedError(ClientError):
    """The daemon, or a proxy before it, refused a call or a frame."""

    def __init__(
        self, message: str, *, code: str, status: int | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        """The code of the wire, such as `unknown_server`; `http_502` and the like if the answer has no code."""
        self.status = status
        """The status of HTTP; `None` for a frame of a WebSocket."""
        self.retry_after_seconds = retry_after_seconds
        self.is_temporary = status in _TEMPORARY_STATUSES if status is not None else code in _TEMPORARY_CODES


_TEMPORARY_STATUSES = frozenset({429, 502, 503, 504})
_TEMPORARY_CODES = frozenset({"too_busy", "rate_limited", "draining", "unavailable", "lane_lost"})
