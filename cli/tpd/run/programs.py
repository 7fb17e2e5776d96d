"""Running other programs without their output in the user's way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from tpd_core.errors import EngineError, UserError

_DEVNULL = asyncio.subprocess.DEVNULL


class Program:
    """A program that runs in the background; an async context manager that ends it.

    Args:
        process: Started by `begin`.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def begin(
        cls, argv: Sequence[str], *, stdin: int | None = _DEVNULL, stderr: int = asyncio.subprocess.PIPE
    ) -> Program:
        """Start a program.

        Args:
            argv: The command.
            stdin: As for subprocess; None shares ours.
            stderr: As for subprocess.

        Raises:
            EngineError: It is not installed.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=sys.platform != "win32",  # the terminal's Ctrl-C is not for it
            )
        except FileNotFoundError as error:
            raise EngineError(
                f"the program {argv[0]!r} was not found on the PATH",
                hint="Install the Docker command line with its compose plugin.",
            ) from error
        return cls(process)

    async def __aenter__(self) -> Program:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            end_process(self._process)
            await self._process.wait()

    async def finish(self) -> tuple[int, str, str]:
        """Exit status, stdout and stderr, once it has ended."""
        out, complaint = await self._process.communicate()
        status = self._process.returncode or 0
        return status, out.decode(errors="replace"), (complaint or b"").decode(errors="replace")

    async def output(self, what: str) -> str:
        """What it writes to stdout.

        Args:
            what: Completes "docker cannot ..." for the error.

        Raises:
            UserError: It failed; with the line of its stderr that tells most.
        """
        status, out, words = await self.finish()
        if status != 0:
            raise UserError(f"docker cannot {what}: {_telling(words, status)}")
        return out


async def quietly(argv: Sequence[str], what: str) -> None:
    """Run a program whose output matters only where it fails.

    Args:
        argv: The command.
        what: Completes "docker could not ..." for the error.

    Raises:
        EngineError: It failed, or is not installed.
    """
    async with await Program.begin(argv, stderr=asyncio.subprocess.STDOUT) as program:
        status, out, _ = await program.finish()
    if status != 0:
        raise EngineError(f"docker could not {what}: {_telling(out, status)}")


def end_process(process: asyncio.subprocess.Process) -> None:
    """Kill a process that may have ended already.

    Not by `Process.kill`, which reaps a process that has just ended and so leaves asyncio without its exit status.
    """
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        elif process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)


def _telling(text: str, status: int) -> str:
    """The line that tells most: the last that speaks of an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line and not line.startswith("goroutine")]
    return (telling or lines or [f"exit status {status}"])[-1]
