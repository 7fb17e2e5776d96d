"""What has been made and must go again, in reverse order, on every way out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tpd_core.errors import TpdError

Action = Callable[[], Awaitable[object]]


class Undo:
    """A stack of clean-up actions.

    Args:
        warn: Told of actions that failed; the others still run.
        patience: Seconds that one action may take.
    """

    def __init__(self, warn: Callable[[str], None], patience: float = 40.0) -> None:
        self._warn = warn
        self._patience = patience
        self._actions: list[tuple[str, Action]] = []

    def push(self, what: str, action: Action) -> None:
        """Remember an action; `what` completes "could not ..."."""
        self._actions.append((what, action))

    def forget(self) -> None:
        """Somebody else takes over what was made."""
        self._actions.clear()

    async def run(self) -> None:
        """Run all actions once, the latest first; a failing one does not keep the others from running."""
        while self._actions:
            what, action = self._actions.pop()
            try:
                async with asyncio.timeout(self._patience):
                    await action()
            except TimeoutError:
                self._warn(f"could not {what} within {self._patience:.0f} s")
            except TpdError as error:
                self._warn(f"could not {what}: {error.message}")
