"""Keeps a child process to one volume, as far as an unprivileged kernel interface allows.

Landlock (Linux 5.13) restricts which files the process may open, whatever its user may do. Where the kernel or the
container runtime's seccomp profile lacks it, the child is held by its user alone: it sees the agent's own image, in
which nothing is secret, and the other volumes that the agent mounts, as far as the app's user may read them.
Whatever the kernel, the child has no capability and can gain none.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from typing import Final

# linux/landlock.h; system calls since 2021 have the same numbers on all machines
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_RIGHTS_OF_VERSION: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_SIGKILL: Final = 9
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_HEADER: Final = struct.pack("=Ii", 0x20080522, 0)

_PROGRAM_PATHS: Final = ("/usr", "/lib", "/lib64", "/etc")
"""What a program needs to start: itself, its libraries, the names of users."""

_libc = ctypes.CDLL(None, use_errno=True)


class Confinement:
    """A Landlock ruleset for one directory; hand `apply` to the child as its last act before exec.

    Args:
        directory: The only place that may be written to, and whose files may be read.
        read_only: It may not be written to either.
    """

    def __init__(self, directory: str, *, read_only: bool) -> None:
        self.landlock = False
        self._ruleset = -1
        version = _libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
        if version < 1:
            return
        rights = _RIGHTS_OF_VERSION[min(version, 3)]
        self._ruleset = _call(_CREATE_RULESET, struct.pack("=Q", rights), 8, 0)
        try:
            reading = _READ_FILE | _READ_DIR
            self._allow(directory, reading if read_only else rights & ~_EXECUTE)
            for path in _PROGRAM_PATHS:
                with contextlib.suppress(FileNotFoundError):
                    self._allow(path, reading | _EXECUTE)
            self._allow("/dev/null", _READ_FILE | _WRITE_FILE)
        except BaseException:
            self.close()
            raise
        self.landlock = True

    def apply(self) -> None:
        """Restrict the calling process for good; called in the child after it has become the app's user.

        Raises:
            OSError: The kernel refused.
        """
        _check(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0))
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        number = _CAPSET.get(os.uname().machine)
        if number is not None:
            _call(number, _CAPABILITY_HEADER, bytes(24))
        if self.landlock:
            _call(_RESTRICT_SELF, self._ruleset, 0)

    def close(self) -> None:
        """Forget the ruleset; the child keeps it."""
        if self._ruleset >= 0:
            os.close(self._ruleset)
            self._ruleset = -1

    def _allow(self, path: str, rights: int) -> None:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            _call(_ADD_RULE, self._ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
        finally:
            os.close(descriptor)


def _call(number: int, *arguments: int | bytes) -> int:
    return _check(_libc.syscall(number, *arguments))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno() or errno.EINVAL
        raise OSError(code, os.strerror(code))
    return result
