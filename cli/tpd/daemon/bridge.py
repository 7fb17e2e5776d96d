"""`python3 -m tpd.daemon bridge`: copies stdin and stdout to and from the control socket, for `docker exec -i`.

Nothing but the standard library, so that it starts at once.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

CONTROL = "/run/tpd/control.sock"
_PATIENCE = 10.0  # seconds for a daemon that is just starting
_RETRY = 0.02
_CHUNK = 1 << 18


def main() -> int:
    """The exit status: 0 when either side ended, 1 without a daemon."""
    sock = _connect()
    if sock is None:
        print(f"nothing listens on {CONTROL}: the daemon does not run", file=sys.stderr)
        return 1
    with sock:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(sock, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == 0:
                    if data := os.read(0, _CHUNK):
                        sock.sendall(data)
                    else:
                        poll.unregister(0)
                        sock.shutdown(socket.SHUT_WR)
                elif data := sock.recv(_CHUNK):
                    _write(data)
                else:
                    return 0


def _connect() -> socket.socket | None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(CONTROL)
        except OSError:
            sock.close()
            time.sleep(_RETRY)
        else:
            return sock
    return None


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
