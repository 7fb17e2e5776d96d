"""From a run that ends to the watcher that stays."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from tpd.run.frame import Run
from tpd_core.errors import BugError

_PATIENCE = 30.0  # seconds


async def start_watcher(run: Run) -> None:
    """Start the watcher process and leave everything to it.

    Raises:
        BugError: It did not come up; everything is then undone.
    """
    directory = run.directory
    run.record.detached = True
    run.save()
    directory.release()
    process = await asyncio.to_thread(_start, str(directory.path), str(directory.log_file))
    try:
        async with asyncio.timeout(_PATIENCE):
            assert process.stdout is not None
            word = await asyncio.to_thread(process.stdout.readline)
    except TimeoutError:
        process.terminate()
        word = b""
    if word.strip() != b"ready":
        directory.take()
        log = directory.log_file.read_text(errors="replace").strip().splitlines()
        raise BugError(f"the watcher process did not start: {log[-1] if log else 'no reason given'}")
    run.undo.forget()
    run.report.note(f"the intercept stays; `tpd status` shows it, `tpd quit` ends it (watcher: process {process.pid})")


def _start(directory: str, log: str) -> subprocess.Popen[bytes]:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "tpd.run.watcher", directory],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=descriptor,
            start_new_session=sys.platform != "win32",
            cwd="/" if sys.platform != "win32" else None,
        )
    finally:
        os.close(descriptor)
