"""The only place that starts bare tasks; everywhere else a TaskGroup owns them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)
_running: set[asyncio.Task[Any]] = set()
"""The loop itself keeps only weak references to tasks."""


def spawn(
    coro: Coroutine[Any, Any, T],
    *,
    name: str,
    on_error: Callable[[BaseException], None] | None = None,
) -> asyncio.Task[T]:
    """Start a task that outlives its caller.

    Args:
        coro: What to run.
        name: Shown in logs and debuggers.
        on_error: Called with the exception that ended the task; without it the exception is logged. Cancellation is
            no error.
    """
    task = asyncio.create_task(coro, name=name)  # noqa: TID251 - this is the helper that the ban points to
    _running.add(task)

    def finished(done: asyncio.Task[T]) -> None:
        _running.discard(done)
        if done.cancelled() or (error := done.exception()) is None:
            return
        if on_error is not None:
            on_error(error)
        else:
            _log.error("task %s failed", name, exc_info=error)

    task.add_done_callback(finished)
    return task


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel the tasks and return when all have ended; their own exceptions were reported by `spawn`."""
    waiting = [task for task in tasks if task is not None and not task.done()]
    for task in waiting:
        task.cancel()
    if waiting:
        await asyncio.wait(waiting)
