"""Copies of forecasts on the board that another thread or process may post at the same moment."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.state.board import ForecastBoard


@dataclass(frozen=True, kw_only=True)
class CopiedForecasts:
    """Whole forecasts of `n` slots."""

    slots: Slots
    steps: Numbers
    contexts: npt.NDArray[np.int32]
    models: str | list[str]
    """The versions that made them: one name if it is the same for all."""
    values: Float32
    """`(n, targets, horizon, quantiles)`, of the targets that were requested."""

    def get_model(self, place: int) -> str:
        """Return the name of the version that made a forecast."""
        return self.models if isinstance(self.models, str) else self.models[place]


def copy_forecasts(board: ForecastBoard, slots: Slots, targets: Slots) -> CopiedForecasts:
    """Copy the forecasts of distinct slots, of some targets by index.

    Slots without a forecast are left out, and those whose forecast was posted in the meantime: a copy of it would be
    torn. Like `WindowStore.find_torn`, this relies on a processor that shows the stores of another core in their order.
    """
    slots = slots[board.get_serials(slots) > 0]
    serials = board.get_serials(slots)
    steps, contexts, models = board.read_sources(slots) if len(slots) else (slots, slots.astype(np.int32), "")
    count, horizon, quantiles = board.values.shape[1:]
    places = (slots[:, None] * count + targets).reshape(-1)
    values = board.values.reshape(-1, horizon * quantiles).take(places, axis=0)
    values = values.reshape(len(slots), len(targets), horizon, quantiles)
    is_whole = (serials > 0) & (board.get_serials(slots) == serials)
    if is_whole.all():
        return CopiedForecasts(slots=slots, steps=steps, contexts=contexts, models=models, values=values)
    kept = np.flatnonzero(is_whole)
    return CopiedForecasts(
        slots=slots[kept],
        steps=steps[kept],
        contexts=contexts[kept],
        models=models if isinstance(models, str) else [models[place] for place in kept.tolist()],
        values=values[kept],
    )
