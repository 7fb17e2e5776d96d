"""A pseudo-terminal between the user's terminal and a child."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    import asyncio
    import contextlib
    import errno
    import fcntl
    import os
    import pty
    import termios
    import tty
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    _CHUNK = 64 * 1024

    class Terminal:
        """A context manager: raw mode on the outside, a terminal of the same size and settings on the inside.

        Args:
            stdin: The user's terminal, to read keys from.
            stdout: The user's terminal, to write to.

        Attributes:
            slave: The child's side; -1 once it was handed over.
        """

        def __init__(self, stdin: int, stdout: int) -> None:
            self._stdin = stdin
            self._stdout = stdout
            self._saved = termios.tcgetattr(stdin)
            self._master, self.slave = pty.openpty()

        def __enter__(self) -> Self:
            termios.tcsetattr(self.slave, termios.TCSANOW, self._saved)
            self.resize()
            os.set_blocking(self._master, False)
            tty.setraw(self._stdin, termios.TCSADRAIN)
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._saved)
            self.started()
            os.close(self._master)

        def adopt(self) -> None:
            """In the child: make the inside its controlling terminal."""
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        def started(self) -> None:
            """The child has its copy of the inside."""
            if self.slave >= 0:
                os.close(self.slave)
                self.slave = -1

        def resize(self) -> None:
            """Give the inside the outside's size; the kernel tells the child."""
            with contextlib.suppress(OSError):
                size = fcntl.ioctl(self._stdin, termios.TIOCGWINSZ, b"\0" * 8)
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

        def interrupts(self) -> bool:
            """Whether Ctrl-C on the inside raises SIGINT, as opposed to being read as a key."""
            try:
                return bool(termios.tcgetattr(self._master)[3] & termios.ISIG)
            except termios.error:
                return False

        def send(self, data: bytes) -> None:
            """Type on the inside."""
            with contextlib.suppress(OSError):
                os.write(self._master, data)

        def _show(self, data: bytes) -> None:
            while data:
                try:
                    data = data[os.write(self._stdout, data) :]
                except BlockingIOError:
                    continue
                except OSError:  # the user's terminal is gone; SIGHUP says the rest
                    return

        async def carry(self, typed: Callable[[bytes], None]) -> None:
            """Copy what the child writes to the outside until it is gone; keys go to `typed`."""
            loop = asyncio.get_running_loop()
            gone = asyncio.Event()

            def key() -> None:
                try:
                    data = os.read(self._stdin, _CHUNK)
                except BlockingIOError:
                    return
                except OSError:
                    data = b""
                if data:
                    typed(data)
                else:
                    loop.remove_reader(self._stdin)

            def written() -> None:
                try:
                    data = os.read(self._master, _CHUNK)
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno != errno.EIO:  # the last holder of the inside is gone
                        raise
                    data = b""
                if not data:
                    loop.remove_reader(self._master)
                    gone.set()
                    return
                self._show(data)

            loop.add_reader(self._stdin, key)
            loop.add_reader(self._master, written)
            try:
                await gone.wait()
            finally:
                loop.remove_reader(self._stdin)
                loop.remove_reader(self._master)
