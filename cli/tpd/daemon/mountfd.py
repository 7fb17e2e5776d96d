"""Mounts as descriptors: cloned in one mount namespace, attached in another (Linux 5.2; read-only clones 5.12).

Nothing but the standard library, so that the helper starts at once.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

# linux/mount.h; system calls since 2019 have the same numbers on all machines
_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_MOUNT_SETATTR: Final = 442
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOUNT_ATTR_RDONLY: Final = 1
_CLONE_NEWNS: Final = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def clone_mount(path: str, *, read_only: bool) -> int:
    """A descriptor of a mount of its own that shows what `path` shows, a directory or a file; attached nowhere yet.

    Raises:
        OSError: There is no such path, or CAP_SYS_ADMIN is missing.
    """
    descriptor = _call(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    if read_only:
        attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
        try:
            _call(_MOUNT_SETATTR, descriptor, b"", _AT_EMPTY_PATH, attributes, len(attributes))
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def attach_mount(descriptor: int, path: str) -> None:
    """Attach a cloned mount at an existing path of this process's mount namespace.

    Raises:
        OSError: There is no such path, it is of the other kind, or CAP_SYS_ADMIN is missing.
    """
    _call(_MOVE_MOUNT, descriptor, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)


def enter_mounts_of(pid: int) -> None:
    """Move this process into another one's mount namespace; it must have a single thread.

    Raises:
        OSError: CAP_SYS_ADMIN or CAP_SYS_CHROOT is missing, or CAP_SYS_PTRACE for a process of another user.
    """
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(namespace, _CLONE_NEWNS):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), f"/proc/{pid}/ns/mnt")
    finally:
        os.close(namespace)


def _call(number: int, *arguments: int | bytes) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
