"""The choice of a subscriber: its servers, and its part of each forecast. Neither sends nor encodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.errors import InvalidSelectionError
from streamd.core.globs import GlobSet, has_wildcard
from streamd.core.state.slot_ranges import make_slot_index

FRAME_DTYPES = ("float32", "float16")
MAX_GLOBS = 10_000
"""Entries in one choice of servers; `core/globs.py` limits those with wildcards."""

FLOAT16_LIMIT = np.finfo(np.float16).max.astype(np.float32)


@dataclass(frozen=True)
class ForecastSlice:
    """The part of a forecast that is sent: targets and quantiles by index, and every `every`-th step.

    Hashable, so that a forecast is encoded once for all subscribers of the same part.
    """

    targets: tuple[int, ...]
    quantiles: tuple[int, ...]
    every: int
    dtype: str

    def cut(self, values: Float32) -> npt.NDArray[np.floating]:
        """Return `(..., target, step, quantile)` of `values (..., targets, horizon, quantiles)`, C-contiguous."""
        if self.targets != tuple(range(values.shape[-3])):
            values = values[..., self.targets, :, :]
        values = self._cut_steps_and_quantiles(values)
        if self.dtype == "float16":
            return convert_to_float16(values)
        return np.ascontiguousarray(values)

    def gather(self, values: Float32, slots: npt.NDArray[np.int64]) -> Float32:
        """Return `(n, target, step, quantile)` of those of `values (slots, targets, horizon, quantiles)`, as float32.

        A view if all of each forecast is chosen, and the slots are neighbours in rising order.
        """
        if self.targets == tuple(range(values.shape[1])):
            return self._cut_steps_and_quantiles(values[make_slot_index(slots)])
        return self._cut_steps_and_quantiles(values[slots[:, None], self.targets])

    def _cut_steps_and_quantiles(self, values: Float32) -> Float32:
        steps, quantiles = values.shape[-2:]
        if self.every > 1:
            values = values[..., self.every - 1 : steps : self.every, :]
        return values if self.quantiles == tuple(range(quantiles)) else values[..., self.quantiles]

    def is_whole(self, shape: tuple[int, ...]) -> bool:
        """Whether all of a forecast `(targets, horizon, quantiles)` is chosen, in its order."""
        targets, _, quantiles = shape
        return self.every == 1 and self.targets == tuple(range(targets)) and self.quantiles == tuple(range(quantiles))

    def compute_shape(self, horizon: int) -> tuple[int, int, int]:
        """Return the numbers of targets, of steps and of quantiles that are sent of a forecast of `horizon` steps."""
        return len(self.targets), horizon // self.every, len(self.quantiles)


def convert_to_float16(values: Float32) -> npt.NDArray[np.float16]:
    """Convert to float16; a value beyond its range becomes the largest one, so that no reader gets infinity."""
    # Clipped first: a number that overflows takes 30 times as long to convert, and most rates in bytes a second do.
    return np.ascontiguousarray(np.clip(values, -FLOAT16_LIMIT, FLOAT16_LIMIT), dtype=np.float16)


class ServerGlobs:
    """A case-sensitive choice of servers by `globs`, and by `names`, which are never read as globs.

    A server is chosen if one of them matches. A glob matches the server with exactly this name, and the servers that
    match it as a pattern of the shell (`*`, `?`, `[...]`). So the server `db[1]` is chosen by its name. Raises
    `InvalidSelectionError` for too many entries.
    """

    def __init__(self, globs: Sequence[str], names: Sequence[str] = ()) -> None:
        if len(globs) + len(names) > MAX_GLOBS:
            raise InvalidSelectionError(f"servers has {len(globs) + len(names)} globs, expected at most {MAX_GLOBS}")
        self.globs = (*globs, *names)
        self.is_all = "*" in globs
        """Whether each server is chosen."""
        self._exact = frozenset(self.globs)
        patterns = [glob for glob in globs if has_wildcard(glob)]
        self._patterns = GlobSet(patterns) if patterns and not self.is_all else None
        self.is_costly = self._patterns is not None and self._patterns.is_costly
        """Whether `matches` takes longer than a few look-ups, so that thousands of calls need several loop turns."""

    @property
    def exact_names(self) -> frozenset[str] | None:
        """The names of the only servers that can be chosen, or `None` if globs choose others too."""
        return None if self.is_all or self._patterns is not None else self._exact

    def matches(self, name: str) -> bool:
        """Whether a server of this name is chosen."""
        if self.is_all or name in self._exact:
            return True
        return self._patterns is not None and self._patterns.matches(name)


def make_forecast_slice(
    contract: ModelContract,
    targets: Sequence[str] | None,
    quantiles: Sequence[float] | None,
    every: int = 1,
    dtype: str = "float32",
) -> ForecastSlice:
    """Return the requested part of the contract's forecasts; None for `targets` or `quantiles` means all.

    Raises `InvalidSelectionError` for a target, quantile, stride or type that does not exist.
    """
    if dtype not in FRAME_DTYPES:
        raise InvalidSelectionError(f"dtype is {dtype!r:.80}, expected one of {', '.join(FRAME_DTYPES)}")
    if not 1 <= every <= contract.horizon:
        raise InvalidSelectionError(f"every is {every!s:.40}, expected 1 to {contract.horizon}")
    return ForecastSlice(
        _find_indices("targets", contract.targets, targets),
        _find_indices("quantiles", contract.quantiles, quantiles),
        every,
        dtype,
    )


def _find_indices(what: str, known: Sequence[str | float], requested: Sequence[str | float] | None) -> tuple[int, ...]:
    if requested is None:
        return tuple(range(len(known)))
    if not requested:
        raise InvalidSelectionError(f"{what} is empty, expected some of {list(known)} or no {what} at all")
    places = []
    for one in requested:
        near = [place for place, other in enumerate(known) if _is_same(one, other)]
        if not near:
            raise InvalidSelectionError(f"{what} has {one!r:.80}, expected some of {list(known)}")
        places.append(near[0])
    if len(set(places)) != len(places):
        raise InvalidSelectionError(f"{what} names one of {list(requested)!s:.400} twice")
    return tuple(places)


def _is_same(requested: str | float, known: str | float) -> bool:
    if isinstance(requested, str) or isinstance(known, str):
        return requested == known
    # MessagePack and other encodings may carry float32. A wider tolerance would take what the documents do not list.
    return requested == known or requested == float(np.float32(known))
