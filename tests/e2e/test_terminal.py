"""`tpd run` on a terminal: the child has one of its own, and Ctrl-C gives the traffic back before anything stops."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable

from tests.e2e.support.cluster import Namespace
from tests.e2e.support.process import until
from tests.e2e.support.project import Project


class Terminal:
    """A command on a pseudo-terminal of its own, and everything that it writes there."""

    def __init__(self, argv: list[str], cwd: str, env: dict[str, str]) -> None:
        self.master, slave = os.openpty()
        self.written = bytearray()
        # setsid --ctty makes the terminal the command's controlling one, as a shell's window does.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *argv], cwd=cwd, env=env, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the last process has closed its end
                return
            self.written += data

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait(self) -> int:
        status = self.process.wait(60)
        self._reader.join(10)
        os.close(self.master)
        return status


def test_ctrl_c_on_a_terminal(namespace: Namespace, project: Project, nothing_left: Callable[[], None]) -> None:
    namespace.deploy("orders")
    project.echo("orders")
    argv = project.laptop.tpd_argv(
        "run", "--intercept", "orders", "-n", namespace.name, "--", "docker", "compose", "up"
    )
    terminal = Terminal(argv, str(project.directory), {**project.laptop.environment, "TERM": "xterm"})
    try:
        namespace.await_origin("orders", "laptop", timeout=90)
        with namespace.steady("http://orders/") as steady:
            until(lambda: namespace.origin("orders"), lambda origin: origin == "laptop")
            terminal.type(b"\x03")
            status = terminal.wait()
            assert namespace.origin("orders") == "cluster"
            failures = steady.end()["failures"]
        assert [why for why in failures if why.startswith("fresh")] == []
        assert status == 130
        assert b"orders-1" in terminal.written
        assert b"\x1b[" in terminal.written, "the child knows that it writes to a terminal"
    finally:
        terminal.process.kill()
        terminal.process.wait(10)
    project.compose("down")
    nothing_left()
