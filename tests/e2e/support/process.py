"""Commands that tests run: to the end, or followed while they run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class Followed:
    """A running process whose output lines can be waited for."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        user: str | None = None,
    ) -> None:
        self.argv = list(argv)
        self.process = subprocess.Popen(
            self.argv,
            cwd=cwd,
            env=dict(env) if env is not None else None,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            user=user,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def output(self) -> str:
        with self._changed:
            return "\n".join(self.lines)

    def expect(self, pattern: str, timeout: float = 90) -> re.Match[str]:
        """Wait for a line that matches; fail with the whole output when it does not come."""
        found = re.compile(pattern)
        seen = 0
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if match := found.search(line):
                        return match
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    break
                self._changed.wait(left)
        why = "the command ended" if self._ended else f"{timeout:.0f} s passed"
        raise AssertionError(f"{why} without {pattern!r}: {' '.join(self.argv)}\n{self.output}")

    def stop(self, how: signal.Signals = signal.SIGINT, timeout: float = 60) -> int:
        """Signal the process itself (not its group, as a terminal would do through tpd's pty) and return its status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.wait(timeout)

    def wait(self, timeout: float = 60) -> int:
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:.0f} s: {' '.join(self.argv)}\n{self.output}") from None
        self._reader.join(5)
        return status

    def __enter__(self) -> Followed:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._reader.join(10)
        if self.process.stdout is not None and not self._reader.is_alive():
            self.process.stdout.close()


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    timeout: float = 120,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    user: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to the end; a failure shows the command and all that it printed."""
    done = subprocess.run(
        list(argv),
        cwd=cwd,
        env=dict(env) if env is not None else None,
        input=input,
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
        user=user,
    )
    if check and done.returncode:
        raise AssertionError(f"exit {done.returncode}: {' '.join(argv)}\n{done.stdout}\n{done.stderr}")
    return done


def until(ask: Callable[[], T], wanted: Callable[[T], bool] = bool, *, timeout: float = 30, what: str = "") -> T:
    """Ask (a command, which takes its own time) until the answer is wanted, or fail with the last one."""
    deadline = time.monotonic() + timeout
    while True:
        answer = ask()
        if wanted(answer):
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {what or ask} (last: {answer!r})")
