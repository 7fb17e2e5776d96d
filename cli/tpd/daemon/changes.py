"""One bell for everything that the daemon's state is made of: whoever waits looks anew when it rings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Changes:
    """Rings on every change; several changes in one turn of the loop are one ring."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """Something changed."""
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()

    def wait(self) -> Coroutine[Any, Any, object]:
        """Until the next change after this call, even if it comes before the result is awaited."""
        return self._bell.wait()

    async def until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `condition` holds; False when it does not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await self.wait()
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
