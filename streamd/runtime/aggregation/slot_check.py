"""Decides for each new server of a body whether it may get a slot, before anything of its series is kept. No I/O."""

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import NoCapacityError
from streamd.core.state.directory import Directory
from streamd.runtime.admission import Admission

MAX_NEW_SHARE = 2
"""The new servers of one body, in multiples of `max_servers`. Each takes a kilobyte until it is refused, and an 8 MB
body has space for 100,000 names."""


class SlotCheck:
    """The servers of one body; `wall` is when it came, in epoch seconds.

    A server that passes may still get no slot, because others of the body or of other bodies take the last ones.
    """

    def __init__(self, admission: Admission, directory: Directory, caller: Caller, wall: float) -> None:
        self._admission = admission
        self._directory = directory
        self._caller = caller
        self._wall = wall
        self._new: set[str] = set()

    def find_refusal(self, server: str) -> NoCapacityError | None:
        """Return why a server would get no slot, `None` if it has one or may get one."""
        if server in self._directory.slots or server in self._new:
            return None
        if len(self._new) >= MAX_NEW_SHARE * self._directory.capacity:
            return NoCapacityError(f"the body has over {len(self._new)} new servers, more than there can be slots for")
        error = self._admission.find_refusal(server, self._wall, self._caller.covers_all(Scope.ADMIN))
        if error is None:
            self._new.add(server)
        return error
