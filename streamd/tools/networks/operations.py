"""Operations that networks share, written in operators that the parsers and compilers of all engines read.

Each works on any shape and knows no window; `scaling` does.
"""

import torch
from torch import Tensor, nn


def compress_spikes(scaled: Tensor) -> Tensor:
    """Return scaled values with spikes compressed to their logarithm, in the same shape."""
    return torch.sign(scaled) * torch.log(1.0 + scaled.abs())


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)) without overflow.

    It is written in elementary operations, because the operator `Softplus` would split an engine's fused kernel.
    """
    return x.clamp(min=0.0) + torch.log(1.0 + torch.exp(-x.abs()))


def elu(x: Tensor) -> Tensor:
    """Return x where it is positive, and exp(x) - 1 elsewhere: ELU in elementary operations.

    The compiler of TensorRT 11 fails at the operator `Elu` behind an attention, in every precision. The exponent is the
    negative part of x, so nothing overflows, and the gradients of both parts add up to that of ELU, also at zero.
    """
    positive = x.clamp(min=0.0)
    return positive + (torch.exp(x - positive) - 1.0)


class Bounded(nn.Module):
    """Limits integers to 0 to `count` - 1, by `Max` and `Min`, because TensorRT's `Clip` takes no integers."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first: Tensor
        self.last: Tensor
        self.register_buffer("first", torch.tensor(0, dtype=torch.int32), persistent=False)
        self.register_buffer("last", torch.tensor(count - 1, dtype=torch.int32), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the limited int32 numbers, in the same shape."""
        return torch.minimum(torch.maximum(numbers, self.first), self.last)


def compute_past_calendar(decoder_cont: Tensor, context: int, step_seconds: int, every: int = 1) -> Tensor:
    """Return the calendar of each `every`-th step of the context, `(batch, step, 4)`.

    The contract has the calendar of the horizon only. The first future step, turned back by known angles, is the past.
    """
    device = decoder_cont.device
    steps = torch.arange(-context, 0, every, device=device, dtype=torch.float32)
    day, week = (2 * torch.pi * step_seconds * steps / period for period in (86_400.0, 604_800.0))
    along = torch.stack([day.cos(), day.cos(), week.cos(), week.cos()], dim=1)
    across = torch.stack([day.sin(), -day.sin(), week.sin(), -week.sin()], dim=1)
    first = decoder_cont[:, :1]
    other = first.index_select(2, torch.tensor([1, 0, 3, 2], device=device))  # the cosine of a sine, and the sine of it
    return first * along + other * across


def round_softly(x: Tensor) -> Tensor:
    """Return x rounded to whole numbers, but for a steep ramp in the tenth in the middle between two of them.

    A jump there would make a whole step of the smallest error, such as that of half precision. It never falls.
    """
    whole = torch.round(x)
    rest = 5.0 * (x - whole)
    return whole + (rest - rest.clamp(-2.0, 2.0))
