"""The user's command with its own terminal, where a wish to end it reaches tpd first.

On a terminal the child gets a pseudo-terminal and tpd stands in between: Ctrl-C is held until the traffic has been
given back, then passed on as the key that it is. Without a terminal the child runs in a process group of its own, and
signals are held and passed on the same way. A second Ctrl-C or signal does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from tpd.run.signals import Signals
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import EngineError

BeforeEnd = Callable[[], Awaitable[None]]


class Child:
    """One child process.

    Args:
        argv: The command.
        environment: The whole environment.
        signals: Where wishes to end arrive.
        before_end: Awaited once, before the first wish to end the child is passed on.
        keys_end: Ctrl-C means the end also where the child has switched the terminal to raw mode (compose's menu);
            otherwise it then belongs to the program inside.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        signals: Signals,
        *,
        before_end: BeforeEnd,
        keys_end: bool,
    ) -> None:
        self._argv = list(argv)
        self._environment = dict(environment)
        self._signals = signals
        self._before_end = before_end
        self._keys_end = keys_end
        self._interrupted = False
        self._ending: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def run(self) -> int:
        """Run the child to its end; returns its exit status as a shell would (128 + signal).

        Raises:
            EngineError: It cannot be started.
        """
        try:
            if sys.platform == "win32":
                return await self._run_plainly()
            if sys.stdin.isatty() and sys.stdout.isatty():
                return await self._run_on_terminal()
            return await self._run_in_group()
        except FileNotFoundError as error:
            raise EngineError(f"the program {self._argv[0]!r} was not found on the PATH") from error
        finally:
            await cancel_and_wait(self._ending)

    async def _wait(self) -> int:
        assert self._process is not None
        status = await asyncio.to_thread(self._process.wait)
        if self._interrupted and self._keys_end and status != 0:
            # Compose answers Ctrl-C with 130, but panics on its way out every now and then (2.26.1).
            return 128 + signal.SIGINT
        return 128 - status if status < 0 else status

    def _end(self, pass_on: Callable[[], None]) -> None:
        """A wish to end: the first waits for `before_end`, a further one does not."""
        if self._ending is None:
            self._ending = spawn(self._end_in_order(pass_on), name="ending")
        else:
            pass_on()

    async def _end_in_order(self, pass_on: Callable[[], None]) -> None:
        try:
            await self._before_end()
        finally:
            pass_on()

    async def _run_plainly(self) -> int:
        self._start()
        return await self._wait()

    def _start(self, **settings: Any) -> None:
        self._process = subprocess.Popen(self._argv, env=self._environment, **settings)

    if sys.platform != "win32":

        async def _run_in_group(self) -> int:
            # Without a controlling terminal: in the background of one it would be stopped as it reads or sets it.
            self._start(start_new_session=True)
            # To the program alone: `docker` passes signals on to its plugin, which would get a second one otherwise.
            with self._signals.handled(lambda number: self._end(lambda: self._signal(os.kill, number))):
                return await self._wait()

        def _signal(self, send: Callable[[int, int], None], number: int) -> None:
            assert self._process is not None
            self._interrupted = self._interrupted or number == signal.SIGINT
            with contextlib.suppress(ProcessLookupError):
                send(self._process.pid, number)

        async def _run_on_terminal(self) -> int:
            from tpd.run.terminal import Terminal

            loop = asyncio.get_running_loop()
            terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno())

            def typed(data: bytes) -> None:
                if b"\x03" not in data or not (self._keys_end or terminal.interrupts()):
                    terminal.send(data)
                    return
                self._interrupted = True
                self._end(lambda: terminal.send(b"\x03"))
                terminal.send(data.replace(b"\x03", b""))

            with terminal, self._signals.handled(lambda number: self._end(lambda: self._signal(os.killpg, number))):
                self._start(
                    stdin=terminal.slave,
                    stdout=terminal.slave,
                    stderr=terminal.slave,
                    start_new_session=True,
                    preexec_fn=terminal.adopt,
                )
                terminal.started()
                loop.add_signal_handler(signal.SIGWINCH, terminal.resize)
                carried = spawn(terminal.carry(typed), name="terminal")
                try:
                    status = await self._wait()
                    with contextlib.suppress(TimeoutError, OSError):
                        await asyncio.wait_for(asyncio.shield(carried), 1.0)  # what the child wrote last
                    return status
                finally:
                    loop.remove_signal_handler(signal.SIGWINCH)
                    await cancel_and_wait(carried)
