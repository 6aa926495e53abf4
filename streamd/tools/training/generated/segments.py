"""Cuts the time of each row into segments: jobs and pauses, levels, states, times between two restarts.

Events are drawn as spans, so that heavy tails and schedules are the same to what uses them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from streamd.tools.training.generated.draws import SeriesDraws


@dataclass
class Segments:
    """The segment of each step; all are `(rows, length)`."""

    number: Tensor
    """The number of the segment, `long`; the first steps are in the middle of any segment."""

    age: Tensor
    """The steps since the segment began, from 0 on."""

    span: Tensor
    """The steps that the segment lasts."""

    def spread(self, values: Tensor) -> Tensor:
        """Return for each step the value of its segment; `values` is `(rows, segments)`."""
        return values.gather(1, self.number)

    def restart(self, growth: Tensor) -> Tensor:
        """Return a growing sum `(rows, length)` counted from the beginning of each segment.

        The first segment has begun before the first step: its earlier growth is taken in proportion to its age.
        """
        steps = torch.arange(growth.shape[1], device=growth.device)
        begin = (steps - self.age).long()
        before = growth.gather(1, begin.clamp(min=0))
        mean = (growth[:, -1:] - growth[:, :1]) / max(1, growth.shape[1] - 1)
        return growth - before + mean * (-begin).clamp(min=0)


def count_segments(draws: SeriesDraws) -> int:
    """Return the number of spans that `make_segments` takes; if they are used up, they come again."""
    return max(8, draws.length // 4)


def make_segments(draws: SeriesDraws, spans: Tensor, begin: Tensor | None = None) -> Segments:
    """Return segments of the given lengths `spans (rows, segments)`, rounded to whole steps.

    `begin (rows, 1)` is the step of the sequence at step 0; by default it is random.
    """
    whole = spans.round().clamp(1, 20_000)
    ends = whole.cumsum(-1)
    total = ends[:, -1:]
    if begin is None:
        begin = torch.floor(draws.draw_uniform(0.0, 1.0, len(spans), 1) * total)
    position = (draws.time + begin) % total
    number = torch.searchsorted(ends, position.contiguous(), right=True).clamp(max=spans.shape[1] - 1)
    span = whole.gather(1, number)
    return Segments(number, position - (ends.gather(1, number) - span), span)
