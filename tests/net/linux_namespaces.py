"""Network namespaces for tests: made and wired with `ip`, entered by the test's own thread."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*args: str) -> None:
    """Run `ip`; its words are in the error."""
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"ip {' '.join(args)}: {done.stderr}")


class Namespace:
    """A named network namespace with its loopback up."""

    def __init__(self, label: str) -> None:
        self.name = f"tpdt-{label}-{secrets.token_hex(3)}"
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *args: str) -> None:
        ip("-n", self.name, *args)

    def run(self, *argv: str) -> str:
        """Run a program inside and return its output."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *argv], capture_output=True, text=True, check=False, timeout=20
        )
        if done.returncode:
            raise AssertionError(f"{argv}: {done.stdout}{done.stderr}")
        return done.stdout

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets and nft tables made by this thread in the block belong to the namespace, for ever."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _setns(Path("/run/netns", self.name))
            try:
                yield
            finally:
                _setns_fd(own)
        finally:
            os.close(own)

    def delete(self) -> None:
        ip("netns", "del", self.name)


def connect(left: Namespace, left_address: str, right: Namespace, right_address: str) -> None:
    """Join two namespaces by a pair of interfaces called eth0; addresses are given as ADDRESS/PREFIX."""
    ip(
        *("link", "add", "eth0", "netns", left.name, "type", "veth"),
        *("peer", "name", "eth0", "netns", right.name),
    )
    for namespace, address in ((left, left_address), (right, right_address)):
        namespace.ip("addr", "add", address, "dev", "eth0")
        namespace.ip("link", "set", "eth0", "up")


def _setns(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        _setns_fd(fd)
    finally:
        os.close(fd)


def _setns_fd(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
