"""One tree of errors: each has a stable wire code and says whether trying again can help.

Foreign errors are translated into these once, at the edge where they arise, with `from`.
"""

from typing import ClassVar


class StreamdError(Exception):
    """The root.

    `code` is what the wire shows and never changes; `retry` is true when the same call may succeed later.
    The message names the thing, its place and what was expected.
    """

    code: ClassVar[str] = "internal"
    retry: ClassVar[bool] = False


# ---------------------------------------------------------------- what a caller sent
class InvalidInputError(StreamdError):
    """Something the caller sent is not what the contract asks for."""

    code = "invalid"


class MalformedError(InvalidInputError):
    """The bytes are no JSON or MessagePack, or not of the message's shape."""

    code = "malformed"


class UnsupportedMediaTypeError(InvalidInputError):
    """A body in a type other than JSON and MessagePack."""

    code = "unsupported_media_type"


class UnsupportedEncodingError(UnsupportedMediaTypeError):
    """A body in a content coding that is not decoded here."""


class TooLargeError(InvalidInputError):
    """A body, a frame, or a list in it is over its limit."""

    code = "too_large"


class InvalidSampleError(InvalidInputError):
    """A sample lacks a field, or has one of the wrong type."""

    code = "invalid_sample"


class InvalidServerError(InvalidInputError):
    """A server's key is empty, over 256 bytes of UTF-8, or no UTF-8."""

    code = "invalid_server"


class InvalidTimeError(InvalidInputError):
    """A sample's time is not a finite number of epoch seconds or an RFC 3339 string with an offset."""

    code = "invalid_time"


class InvalidValueError(InvalidInputError):
    """A value is no number that float32 can hold."""

    code = "invalid_value"


class TooOldError(InvalidInputError):
    """A sample's step lies further behind its server's newest row than the tolerance."""

    code = "too_old"


class TooFarAheadError(InvalidInputError):
    """A sample's time lies further ahead of the clock than the tolerance."""

    code = "too_far_ahead"


class InvalidTensorError(InvalidInputError):
    """A tensor's name, shape, type or content is not what the model contract asks for."""

    code = "invalid_tensor"


class AllMissingError(InvalidInputError):
    """A window without a single value is never forecast."""

    code = "all_missing"


class InvalidSelectionError(InvalidInputError):
    """A subscription names a target, quantile, type or stride that the model does not have."""

    code = "invalid_selection"


class UnknownServerError(InvalidInputError):
    """No server of this name reports."""

    code = "unknown_server"


# ---------------------------------------------------------------- what the daemon cannot do now
class UnavailableError(StreamdError):
    """The daemon cannot do this now; later it may."""

    code = "unavailable"
    retry = True


class TooBusyError(UnavailableError):
    """A bounded queue is full."""

    code = "too_busy"


class DrainingError(UnavailableError):
    """The daemon is stopping and takes nothing more."""

    code = "draining"


class StorageError(UnavailableError):
    """The state folder cannot take the row (full, read-only, gone)."""

    code = "storage"


# ---------------------------------------------------------------- inference
class InferenceError(StreamdError):
    """A batch did not come back with forecasts."""

    code = "inference_failed"


class BatchFailedError(InferenceError):
    """The engine refused or failed this batch; the lane itself is sound."""


class LaneLostError(InferenceError):
    """The lane is unusable (device gone, sticky error, no answer); its batch may run on another.

    `device_gone` is true where the error is the whole device's: no lane on it can answer any more.
    """

    code = "lane_lost"
    retry = True

    def __init__(self, message: str, *, device_gone: bool = False) -> None:
        super().__init__(message)
        self.device_gone = device_gone


class NotFiniteError(InferenceError):
    """The model gave NaN or infinity for this window."""

    code = "forecast_not_finite"


# ---------------------------------------------------------------- changing what serves
class ForbiddenError(StreamdError):
    """The daemon's configuration does not allow this call to anyone."""

    code = "forbidden"


class UnauthorizedError(StreamdError):
    """The caller did not show the token that this call needs."""

    code = "unauthorized"


class ReloadError(StreamdError):
    """What serves cannot be changed so while the daemon runs; nothing was changed."""

    code = "reload_refused"


# ---------------------------------------------------------------- start-up
class ConfigError(StreamdError):
    """A setting is unknown, of the wrong type or out of range."""

    code = "config"


class RepositoryError(StreamdError):
    """An engine version is missing, incomplete or refused."""

    code = "repository"


class BackendUnavailableError(StreamdError):
    """A backend cannot run on this machine; the message says why."""

    code = "backend_unavailable"


class DeviceLostError(BackendUnavailableError):
    """A device is broken and did not come back: this process cannot use it again, another one may."""


class StateError(StreamdError):
    """The state folder cannot be used; the message says why."""

    code = "state"


# ---------------------------------------------------------------- making engine versions
class BuildError(StreamdError):
    """A graph or a plan cannot be made; the message gives every reason that the library told."""

    code = "build_failed"
