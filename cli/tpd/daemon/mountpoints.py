"""What is mounted below a directory, and how to take it away."""

from __future__ import annotations

import ctypes
import os
import re
import select
import time
from pathlib import Path
from typing import Final

_MOUNTINFO: Final = "/proc/self/mountinfo"
_MNT_DETACH: Final = 2  # linux/fs.h
_UMOUNT_NOFOLLOW: Final = 8
_TYPE: Final = "fuse.tpd"  # by sshfs's option `subtype`
_MOUNT_POINT: Final = 4  # field of a mountinfo line
_libc = ctypes.CDLL(None, use_errno=True)


def mounted_below(root: str) -> list[str]:
    """Mount points strictly below `root`, the deepest first."""
    prefix = root.rstrip("/") + "/"
    found = [_unescape(line.split()[_MOUNT_POINT]) for line in Path(_MOUNTINFO).read_text().splitlines()]
    return sorted((path for path in found if path.startswith(prefix)), key=len, reverse=True)


def is_mounted(path: str) -> bool:
    """Something is mounted exactly there."""
    return path in mounted_below(os.path.dirname(path))  # noqa: PTH120 - a dead mount must not be touched


def wait_mounted(path: str, timeout: float) -> bool:
    """Block until something is mounted at `path`; False if nothing is within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with open(_MOUNTINFO, "rb") as table:  # noqa: PTH123
        poll = select.poll()
        poll.register(table, select.POLLERR | select.POLLPRI)  # the kernel's sign that the table changed
        while not is_mounted(path):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
    return True


def unmount(path: str) -> None:
    """Take a mount away at once; who has files open in it keeps them. Nothing happens where nothing is mounted.

    Raises:
        OSError: The kernel refused; CAP_SYS_ADMIN is missing.
    """
    while is_mounted(path):
        if _libc.umount2(os.fsencode(path), _MNT_DETACH):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)


def mounts_of_tpd(process: int) -> list[str]:
    """Mount points of volumes, the latest first, as a process sees them.

    Args:
        process: A descriptor of its directory in /proc.
    """
    table = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    with open(table, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        lines = [line.partition(" - ") for line in file]
    return [_unescape(left.split()[_MOUNT_POINT]) for left, _, right in reversed(lines) if right.split()[0] == _TYPE]


def detach(path: str) -> None:
    """Take away what was mounted last at a path, dead or alive; who has files open in it keeps them.

    Raises:
        OSError: Nothing is mounted there, or CAP_SYS_ADMIN is missing.
    """
    if _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)


def clean(root: str) -> list[str]:
    """Unmount everything below `root`, what an earlier daemon left behind for one; the paths."""
    stale = mounted_below(root)
    for path in stale:
        unmount(path)
    return stale


def _unescape(text: str) -> str:
    """Mountinfo writes blanks and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
