"""Small file systems of every kind, in loop mounts, for tests that fill them."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

MKFS: dict[str, tuple[str, ...]] = {
    "ext4-1k": ("mkfs.ext4", "-q", "-b", "1024"),
    "ext4-4k": ("mkfs.ext4", "-q", "-b", "4096"),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "tmpfs": (),
}
SIZE_BYTES = {"xfs": 304 * 2**20}


@dataclass
class Mount:
    """A mounted file system; `remount` drops its pages from the kernel's cache."""

    kind: str
    image: Path
    folder: Path

    def mount(self) -> None:
        options = ["-t", "tmpfs", "-o", "size=64m", "none"] if self.kind == "tmpfs" else ["-o", "loop", str(self.image)]
        ended = subprocess.run(["mount", *options, str(self.folder)], capture_output=True, text=True, check=False)
        if ended.returncode:
            pytest.skip(f"{self.kind} cannot be mounted here: {ended.stderr.strip()}")

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)

    def remount(self) -> None:
        if self.kind != "tmpfs":
            self.unmount()
            self.mount()

    @property
    def ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Use all free space."""
        fill(self.ballast)

    def free(self, size_bytes: int) -> None:
        """Free some of the space."""
        free(self.ballast, size_bytes)


@contextmanager
def mounted(kind: str, folder: Path) -> Iterator[Mount]:
    """Make and mount a file system of a kind; skips the test if this machine can't."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    mount = Mount(kind, folder / "image", folder / "mounted")
    mount.folder.mkdir()
    if command := MKFS[kind]:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        with mount.image.open("wb") as file:
            file.truncate(SIZE_BYTES.get(kind, 160 * 2**20))
        subprocess.run([*command, str(mount.image)], check=True, capture_output=True)
    mount.mount()
    try:
        yield mount
    finally:
        # Lazily, because a test may still hold views of a map, which keep the file system busy.
        subprocess.run(["umount", "--lazy", str(mount.folder)], check=True)


def fill(ballast: Path) -> None:
    """Let a file use all free space of its file system."""
    with ballast.open("ab", buffering=0) as file:
        for size in (2**24, 2**20, 4096, 1024, 512):
            while True:
                try:
                    end = file.seek(0, os.SEEK_END)
                    if size > 4096:
                        os.posix_fallocate(file.fileno(), end, size)
                    else:
                        file.write(b"x" * size)
                except OSError:
                    break
        os.fsync(file.fileno())


def free(ballast: Path, size_bytes: int) -> None:
    """Shorten the file that `fill` made by so many bytes."""
    os.truncate(ballast, max(0, ballast.stat().st_size - size_bytes))
    with ballast.open("rb") as file:
        ctypes.CDLL(None).syncfs(file.fileno())  # os.sync would wait for every disk of the machine
