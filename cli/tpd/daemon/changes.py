"""One bell for everything that the daemon's state is made of: whoever waits looks anew when it rings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """Rings on every change; several changes in one turn of the loop are one ring.

    Attributes:
        bell: Set by the next change; every change has its own. Who takes it before looking misses nothing.
    """

    def __init__(self) -> None:
        self.bell = asyncio.Event()

    def ring(self) -> None:
        """Something changed."""
        bell, self.bell = self.bell, asyncio.Event()
        bell.set()

    async def until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `condition` holds; False when it does not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await self.bell.wait()
        except TimeoutError:
            return condition()
        return True


class Backoff:
    """Seconds to wait before the next try: doubled by every failure, back to the start by success."""

    def __init__(self, first: float = 0.1, most: float = 5.0) -> None:
        self._first, self._most = first, most
        self._next = first

    def next(self) -> float:
        """How long to wait now."""
        result, self._next = self._next, min(self._next * 2, self._most)
        return result

    def reset(self) -> None:
        """It worked."""
        self._next = self._first
