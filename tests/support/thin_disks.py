"""A file system on a disk that can refuse writes for a while, as a thin-provisioned one does that has no space left."""

import ctypes
import fcntl
import os
import subprocess
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.loop_mounts import fill

BLOCK_BYTES = 4096
FIBMAP = 1
"""The call that returns the block of the disk in which a block of a file lies."""

PUNCH_HOLE_KEEP_SIZE = 3

IN_PLACE = "^has_journal"
"""Features of an ext4 without a journal: its blocks must not be those that are refused."""

WITHOUT_EXTENTS = "^has_journal,^extent,^64bit"
"""Features of an ext4 on which a new block that was refused can be written again."""


class ThinDisk:
    """An ext4 in `folder`; its disk is a sparse file on a tmpfs."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.folder = folder
        self._image = image
        self._ballast = image.with_name("ballast")

    def refuse_writes(self, path: Path) -> None:
        """Refuse writes to a file from now on: take the space of its blocks, and leave none for them."""
        libc = ctypes.CDLL(None, use_errno=True)
        with self._image.open("r+b") as image:
            for block in self._list_blocks(path):
                offset, size = ctypes.c_int64(block * BLOCK_BYTES), ctypes.c_int64(BLOCK_BYTES)
                assert libc.fallocate(image.fileno(), PUNCH_HOLE_KEEP_SIZE, offset, size) == 0, ctypes.get_errno()
        fill(self._ballast)

    def permit_writes(self) -> None:
        """Give the disk space again."""
        self._ballast.unlink()

    def read(self, path: Path) -> bytes:
        """Return a file's content as it is on the disk, in blocks; empty blocks are zeros."""
        with self._image.open("rb") as image:
            return b"".join(
                os.pread(image.fileno(), BLOCK_BYTES, block * BLOCK_BYTES) if block else bytes(BLOCK_BYTES)
                for block in self._list_blocks(path, with_holes=True)
            )

    def _list_blocks(self, path: Path, *, with_holes: bool = False) -> list[int]:
        blocks = []
        with path.open("rb") as file:
            for number in range(-(-os.fstat(file.fileno()).st_size // BLOCK_BYTES)):
                place = array("i", [number])
                fcntl.ioctl(file, FIBMAP, place)
                if place[0] or with_holes:
                    blocks.append(place[0])
        return blocks


@contextmanager
def thin_disk(folder: Path, features: str = IN_PLACE) -> Iterator[ThinDisk]:
    """Make and mount a thin disk; skips the test if this machine can't."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    backing, mounted = folder / "backing", folder / "thin"
    for path in (backing, mounted):
        path.mkdir()
    image = backing / "image"
    make = ("mkfs.ext4", "-q", "-O", features, "-b", str(BLOCK_BYTES), str(image))
    try:
        _mount("-t", "tmpfs", "-o", "size=24m", "none", str(backing))
        image.touch()
        os.truncate(image, 48 * 2**20)
        subprocess.run(make, check=True, capture_output=True)
        _mount("-o", "loop,errors=continue", str(image), str(mounted))
        yield ThinDisk(image, mounted)
    finally:
        for path in (mounted, backing):  # lazily: a test may still hold views of a map
            subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)


def _mount(*arguments: str) -> None:
    ended = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"a thin disk cannot be mounted here: {ended.stderr.strip()}")
