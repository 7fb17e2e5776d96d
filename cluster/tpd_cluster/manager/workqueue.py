"""Keys that need a look: each is looked at by one worker at a time, and once more if it changed meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from tpd_core.errors import TpdError

K = TypeVar("K", bound=Hashable)

FIRST_PAUSE: Final = 0.5
"""Seconds until a failed key is tried again; doubles with each failure."""
LONGEST_PAUSE: Final = 60.0

_log = logging.getLogger(__name__)


class WorkQueue(Generic[K]):
    """A set of keys with workers.

    Args:
        handle: Called with a key; returns seconds after which to look again by itself, or None.
        workers: How many keys at the same time.
    """

    def __init__(self, handle: Callable[[K], Awaitable[float | None]], *, workers: int = 8) -> None:
        self._handle = handle
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    def add(self, key: K) -> None:
        """Look at the key as soon as a worker is free."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_later(self, key: K, seconds: float) -> None:
        """Look at the key after a while; a later call replaces an earlier one."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._timers[key] = self._loop.call_later(max(seconds, 0.0), self._due, key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._busy.add(key)
            try:
                later = await self._handle(key)
            except TpdError as error:
                _log.warning("%s: %s", key, error.message)
                self._retry(key)
            except Exception:
                _log.exception("%s failed", key)
                self._retry(key)
            else:
                self._failures.pop(key, None)
                if later is not None:
                    self.add_later(key, later)
            finally:
                self._busy.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    def _retry(self, key: K) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        self.add_later(key, min(FIRST_PAUSE * 2 ** min(count - 1, 16), LONGEST_PAUSE))
