"""Calls of btrfs, whose files are copied when they are written: each write needs new space, unless a file opts out."""

import contextlib
import fcntl
from array import array

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_NOCOW_FL = 0x80086601, 0x40086602, 0x00800000
"""The calls that read and set a file's attributes, and the one that `chattr +C` sets; numbers of 64-bit Linux."""

BTRFS_IOC_FS_INFO = 0x8400941F
"""A call that only btrfs answers."""


def is_btrfs(fd: int) -> bool:
    """Whether a file is on btrfs: no other file system answers this call."""
    try:
        fcntl.ioctl(fd, BTRFS_IOC_FS_INFO, bytearray(1024))
    except OSError:
        return False
    return True


def switch_off_copies(fd: int) -> None:
    """Let an empty file be written in place, if its file system copies what is written."""
    flags = array("l", [0])  # the kernel reads and writes an int of it
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
        flags[0] |= FS_NOCOW_FL
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags)
