"""Configures the log on standard error: readable lines on a terminal, JSON elsewhere.

The only module that configures structlog and the standard library's logging.
"""

import logging
import sys
import threading
from types import TracebackType
from typing import Any

import structlog

from streamd.server.config import LogSection


def configure_logs(settings: LogSection) -> None:
    """Configure structlog, once in a process; each line is an event with its fields.

    Log records of libraries and Python's own warnings become such lines too, from level `warning` on, and so do errors
    that no code catches: in a thread, in a finalizer, in a task.
    """
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    # Plain: that of `rich`, which structlog takes if it is installed, shows local variables, and tokens among them.
    colored = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = colored if console else structlog.processors.JSONRenderer(sort_keys=False)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[Any] = [structlog.processors.format_exc_info if not console else _pass_through, renderer]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # One write for a line: several processes of a daemon share the stream.
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    _route_foreign_logs(max(level, logging.WARNING), shared, rendered)
    _route_uncaught_errors()


def _route_foreign_logs(level: int, shared: list[Any], rendered: list[Any]) -> None:
    """Let the loggers of the standard library write the same lines; without a handler they write plain text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


def _route_uncaught_errors() -> None:
    """Log what Python would write to standard error as text; the event loop logs what its tasks and callbacks raise."""
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread_error


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, Exception):
        _log_error("uncaught", error)
    else:  # the user's Ctrl-C
        sys.__excepthook__(kind, error, trace)


def _log_unraisable(found: "sys.UnraisableHookArgs") -> None:
    place = found.err_msg or "Exception ignored in"
    _log_error("uncaught_in_finalizer", found.exc_value, place=f"{place}: {found.object!r}"[:500])


def _log_thread_error(found: threading.ExceptHookArgs) -> None:
    if not issubclass(found.exc_type, SystemExit):
        _log_error("uncaught_in_thread", found.exc_value, thread=None if found.thread is None else found.thread.name)


def _log_error(event: str, error: BaseException | None, **fields: object) -> None:
    structlog.get_logger(__name__).error(event, error=repr(error), exc_info=error, **fields)


def _pass_through(_logger: Any, _name: str, event: Any) -> Any:
    """Return the event unchanged: the console renderer formats exceptions itself."""
    return event
