"""Whether a process takes bodies and frames, and how many it is taking."""

from streamd.core.errors import DrainingError


class TakingLoad:
    """The bodies and batches of frames that are being taken: `with load:` while one is."""

    def __init__(self) -> None:
        self.is_draining = False
        self.bodies = 0
        """The number of those that are being taken; a drain waits for their end."""

    def __enter__(self) -> None:
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        self.bodies += 1

    def __exit__(self, *_error: object) -> None:
        self.bodies -= 1
