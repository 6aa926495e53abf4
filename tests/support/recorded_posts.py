"""A listener that remembers which forecasts were posted on the board of a node."""

from streamd.core.arrays import Float32, Numbers, Slots
from tests.support.forecast_rig import RigNode


class RecordedPosts:
    """The rows whose forecasts were posted, as slots and steps."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def forecasts_posted(self, slots: Slots, steps: Numbers, model: bytes, forecasts: Float32) -> None:
        self.heard += zip(slots.tolist(), steps.tolist(), strict=True)


def listen_to_posts(node: RigNode) -> RecordedPosts:
    """Return a listener of a node, which hears what is posted from now on."""
    recorded = RecordedPosts()
    sink = node.service.board_sink
    sink._posted = (*sink._posted, recorded)
    return recorded
