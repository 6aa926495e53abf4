"""Versions that are warm for a change that others decide, and the digests by which nodes compare their files.

Holds what is prepared; `control.py` prepares it.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence

from streamd.repository.promotion import Promoter
from streamd.repository.seal import SealedVersion
from streamd.server.version_control.specs import Selection

CheckSelection = Callable[[Selection], None]
"""Raises `ReloadError` if the files of a selection are not those that are meant."""

WriteRecord = Callable[[Promoter], object]
"""Records a change in the repository."""


class PreparedVersion:
    """A version that is loaded and warm; unless `switch` is called, it is discarded."""

    def __init__(self, switch: Callable[[WriteRecord], Awaitable[None]]) -> None:
        self.is_used = False
        """Whether it was switched to."""
        self._switch = switch

    async def switch(self, write: WriteRecord) -> None:
        """Let it serve; a record that cannot be written is logged."""
        self.is_used = True
        await self._switch(write)


def digest_versions(versions: Sequence[SealedVersion]) -> str:
    """Return a digest of the float32 networks of versions that serve as one, 64 hexadecimal digits.

    Plans and graphs in lower precisions are left out: each machine may have its own.
    """
    digest = hashlib.sha256()
    for version in versions:
        graph = version.onnx.name
        for name in (graph, *sorted(version.data.get(graph, ()))):
            digest.update(f"{name}={version.sha256.get(name, '')}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()
