"""TensorRT as a library: which one is installed, and what it says, for all that load plans or build them.

One logger, since TensorRT keeps the first that it is given for the whole process.
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
"""Gets a severity in lower case, as `internal_error`, and what was said."""


class TensorRtLibrary:
    """The installed TensorRT, and what its errors said last."""

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module
        self.version: str = module.__version__
        self.lean = module.__name__.startswith("tensorrt_lean")
        self.errors: deque[str] = deque(maxlen=MAX_KEPT_ERRORS)
        self._listener: Listener = _to_log
        self.logger = self._make_logger()

    @property
    def major_version(self) -> int:
        """The major version."""
        return int(self.version.partition(".")[0])

    def take_last_error(self) -> str:
        """Return what TensorRT logged last as errors; the next call does not repeat it."""
        said = "; ".join(dict.fromkeys(self.errors))
        self.errors.clear()
        return said or "TensorRT gave no reason"

    @contextmanager
    def redirect_messages(self, listener: Listener) -> Iterator[None]:
        """Let another one hear what TensorRT says meanwhile, of any severity, in place of the log."""
        before, self._listener = self._listener, listener
        try:
            yield
        finally:
            self._listener = before

    def _hear(self, severity: str, message: str) -> None:
        if severity in ("internal_error", "error"):
            self.errors.append(message)
        self._listener(severity, message)

    def _make_logger(self) -> Any:
        base, hear = self.module.ILogger, self._hear

        class Logger(base):  # type: ignore[misc, valid-type, unused-ignore]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                # By name, since the numbers differ between versions.
                hear(severity.name.lower(), message)

        return Logger()


@cache
def load_tensorrt() -> TensorRtLibrary:
    """Import TensorRT; raises `BackendUnavailableError` with the reason and the way out.

    Without a usable driver TensorRT's objects crash the process when touched, so that is looked at first.
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


def _to_log(severity: str, message: str) -> None:
    if severity in ("internal_error", "error"):
        log.error("tensorrt", message=message)
    elif severity == "warning":
        log.warning("tensorrt", message=message)
