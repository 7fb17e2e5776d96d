"""The queue of streams that want to write while the link is full."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from tpd_core.aio.stream import Sink, Turn

_ROUND: Final = 32  # turns before other events of the loop are looked at


class Turns:
    """Gives waiting streams one chunk each in turn, so that none starves behind another.

    Args:
        may_write: The link has room.
    """

    def __init__(self, may_write: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._may_write = may_write
        self._waiting: deque[Sink] = deque()
        self._soon = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, sink: Sink) -> None:
        """Call `sink.on_turn` when there is room."""
        self._waiting.append(sink)

    def clear(self) -> None:
        """The link is gone."""
        self._waiting.clear()

    def give(self) -> None:
        """There may be room."""
        waiting = self._waiting
        for _ in range(_ROUND):
            if not waiting or not self._may_write():
                return
            sink = waiting.popleft()
            turn = sink.on_turn()
            if turn is Turn.FULL:
                waiting.appendleft(sink)
                return
            if turn is Turn.AGAIN:
                waiting.append(sink)
        self.give_soon()

    def give_soon(self) -> None:
        """As `give`, after the other events of this turn of the loop."""
        if self._waiting and not self._soon:
            self._soon = True
            self._loop.call_soon(self._give_later)

    def _give_later(self) -> None:
        self._soon = False
        self.give()
