"""Signs of life: asks a silent peer for one, and says when the silence has lasted too long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from tpd_core.wire.frames import NUMBER

_HELD_UP: Final = 0.1  # seconds that a timer may be late


class Pulse:
    """One timer per link, nothing per stream.

    Args:
        keepalive: Seconds of silence after which the peer is asked.
        dead_after: Seconds of silence after which it counts as dead.
        ping: Sends a PING with these 8 bytes.
        on_silence: Called once when the peer is dead; the pulse has stopped then.

    Attributes:
        heard: `loop.time()` of the last byte from the peer; the owner sets it.
        rtt: Last round trip in seconds, None before the first.
    """

    def __init__(
        self, keepalive: float, dead_after: float, *, ping: Callable[[bytes], None], on_silence: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._keepalive, self._dead_after = keepalive, dead_after
        self._ping, self._on_silence = ping, on_silence
        self.heard = self._pinged = self._loop.time()
        self.rtt: float | None = None
        self._count = 0
        self._sent = 0.0  # by a finer clock than uvloop's, which counts milliseconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """A connection is there."""
        self.heard = self._loop.time()
        self._ask()
        self._tick(self.heard)

    def stop(self) -> None:
        """It is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_pong(self, payload: bytes | memoryview) -> None:
        """The peer answered; only the answer to the latest question counts."""
        if NUMBER.unpack(payload)[0] == self._count:
            self.rtt = time.perf_counter() - self._sent

    def _ask(self) -> None:
        self._count += 1
        self._pinged = self._loop.time()
        self._sent = time.perf_counter()
        self._ping(NUMBER.pack(self._count))

    def _tick(self, due: float) -> None:
        now = self._loop.time()
        if now - due > _HELD_UP:
            # This process stood still, so it heard nothing whatever the peer did: that time does not count.
            self.heard = min(now, self.heard + now - due)
        if now - self.heard >= self._dead_after:
            self.stop()
            self._on_silence()
            return
        if now - max(self.heard, self._pinged) >= self._keepalive:
            self._ask()
        due = min(self.heard + self._dead_after, max(self.heard, self._pinged) + self._keepalive)
        self._timer = self._loop.call_at(due, self._tick, due)
