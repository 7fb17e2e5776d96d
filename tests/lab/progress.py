"""Says what the lab is doing and, at the end, what took how long."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO


@dataclass(slots=True)
class Step:
    """One line of the final table; `note` may be changed while the step runs."""

    name: str
    note: str = ""
    seconds: float = 0.0
    failed: bool = False

    def say(self, note: str) -> None:
        """Set what the table says about this step."""
        self.note = note


@dataclass(slots=True)
class Progress:
    """Prints one line when a step begins and one when it ends; steps may run in parallel threads."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    steps: list[Step] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time what happens inside and enter it into the table, also when it fails."""
        step = Step(name)
        with self._lock:
            self.steps.append(step)
        self.line(f"==> {name}")
        start = time.monotonic()
        try:
            yield step
        except BaseException:
            step.failed = True
            raise
        finally:
            step.seconds = time.monotonic() - start
            if step.seconds >= 1 or step.failed:
                self.line(f"    {name}: {'FAILED' if step.failed else 'done'} after {step.seconds:.1f} s")

    def line(self, text: str) -> None:
        """Print one line."""
        with self._lock:
            print(text, file=self.stream, flush=True)

    def table(self) -> str:
        """Return the table of all steps so far, in the order in which they began."""
        width = max((len(step.name) for step in self.steps), default=0)
        rows = [f"  {step.name:<{width}}  {step.seconds:7.1f} s  {step.note}".rstrip() for step in self.steps]
        total = time.monotonic() - self.started
        return "\n".join([*rows, f"  {'all of it (steps overlap)':<{width}}  {total:7.1f} s"])
