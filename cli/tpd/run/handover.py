"""From a run that ends to the watcher that stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from types import TracebackType
from typing import Self

from tpd.run.frame import Run
from tpd_core.errors import BugError

_PATIENCE = 30.0  # seconds


class Watcher:
    """The watcher process of a run, started early so that it is ready to take over when it is needed.

    An async context manager: a watcher that did not take over by the end of the context is ended.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        directory = self._run.directory
        self._process = await asyncio.to_thread(_start, str(directory.path), str(directory.log_file))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            _end(self._process)

    async def take_over(self) -> None:
        """Leave the run to the watcher.

        Raises:
            BugError: It cannot; the run is still this process's.
        """
        run, process = self._run, self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        if run.attacher is not None:
            await run.attacher.hand_over()
        run.record.detached = True
        run.save()
        run.directory.release()
        word = b""
        with contextlib.suppress(OSError, TimeoutError):
            process.stdin.write(b"go\n")
            process.stdin.flush()
            async with asyncio.timeout(_PATIENCE):
                word = await asyncio.to_thread(process.stdout.readline)
        if word.strip() != b"ready":
            _end(process)
            run.directory.take()
            log = run.directory.log_file.read_text(errors="replace").strip().splitlines()
            raise BugError(f"the watcher process did not take over: {log[-1] if log else 'no reason given'}")
        self._process = None
        run.undo.forget()
        run.report.note(f"this stays: `tpd status` shows it, `tpd quit` ends it (watcher: process {process.pid})")


def _start(directory: str, log: str) -> subprocess.Popen[bytes]:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "tpd.run.watcher", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=descriptor,
            start_new_session=sys.platform != "win32",
            cwd="/" if sys.platform != "win32" else None,
        )
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
