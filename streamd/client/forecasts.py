"""The events of a reader of forecasts: forecasts with arrays, and what it missed. Decodes frames; reads no socket."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.client.errors import ClientError
from streamd.client.tensors import ReceivedTensor


@dataclass(frozen=True, kw_only=True)
class ServerForecast:
    """One forecast of one server."""

    server: str
    origin: float
    """The time (epoch seconds) at which the newest row of the window ends."""
    step_seconds: float
    model: str
    targets: tuple[str, ...]
    quantiles: tuple[float, ...]
    every: int
    """The distance of the steps: with `n` the forecast has steps n, 2n, 3n and so on."""
    values: npt.NDArray[np.floating]
    """`(target, step, quantile)`, in the units of the targets; NaN for all of a target that is unknown."""
    context: int
    """The number of rows that the window really had."""
    unknown: tuple[str, ...] = ()
    """The targets that no row of the window had a value of, in the order of `targets`."""
    fence: int | None = None
    """In a cluster: rises with each owner of the server; 0 while the forecast is not in the log. Else `None`."""

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """The times at which the steps begin, `(step,)`, in epoch seconds."""
        return self.origin + self.step_seconds * _list_steps(self.values.shape[1], self.every)

    def get_curve(self, target: str, quantile: float) -> npt.NDArray[np.floating]:
        """Return the values of one target at one quantile, `(step,)`; raises `KeyError` if it has none."""
        return self.values[_find(self.targets, target), :, _find(self.quantiles, quantile)]


@dataclass(frozen=True, kw_only=True)
class ForecastBatch:
    """The forecasts of several servers, as one array."""

    servers: tuple[str, ...]
    origins: npt.NDArray[np.float64]
    """`(n,)`, epoch seconds."""
    contexts: npt.NDArray[np.int64]
    """`(n,)`"""
    models: tuple[str, ...]
    """`(n,)`; the same name but for a moment after a change of the version."""
    step_seconds: float
    targets: tuple[str, ...]
    quantiles: tuple[float, ...]
    every: int
    values: npt.NDArray[np.floating]
    """`(n, target, step, quantile)`: a view of the received frame, only to be read; NaN where a target is unknown."""
    unknown: tuple[tuple[str, ...], ...]
    """`(n,)`: the unknown targets of each forecast, as a `ServerForecast` has them."""
    fences: npt.NDArray[np.int64] | None = None
    """`(n,)`, in a cluster: the fence of each forecast, as a `ServerForecast` has it."""

    def __len__(self) -> int:
        return len(self.servers)

    def __iter__(self) -> Iterator[ServerForecast]:
        """Yield each forecast; its values are a view."""
        for place, server in enumerate(self.servers):
            yield ServerForecast(
                server=server,
                origin=float(self.origins[place]),
                step_seconds=self.step_seconds,
                model=self.models[place],
                targets=self.targets,
                quantiles=self.quantiles,
                every=self.every,
                values=self.values[place],
                context=int(self.contexts[place]),
                unknown=self.unknown[place],
                fence=None if self.fences is None else int(self.fences[place]),
            )

    def drop(self, places: Sequence[int]) -> "ForecastBatch":
        """Return the batch without the forecasts at these places."""
        keep = np.setdiff1d(np.arange(len(self)), places)
        return ForecastBatch(
            servers=tuple(self.servers[place] for place in keep),
            origins=self.origins[keep],
            contexts=self.contexts[keep],
            models=tuple(self.models[place] for place in keep),
            step_seconds=self.step_seconds,
            targets=self.targets,
            quantiles=self.quantiles,
            every=self.every,
            values=self.values[keep],
            unknown=tuple(self.unknown[place] for place in keep),
            fences=None if self.fences is None else self.fences[keep],
        )


class MissReason(StrEnum):
    """The reason why a reader does not get forecasts."""

    LAGGED = "lagged"
    """It read too slowly, and newer ones replaced them: the count is exact."""
    AWAY = "away"
    """Its connection was lost, and newer ones replaced them: the count is an upper bound."""


@dataclass(frozen=True)
class MissedForecasts:
    """Forecasts that the reader never gets. It always gets the newest one of each server."""

    count: int
    reason: MissReason


@dataclass(frozen=True)
class Reconnected:
    """The connection was lost and the subscription continues; what was posted meanwhile follows."""

    away_seconds: float
    attempts: int
    """The attempts that it took."""


ForecastEvent = ServerForecast | ForecastBatch | MissedForecasts | Reconnected


class ForecastPending(msgspec.Struct, frozen=True):
    """The state of a window that has no forecast yet."""

    server: str
    status: str
    """`warming`: it has too few rows; `pending`: its forecast is on the way."""
    have: int
    need: int


class ForecastMessage(msgspec.Struct, kw_only=True):
    """Any message that a reader of forecasts gets: one type decodes all."""

    type: str = ""
    id: int | None = None
    server: str = ""
    origin: float = 0.0
    context: int = 0
    servers: list[str] = []
    origins: list[float] = []
    contexts: list[int] = []
    fence: int | None = None
    fences: list[int] | None = None
    values: ReceivedTensor | None = None
    unknown: tuple[Any, ...] = ()
    """Names in a `forecast`, and in `forecasts` a list of names for each of them."""
    step_seconds: float = 0.0
    model: str | list[str] = ""
    targets: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    every: int = 1
    dropped: int = 0
    code: str = ""
    message: str = ""
    status: str = ""
    have: int = 0
    need: int = 0

    def to_forecast(self) -> ServerForecast:
        """Return the forecast of a `forecast` message."""
        return ServerForecast(
            server=self.server,
            origin=self.origin,
            step_seconds=self.step_seconds,
            model=str(self.model),
            targets=self.targets,
            quantiles=self.quantiles,
            every=self.every,
            values=self._read_values(3),
            context=self.context,
            unknown=self.unknown,
            fence=self.fence,
        )

    def to_batch(self) -> ForecastBatch:
        """Return the forecasts of a `forecasts` message."""
        models = [self.model] * len(self.servers) if isinstance(self.model, str) else self.model
        return ForecastBatch(
            servers=tuple(self.servers),
            origins=np.array(self.origins, np.float64),
            contexts=np.array(self.contexts, np.int64),
            models=tuple(models),
            step_seconds=self.step_seconds,
            targets=self.targets,
            quantiles=self.quantiles,
            every=self.every,
            values=self._read_values(4),
            unknown=tuple(tuple(names) for names in self.unknown or [()] * len(self.servers)),
            fences=None if self.fences is None else np.array(self.fences, np.int64),
        )

    def _read_values(self, axes: int) -> npt.NDArray[Any]:
        if self.values is None or len(self.values.shape) != axes:
            raise ClientError(f"a {self.type!r} frame has no values with {axes} axes")
        return self.values.to_array()


FORECAST_DECODER = msgspec.msgpack.Decoder(ForecastMessage)


def _list_steps(count: int, every: int) -> npt.NDArray[np.float64]:
    return np.arange(every - 1, every * count, every, dtype=np.float64)


def _find(known: Sequence[Any], requested: object) -> int:
    for place, each in enumerate(known):
        if each == requested or (isinstance(requested, float) and abs(each - requested) < 1e-6):
            return place
    raise KeyError(f"{requested!r} is not in the forecast, which has {list(known)}")
