"""Running other programs without their output in the user's way."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from tpd.control.bridge import end_process
from tpd_core.errors import EngineError, UserError


async def output(argv: Sequence[str], what: str, *, stdin: int | None = asyncio.subprocess.DEVNULL) -> str:
    """What a program writes to stdout.

    Args:
        what: Completes "docker cannot ..." for the error.
        stdin: As for subprocess; None shares ours.

    Raises:
        UserError: It failed; with the last line of its stderr.
        EngineError: It is not installed.
    """
    out, words, status = await _run(argv, stdin=stdin, stderr=asyncio.subprocess.PIPE)
    if status != 0:
        raise UserError(f"docker cannot {what}: {_last(words, status)}")
    return out


async def quietly(argv: Sequence[str], what: str) -> None:
    """Run a program whose output matters only where it fails.

    Raises:
        EngineError: It failed (with the last line of its output), or is not installed.
    """
    out, _, status = await _run(argv, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.STDOUT)
    if status != 0:
        raise EngineError(f"docker could not {what}: {_last(out, status)}")


async def _run(argv: Sequence[str], **streams: Any) -> tuple[str, str, int]:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=sys.platform != "win32",  # the terminal's Ctrl-C is not for it
            **streams,
        )
    except FileNotFoundError as error:
        raise EngineError(
            f"the program {argv[0]!r} was not found on the PATH",
            hint="Install the Docker command line with its compose plugin.",
        ) from error
    try:
        out, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            end_process(process)
            await process.wait()
    return out.decode(errors="replace"), (complaint or b"").decode(errors="replace"), process.returncode or 0


def _last(text: str, status: int) -> str:
    """The line that tells most: the last that speaks of an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line and not line.startswith("goroutine")]
    return (telling or lines or [f"exit status {status}"])[-1]
