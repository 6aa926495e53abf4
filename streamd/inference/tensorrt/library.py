"""Imports TensorRT and collects its messages, for everything that loads plans or builds them.

There is one logger, because TensorRT keeps the first logger that it gets for the whole process.
"""

import importlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import structlog

from streamd.core.errors import BackendUnavailableError
from streamd.inference import cuda

log = structlog.get_logger(__name__)

MODULES = ("tensorrt", "tensorrt_lean", "tensorrt_lean_bindings")
"""The full TensorRT first; the lean runtime runs plans that were built as version-compatible."""

MAX_KEPT_ERRORS = 32

Listener = Callable[[str, str], None]
"""Receives the severity of a message in lower case, as `internal_error`, and its text."""


class TensorRtLibrary:
    """The installed TensorRT and its latest error messages."""

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module
        self.version: str = module.__version__
        self.lean = module.__name__.startswith("tensorrt_lean")
        self.errors: deque[str] = deque(maxlen=MAX_KEPT_ERRORS)
        self._listener: Listener = _log_message
        self.logger = self._make_logger()

    @property
    def major_version(self) -> int:
        """The major version."""
        return int(self.version.partition(".")[0])

    def take_last_error(self) -> str:
        """Return the error messages since the last call, and forget them."""
        messages = "; ".join(dict.fromkeys(self.errors))
        self.errors.clear()
        return messages or "TensorRT gave no reason"

    @contextmanager
    def redirect_messages(self, listener: Listener) -> Iterator[None]:
        """Send all messages of TensorRT to a listener instead of the log while the block runs."""
        before, self._listener = self._listener, listener
        try:
            yield
        finally:
            self._listener = before

    def _receive(self, severity: str, message: str) -> None:
        if severity in ("internal_error", "error"):
            self.errors.append(message)
        self._listener(severity, message)

    def _make_logger(self) -> Any:
        base, receive = self.module.ILogger, self._receive

        class Logger(base):  # type: ignore[misc, valid-type, unused-ignore]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                # By name, since the numbers differ between versions.
                receive(severity.name.lower(), message)

        return Logger()


@cache
def load_tensorrt() -> TensorRtLibrary:
    """Import TensorRT; raises `BackendUnavailableError` with the reason and the remedy.

    The driver is checked first: without a usable one, TensorRT's objects crash the process.
    """
    if cuda.count_devices() == 0:
        raise BackendUnavailableError(cuda.explain_no_device())
    broken = []
    for name in MODULES:
        try:
            return TensorRtLibrary(importlib.import_module(name))
        except ModuleNotFoundError as exc:
            if exc.name != name:
                broken.append(f"{name}: {exc}")
        except (ImportError, OSError, RuntimeError) as exc:
            broken.append(f"{name}: {exc}")
    reasons = "; ".join(broken) or "the package tensorrt is not installed"
    raise BackendUnavailableError(f"{reasons}: pip install 'streamd[tensorrt]'")


def _log_message(severity: str, message: str) -> None:
    if severity in ("internal_error", "error"):
        log.error("tensorrt", message=message)
    elif severity == "warning":
        log.warning("tensorrt", message=message)
