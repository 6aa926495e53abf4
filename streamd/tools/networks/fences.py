"""Fences: limits beyond which a single value of a window counts as absurd, such as a counter's wrap read as a rate.

A fence must be found without a sort, and one absurd value must not move it. So the steps are dealt into classes, like
cards: step 0 to class 0, step 1 to class 1, and so on. One value reaches one class only, while each class sees the
whole day. The third largest maximum of the classes is then a maximum that two absurd values cannot raise. The classes
of a week are its days: what comes each night is in all of them.

A limit of this: far higher values that last one step and come exactly every four or eight hours are in one or two
classes, so they count as absurd. Recorded fleets hardly have such series.
"""

import torch
from torch import Tensor, nn

from streamd.core.values import VALUE_LIMIT

LIMIT = VALUE_LIMIT
"""Larger magnitudes, including infinity, count as missing, so that a span cannot overflow float32."""


class Fence(nn.Module):
    """Finds limits around the usual values of each series.

    - `classes`: the number of classes, of which the number of steps is a multiple.
    - `are_days`: whether a class is a stretch of steps; otherwise its steps are spread over the whole window.
    - `rank`: the limits start at the `rank`-th largest maximum and the `rank`-th smallest minimum of the classes.
    - `reach`: how far beyond them the limits are, in distances between the two.
    - `needed`: the number of classes that must have values; of fewer, none is usual. With five values in five classes
      the third largest is the third smallest, and all others would be beyond the limits.
    """

    def __init__(
        self, classes: int, *, are_days: bool = False, rank: int = 3, reach: float = 8.0, needed: int = 8
    ) -> None:
        super().__init__()
        self.classes, self.are_days, self.rank, self.reach, self.needed = classes, are_days, rank, reach, needed

    def forward(self, filled: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper limit, `(batch, feature, 1)`, from `(batch, feature, step)` and its mask.

        Without values in `needed` classes at least, nothing is beyond the limits.
        """
        features, each = int(filled.shape[1]), int(filled.shape[2]) // self.classes
        if self.classes < self.needed:
            none = filled[..., :1] * 0.0
            return none - LIMIT, none + LIMIT
        signed = torch.cat([torch.where(seen, filled, -LIMIT), torch.where(seen, -filled, -LIMIT)], dim=1)
        shape = (self.classes, each) if self.are_days else (each, self.classes)
        extremes = signed.reshape(-1, 2 * features, *shape).amax(dim=3 if self.are_days else 2)
        most, _ = torch.topk(extremes, self.needed, dim=2)
        top, bottom = most[..., self.rank - 1 : self.rank].split(features, dim=1)
        last, _ = most[..., self.needed - 1 :].split(features, dim=1)
        room = self.reach * (top + bottom)  # The sign of `bottom` is turned.
        known = last > -LIMIT
        return torch.where(known, -bottom - room, -LIMIT), torch.where(known, top + room, LIMIT)


def count_classes(steps: int, most: int = 32) -> int:
    """Return the largest number of classes, at most `most`, into which so many steps can be dealt evenly."""
    return max(n for n in range(1, most + 1) if steps % n == 0)


def find_isolated(filled: Tensor, seen: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return which values of `(batch, feature, step)` are beyond the limits while their neighbours are within.

    Two neighbours beyond the limits are no error but a surge. The newest value has one neighbour only, so a surge is
    believed from its second step on.
    """
    beyond = torch.logical_and(seen, torch.logical_or(filled > upper, filled < lower))
    padded = nn.functional.pad(beyond.to(filled.dtype), (1, 1))
    steps = int(filled.shape[2])
    company = padded[..., :steps] + padded[..., 2:]
    return torch.logical_and(beyond, company < 0.5)
