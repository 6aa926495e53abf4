"""A caller's windows that lie in the bytes of its message until they are copied into a lane."""

from dataclasses import dataclass
from typing import NamedTuple

from streamd.inference.lane import Inputs


class InputPlace(NamedTuple):
    """The place of an input in a body: its first byte, and the bytes of a window."""

    begin: int
    window_bytes: int


@dataclass(slots=True, kw_only=True)
class MessageWindows:
    """The windows of a body, in the types that the model needs; their numbers are not checked.

    The body begins at `body_begin` of the message. `places` are those of the inputs, in the order of `Inputs.buffers`;
    that of the memory is absent if the caller sends none.
    """

    message: memoryview
    body_begin: int
    places: tuple[InputPlace, ...]
    windows: int
    batched: bool
    is_checked: bool = False

    def fill(self, first: int, count: int, inputs: Inputs, row: int) -> None:
        """Copy `count` windows from `first` on into a lane's inputs, from row `row` on."""
        message, body_begin = self.message, self.body_begin
        # One may be longer: a caller may send no memory, and a version may ask for none.
        for target, (begin, size) in zip(inputs.buffers, self.places, strict=False):
            source = body_begin + begin + first * size
            target[row * size : (row + count) * size] = message[source : source + count * size]
        if len(self.places) < len(inputs.buffers):
            inputs.forget_memory(row, row + count)
