"""What a command says while it works: short lines on stderr, or one JSON object a line."""

from __future__ import annotations

import contextlib
import enum
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from tpd_core.errors import TpdError


class Format(enum.StrEnum):
    """How a command reports."""

    TEXT = "text"
    JSON = "json"


class Reporter:
    """Progress on stderr.

    In JSON every report is one object a line: {"event": NAME, "time": Unix seconds, ...}. The events of a run are
    "step" (name, seconds), "note" (message), "warning" (message), "intercepting" (workload, namespace, container,
    transport, ports, pods, names of the environment, volumes), "ended" (exit_code) and "error" (category, message,
    hint, exit_code).

    Args:
        style: Text or JSON.
        stream: Where to; None takes stderr.
        quiet: Leave out steps and notes.
    """

    def __init__(self, style: Format = Format.TEXT, *, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.style = style
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._live = self._stream.isatty() and style is Format.TEXT
        self.started = time.monotonic()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Something that takes a while: shown while it runs on a terminal, and with its seconds once it is done."""
        begun = time.monotonic()
        if self._live and not self._quiet:
            self._write(f"\r\x1b[2Ktpd: {name} ...", end="")
        try:
            yield
        except BaseException:
            if self._live and not self._quiet:
                self._write("\r\x1b[2K", end="")
            raise
        seconds = time.monotonic() - begun
        if self.style is Format.JSON:
            self.event("step", name=name, seconds=round(seconds, 3))
        elif not self._quiet:
            start = "\r\x1b[2K" if self._live else ""
            self._write(f"{start}tpd: {name} ({seconds:.1f} s)")

    def note(self, message: str) -> None:
        """Something worth knowing."""
        if self.style is Format.JSON:
            self.event("note", message=message)
        elif not self._quiet:
            self._write(f"tpd: {message}")

    def warn(self, message: str) -> None:
        """Something that is not as it should be, but does not stop the command."""
        if self.style is Format.JSON:
            self.event("warning", message=message)
        else:
            self._write(f"tpd: warning: {message}")

    def say(self, message: str, event: str, /, **fields: Any) -> None:
        """A message for people, or an event with fields for programs."""
        if self.style is Format.JSON:
            self.event(event, **fields)
        else:
            for line in message.splitlines():
                self._write(f"tpd: {line}")

    def error(self, error: TpdError) -> None:
        """The reason why the command ends."""
        if self.style is Format.JSON:
            self.event(
                "error",
                category=error.category.value,
                message=error.message,
                hint=error.hint,
                exit_code=error.category.exit_code,
            )
            return
        self._write(f"tpd: error: {error.message}")
        if error.hint:
            self._write(f"     {error.hint}")

    def event(self, name: str, /, **fields: Any) -> None:
        """One JSON line."""
        self._write(json.dumps({"event": name, "time": round(time.time(), 3), **fields}))

    def _write(self, text: str, end: str = "\n") -> None:
        # A terminal in raw mode needs the carriage return; files do not mind being without it.
        ending = "\r\n" if end == "\n" and self._live else end
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text + ending)
            self._stream.flush()
