"""The tokens file as a whole: read, and replaced under a lock, so that a reader never sees half of it."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from streamd.core.access.records import TokenRecord, encode_tokens_file, parse_tokens_file
from streamd.regular_files import read_regular
from streamd.tools.tokens.errors import TokenCommandError

NEW_FILE_MODE = 0o600

KEPT_MODE = 0o640
"""The bits that a replaced file may keep: a group may read it, such as the one of the daemon's user."""

Records = Sequence[TokenRecord]


class TokenStore:
    """The tokens in one file; a link is followed, and stays a link."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))

    def read(self) -> Records:
        """Return the records. Raises `TokenCommandError` if the file cannot be read, `ConfigError` if it is wrong."""
        try:
            content = read_regular(self.path)
        except OSError as exc:
            raise TokenCommandError(f"{self.path}: cannot be read: {exc.strerror or exc}") from exc
        return parse_tokens_file(content, str(self.path))

    def edit(self, change: Callable[[Records], Records], *, may_create: bool = False) -> None:
        """Replace the records by those that `change` returns, durably; a second edit waits until this one is done.

        With `may_create` a missing file counts as one without tokens. Raises as `read` does, and what `change` raises;
        the file is then as it was.
        """
        try:
            with self._locked():
                is_new = may_create and not self.path.exists()
                records = change(() if is_new else self.read())
                content = encode_tokens_file(records)
                parse_tokens_file(content, str(self.path))  # the daemon must be able to read what is written
                self._replace(content)
        except OSError as exc:
            raise TokenCommandError(f"{self.path}: cannot be written: {exc.strerror or exc}") from exc

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The folder is locked, since the file itself is replaced, and a file for the lock alone would stay behind.
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
            os.fsync(folder)
        finally:
            os.close(folder)

    def _replace(self, content: bytes) -> None:
        descriptor, scratch = tempfile.mkstemp(prefix=f".{self.path.name}-", dir=self.path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                self._copy_owner(descriptor)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.replace(scratch, self.path)
        except BaseException:
            with suppress(OSError):
                os.unlink(scratch)
            raise

    def _copy_owner(self, descriptor: int) -> None:
        """Give the new file the owner and the mode of the one that it replaces, without rights for others.

        The first file gets the owner of its folder: root makes it in the folder of the daemon's user, who must read it.
        """
        made = os.fstat(descriptor)
        try:
            model = self.path.stat()
            mode = stat.S_IMODE(model.st_mode) & KEPT_MODE
        except FileNotFoundError:
            model = self.path.parent.stat() if os.geteuid() == 0 else made
            mode = NEW_FILE_MODE
        if (model.st_uid, model.st_gid) != (made.st_uid, made.st_gid):
            os.fchown(descriptor, model.st_uid, model.st_gid)  # fails rather than take the file from the daemon's user
        os.fchmod(descriptor, mode)
