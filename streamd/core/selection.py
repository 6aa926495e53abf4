"""What a subscriber asked for: which servers, and which part of each forecast."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.errors import InvalidSelectionError

FRAME_DTYPES = ("float32", "float16")
MAX_GLOBS = 10_000
MAX_GLOB_BYTES = 1_024

HALF_LIMIT = np.finfo(np.float16).max.astype(np.float32)


@dataclass(frozen=True)
class ForecastSlice:
    """The part of a forecast that is sent: targets and quantiles by index, every `every`-th step.

    Hashable, so that a forecast is encoded once for all who asked for the same part.
    """

    targets: tuple[int, ...]
    quantiles: tuple[int, ...]
    every: int
    dtype: str

    def cut(self, values: Float32) -> npt.NDArray[np.floating]:
        """Return `(..., target, step, quantile)` of `values (..., targets, horizon, quantiles)`, C-contiguous."""
        targets, steps, quantiles = values.shape[-3:]
        if self.targets != tuple(range(targets)):
            values = values[..., self.targets, :, :]
        if self.every > 1:
            values = values[..., self.every - 1 : steps : self.every, :]
        if self.quantiles != tuple(range(quantiles)):
            values = values[..., self.quantiles]
        if self.dtype == "float16":
            return _halves(values)
        return np.ascontiguousarray(values)


def _halves(values: Float32) -> npt.NDArray[np.float16]:
    """Convert to float16; beyond its range the largest value stands in, so that no reader gets infinity."""
    # Bounded first: a number that overflows takes 30 times as long, and of rates in bytes a second most do.
    return np.ascontiguousarray(np.clip(values, -HALF_LIMIT, HALF_LIMIT), dtype=np.float16)


class ServerGlobs:
    """A choice of servers, case-sensitive: by `globs`, and by `names` that are never read as globs.

    A glob matches the server whose name it is, character by character, and those that it matches as the shell's
    patterns do (`*`, `?`, `[...]`). So a server `db[1]` is chosen by its name. Any one of them suffices.
    """

    def __init__(self, globs: Sequence[str], names: Sequence[str] = ()) -> None:
        if len(globs) + len(names) > MAX_GLOBS:
            raise InvalidSelectionError(f"servers has {len(globs) + len(names)} globs, at most {MAX_GLOBS} are taken")
        self.globs = (*globs, *names)
        self._all = "*" in globs
        self._exact = frozenset(self.globs)
        patterns = []
        for glob in globs:
            if glob == "*" or not re.search(r"[*?\[]", glob):
                continue
            if len(glob) > MAX_GLOB_BYTES:
                raise InvalidSelectionError(f"servers has a glob of {len(glob)} characters, at most 1024")
            patterns.append(translate(re.sub(r"\*+", "*", glob)))
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def matches(self, name: str) -> bool:
        """Whether a server of this name is meant."""
        if self._all or name in self._exact:
            return True
        return self._pattern is not None and self._pattern.match(name) is not None


def make_forecast_slice(
    contract: ModelContract,
    targets: Sequence[str] | None,
    quantiles: Sequence[float] | None,
    every: int = 1,
    dtype: str = "float32",
) -> ForecastSlice:
    """Return the part of the contract's forecasts that is meant; none means all.

    Raises `InvalidSelectionError` for a target, quantile, stride or type that there is not.
    """
    if dtype not in FRAME_DTYPES:
        raise InvalidSelectionError(f"dtype is {dtype!r}, expected one of {', '.join(FRAME_DTYPES)}")
    if not 1 <= every <= contract.horizon:
        raise InvalidSelectionError(f"every is {every}, expected 1 to {contract.horizon}")
    return ForecastSlice(
        _places("targets", contract.targets, targets),
        _places("quantiles", contract.quantiles, quantiles),
        every,
        dtype,
    )


def _places(what: str, known: Sequence[str | float], asked: Sequence[str | float] | None) -> tuple[int, ...]:
    if asked is None:
        return tuple(range(len(known)))
    if not asked:
        raise InvalidSelectionError(f"{what} is empty, expected some of {list(known)} or no {what} at all")
    places = []
    for one in asked:
        near = [place for place, other in enumerate(known) if _same(one, other)]
        if not near:
            raise InvalidSelectionError(f"{what} has {one!r}, expected some of {list(known)}")
        places.append(near[0])
    if len(set(places)) != len(places):
        raise InvalidSelectionError(f"{what} names one of {list(asked)} twice")
    return tuple(places)


def _same(asked: str | float, known: str | float) -> bool:
    if isinstance(asked, str) or isinstance(known, str):
        return asked == known
    return abs(asked - known) < 1e-6
