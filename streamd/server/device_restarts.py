"""Limits how often the daemon restarts itself because of a lost device.

The record is in the state folder, so that it outlives the restarts that it counts. A record that is damaged counts as
empty; one that cannot be written forbids the restart, since nothing would limit the next one.
"""

from pathlib import Path

import msgspec
import structlog

from streamd.core.errors import RepositoryError
from streamd.regular_files import open_regular
from streamd.repository.files import replace_file

log = structlog.get_logger(__name__)

EXIT_DEVICE_LOST = 75
"""The exit status of a daemon that ends itself to be restarted (EX_TEMPFAIL of sysexits.h)."""

PERIOD_SECONDS = 3_600.0

RECORD_NAME = "device_restarts.json"

MAX_RESTARTS_BYTES = 65_536


class DeviceRestarts:
    """The restarts of the last hour, in a file of a folder; `now` is epoch seconds everywhere. Blocks."""

    def __init__(self, folder: Path, per_hour: int) -> None:
        self._path = folder / RECORD_NAME
        self._per_hour = per_hour

    def count_recent(self, now: float) -> int:
        """Return the number of restarts in the last hour."""
        return len(self._read(now))

    def take(self, now: float) -> str | None:
        """Record a restart; returns `None`, or the reason why there must not be one now."""
        times = self._read(now)
        if len(times) >= self._per_hour:
            return f"{len(times)} restarts in the last hour, and max_device_restarts is {self._per_hour}"
        try:
            replace_file(self._path, msgspec.json.encode([*times, now]))
        except RepositoryError as exc:
            return str(exc)
        return None

    def _read(self, now: float) -> list[float]:
        try:
            with open_regular(self._path) as file:
                content = file.read(MAX_RESTARTS_BYTES)
            times = msgspec.json.decode(content, type=list[float])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as exc:
            log.warning("device_restarts_unreadable", file=str(self._path), reason=str(exc))
            return []
        # Also those that the clock has not reached: it may have been set back since.
        return [time for time in times if abs(now - time) < PERIOD_SECONDS]
