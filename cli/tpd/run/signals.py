"""Wishes to end, from the keyboard or from other programs, given to whoever is in charge just then."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Handler = Callable[[int], None]


class Signals:
    """A context manager inside a running loop: SIGINT, SIGTERM and SIGHUP no longer end the process by themselves.

    At first a signal cancels the task that entered the context. `received` is the first one that came.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handler: Handler = lambda number: None
        self._numbers = [signal.SIGINT, signal.SIGTERM]
        if sys.platform != "win32":
            self._numbers += [signal.SIGHUP, signal.SIGQUIT]

    def __enter__(self) -> Signals:
        task = asyncio.current_task()
        assert task is not None

        def cancel(number: int) -> None:
            task.cancel()

        self._handler = cancel
        if sys.platform != "win32":
            loop = asyncio.get_running_loop()
            for number in self._numbers:
                loop.add_signal_handler(number, self._arrived, number)
        return self

    def __exit__(self, *_: object) -> None:
        if sys.platform != "win32":
            loop = asyncio.get_running_loop()
            for number in self._numbers:
                loop.remove_signal_handler(number)

    @contextmanager
    def handled(self, handler: Handler) -> Iterator[None]:
        """Give signals to `handler` meanwhile."""
        before, self._handler = self._handler, handler
        try:
            yield
        finally:
            self._handler = before

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Let nothing interrupt a clean-up."""
        with self.handled(lambda number: None):
            yield

    def _arrived(self, number: int) -> None:
        if self.received is None:
            self.received = number
        self._handler(number)
