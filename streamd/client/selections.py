"""The choice of a subscriber, as the message that subscribes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ForecastSelection:
    """The forecasts that a reader wants; `None` means all."""

    servers: str | Sequence[str] = ("*",)
    targets: str | Sequence[str] | None = None
    quantiles: Sequence[float] | None = None
    every: int = 1
    batch: bool = False
    dtype: str = "float32"

    def make_message(self, last_event_id: int | None) -> dict[str, Any]:
        """Return the message that subscribes."""
        message: dict[str, Any] = {"type": "subscribe", "servers": list_names(self.servers), "ids": True}
        message |= {"every": self.every, "batch": self.batch, "dtype": self.dtype}
        if self.targets is not None:
            message["targets"] = list_names(self.targets)
        if self.quantiles is not None:
            message["quantiles"] = [float(level) for level in self.quantiles]
        if last_event_id is not None:
            message["last_event_id"] = last_event_id
        return message


def list_names(given: str | Sequence[str]) -> list[str]:
    """Return names as a list; a text is one name, not a sequence of letters."""
    return [given] if isinstance(given, str) else list(given)
