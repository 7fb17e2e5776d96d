"""Running programs, waiting for conditions and telling what went wrong."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

LOG_TAIL = 25
POLL_SECONDS = 0.05


class LabError(Exception):
    """The lab cannot go on; `hint` says what the user can do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def run(
    *args: str | Path,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> None:
    """Run a program to its end; its output goes to `log`, or is kept for the error message.

    Args:
        args: the program and its arguments.
        stdin: bytes for its standard input; nothing otherwise.
        env: variables to add to this process's environment.
        cwd: directory to run in.
        log: file that the output is appended to.

    Raises:
        LabError: the program is missing or failed; the message ends with its last lines.
    """
    if log is None:
        _finish(args, _start(args, stdin, env, cwd, subprocess.PIPE))
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        done = _start(args, stdin, env, cwd, file)
    if done.returncode:
        lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
        raise LabError(f"failed ({done.returncode}): {_show(args)}\n" + "\n".join(lines), f"all of it is in {log}")


def output(*args: str | Path, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program and return its standard output without the final newline; raises LabError as `run`."""
    return (
        _finish(args, _start(args, stdin, env, None, subprocess.PIPE, split=True)).decode(errors="replace").rstrip("\n")
    )


def succeeds(*args: str | Path, env: Mapping[str, str] | None = None) -> bool:
    """Tell whether a program exists and ends with status 0; its output is dropped."""
    try:
        return _start(args, None, env, None, subprocess.DEVNULL).returncode == 0
    except LabError:
        return False


def wait_until(check: Callable[[], bool], what: str, seconds: float) -> None:
    """Return as soon as `check` holds.

    Raises:
        LabError: it did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)


def _start(
    args: Sequence[str | Path],
    stdin: bytes | None,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    sink: int | IO[bytes],
    *,
    split: bool = False,
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            [str(arg) for arg in args],
            input=stdin if stdin is not None else b"",
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdout=sink,
            stderr=subprocess.PIPE if split else subprocess.STDOUT,
            check=False,
        )
    except FileNotFoundError:
        raise LabError(f"no program `{args[0]}`") from None


def _finish(args: Sequence[str | Path], done: subprocess.CompletedProcess[bytes]) -> bytes:
    if done.returncode:
        said = (done.stderr or done.stdout or b"").decode(errors="replace").strip().splitlines()[-LOG_TAIL:]
        raise LabError(f"failed ({done.returncode}): {_show(args)}\n" + "\n".join(said))
    return done.stdout


def _show(args: Sequence[str | Path]) -> str:
    line = " ".join(str(arg) for arg in args)
    return line if len(line) < 300 else line[:300] + " ..."
