"""The tree of errors: each has a stable wire code and states whether a retry can help.

Knows no HTTP status: `http/` maps the codes to it. An error of another library is translated into one of these once,
where it arises, with `from`.
"""

from typing import ClassVar

MAX_INPUT_ERROR_CHARACTERS = 2_000
"""The longest message about a caller's input: messages repeat what is wrong, and a caller may send megabytes of it."""


class StreamdError(Exception):
    """The root of the tree.

    `code` is sent on the wire and never changes; `retry` is true if the same call may succeed later.
    The message names the thing, its place and what was expected.
    """

    code: ClassVar[str] = "internal"
    retry: ClassVar[bool] = False


# ---------------------------------------------------------------- input of callers
class InvalidInputError(StreamdError):
    """Input of a caller does not agree with the contract. Its message is bounded, whatever the input is."""

    code = "invalid"

    def __str__(self) -> str:
        return _bound_message(super().__str__())


class MalformedError(InvalidInputError):
    """The bytes are not JSON or MessagePack, or do not have the structure of the message."""

    code = "malformed"


class UnsupportedMediaTypeError(InvalidInputError):
    """A body in a type other than JSON and MessagePack."""

    code = "unsupported_media_type"


class UnsupportedEncodingError(UnsupportedMediaTypeError):
    """A body in a content coding that is not supported."""


class TooLargeError(InvalidInputError):
    """A body, a frame, or a list in it is over its limit."""

    code = "too_large"


class InvalidSampleError(InvalidInputError):
    """A sample lacks a field, or has one of the wrong type."""

    code = "invalid_sample"


class InvalidServerError(InvalidInputError):
    """A server's name is empty, longer than 256 bytes of UTF-8, or not valid UTF-8."""

    code = "invalid_server"


class InvalidTimeError(InvalidInputError):
    """A sample's time is not a finite number of epoch seconds or an RFC 3339 string with an offset."""

    code = "invalid_time"


class InvalidValueError(InvalidInputError):
    """A value is not a number of magnitude below 1e30 (`streamd.core.values`)."""

    code = "invalid_value"


class TooOldError(InvalidInputError):
    """A sample's step lies further behind its server's newest row than the tolerance."""

    code = "too_old"


class TooFarAheadError(InvalidInputError):
    """A sample's time lies further ahead of the clock than the tolerance."""

    code = "too_far_ahead"


class InvalidTensorError(InvalidInputError):
    """A tensor's name, shape, type or content does not agree with the model contract."""

    code = "invalid_tensor"


class AllMissingError(InvalidInputError):
    """A window has no value at all; such a window is never forecast."""

    code = "all_missing"


class InvalidSelectionError(InvalidInputError):
    """A subscription names a target, quantile, type or stride that the model does not have."""

    code = "invalid_selection"


class UnknownServerError(InvalidInputError):
    """The daemon knows no server of this name."""

    code = "unknown_server"


class UnknownSilenceError(InvalidInputError):
    """No silence of this id holds: it has ended, or never began."""

    code = "unknown_silence"


class UnknownModelError(InvalidInputError):
    """A call of the Open Inference Protocol names another model, or a version that does not serve."""

    code = "unknown_model"


# ---------------------------------------------------------------- calls that fail for now
class UnavailableError(StreamdError):
    """The daemon cannot do this now; it may later."""

    code = "unavailable"
    retry = True


class TooBusyError(UnavailableError):
    """A bounded queue is full."""

    code = "too_busy"


class RateLimitedError(TooBusyError):
    """A caller has reached a limit of its own token.

    `wait_seconds` is the time until the call may succeed; `None` if it depends on other calls of the caller.
    """

    code = "rate_limited"

    def __init__(self, message: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class DrainingError(UnavailableError):
    """The daemon is stopping and accepts nothing new."""

    code = "draining"


class NoCapacityError(UnavailableError):
    """Every slot holds a server that was seen lately, so a new one gets none."""

    code = "no_capacity"


class StorageError(UnavailableError):
    """The state folder cannot store the row (full, read-only or removed)."""

    code = "storage"


# ---------------------------------------------------------------- inference
class InferenceError(StreamdError):
    """A batch ended without forecasts."""

    code = "inference_failed"


class BatchFailedError(InferenceError):
    """The engine refused this batch or failed on it; the lane is healthy."""


class LaneLostError(InferenceError):
    """The lane is unusable (device lost, sticky error, no answer); its batch may run on another lane.

    `device_gone` is true if the whole device is lost: no lane on it can answer any more.
    """

    code = "lane_lost"
    retry = True

    def __init__(self, message: str, *, device_gone: bool = False) -> None:
        super().__init__(message)
        self.device_gone = device_gone


class NotFiniteError(InferenceError):
    """The model returned NaN or infinity for this window."""

    code = "forecast_not_finite"


# ---------------------------------------------------------------- access
class ForbiddenError(StreamdError):
    """The caller's token does not permit this call, or the configuration of the daemon disables it."""

    code = "forbidden"


class TooManyServersError(ForbiddenError):
    """A caller writes to as many servers as its token permits; it may write to no other one."""

    code = "too_many_servers"


class ForeignOriginError(ForbiddenError):
    """A page of another site sent the request."""

    code = "foreign_origin"


class WrongHostError(StreamdError):
    """The request was sent to a name that is not one of this daemon's."""

    code = "wrong_host"


class UnauthorizedError(StreamdError):
    """The caller did not send the token that this call needs, or the token is unknown, revoked or has expired."""

    code = "unauthorized"


# ---------------------------------------------------------------- changes of the serving version


class ReloadError(StreamdError):
    """The serving version cannot be changed in this way while the daemon runs; nothing was changed."""

    code = "reload_refused"


# ---------------------------------------------------------------- start-up
class ConfigError(StreamdError):
    """A setting is unknown, of the wrong type or out of range. Its message is bounded, whatever the file is."""

    code = "config"

    def __str__(self) -> str:
        return _bound_message(super().__str__())


class RepositoryError(StreamdError):
    """An engine version is missing, incomplete or refused."""

    code = "repository"


class BackendUnavailableError(StreamdError):
    """A backend cannot run on this machine; the message gives the reason."""

    code = "backend_unavailable"


class DeviceLostError(BackendUnavailableError):
    """A device failed and did not recover: this process cannot use it again, another process may."""


class StateError(StreamdError):
    """The state folder cannot be used; the message gives the reason."""

    code = "state"


# ---------------------------------------------------------------- making engine versions
class BuildError(StreamdError):
    """A graph or a plan cannot be made; the message has every reason that the library reported."""

    code = "build_failed"


def _bound_message(message: str) -> str:
    return message if len(message) <= MAX_INPUT_ERROR_CHARACTERS else f"{message[:MAX_INPUT_ERROR_CHARACTERS]}..."
