"""Two sockets tied together: what the router does with links that it does not open."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

_LINGER_ZERO = b"\1\0\0\0\0\0\0\0"  # struct linger: close sends RST
_BUFFER = 128 << 10
_scratch = memoryview(bytearray(_BUFFER))
"""Every relay reads into this and copies only what its target does not take at once. One loop a process."""


@dataclass(frozen=True, slots=True)
class RelayResult:
    """Bytes carried from the first socket to the second and back, and whether a reset ended it."""

    forward: int
    backward: int
    reset: bool


async def relay(a: socket.socket, b: socket.socket, *, head: bytes = b"") -> RelayResult:
    """Carry bytes between two connected, non-blocking stream sockets until both directions are finished.

    Half-closes are passed on; a reset of one resets the other. Each direction holds at most 128 KiB. Both sockets are
    closed in the end; cancelling resets both.

    Args:
        a: First socket.
        b: Second socket.
        head: Bytes that were read from `a` already: they go to `b` first.
    """
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def finished() -> None:
        if forward.finished and backward.finished and not done.done():
            done.set_result(False)

    def failed() -> None:
        if not done.done():
            done.set_result(True)

    for sock in (a, b):
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    forward = _Direction(a, b, finished, failed)
    backward = _Direction(b, a, finished, failed)
    reset = True
    try:
        forward.start(head)
        backward.start(b"")
        reset = await done
    finally:
        forward.stop()
        backward.stop()
        for sock in (a, b):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            sock.close()
    return RelayResult(forward.carried, backward.carried, reset)


class _Direction:
    """One direction: either reads or, while the target is full, writes; never both."""

    __slots__ = ("_failed", "_finished", "_left", "_loop", "_source", "_target", "carried", "finished")

    def __init__(
        self, source: socket.socket, target: socket.socket, finished: Callable[[], None], failed: Callable[[], None]
    ) -> None:
        self._source, self._target = source, target
        self._finished, self._failed = finished, failed
        self._loop = asyncio.get_running_loop()
        self._left = memoryview(b"")
        self.carried = 0
        self.finished = False

    def start(self, head: bytes) -> None:
        self._left = memoryview(head)
        if head:
            self._loop.add_writer(self._target, self._writable)
        else:
            self._loop.add_reader(self._source, self._readable)

    def stop(self) -> None:
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)

    def _readable(self) -> None:
        try:
            size = self._source.recv_into(_scratch)
            if not size:
                self._loop.remove_reader(self._source)
                self._target.shutdown(socket.SHUT_WR)
                self.finished = True
                self._finished()
                return
            self._left = _scratch[:size]
            self._send()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._failed()
        if self._left:
            self._left = memoryview(bytes(self._left))
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._target, self._writable)

    def _writable(self) -> None:
        try:
            self._send()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._failed()
            return
        if not self._left:
            self._loop.remove_writer(self._target)
            self._loop.add_reader(self._source, self._readable)

    def _send(self) -> None:
        sent = self._target.send(self._left)
        self.carried += sent
        self._left = self._left[sent:]
