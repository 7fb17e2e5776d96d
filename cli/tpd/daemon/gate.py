"""`python3 -m tpd.daemon gate`: waits for the daemon in the same network namespace, exits 0 when the app may start.

Nothing but the standard library, so that it starts at once.
"""

from __future__ import annotations

import os
import socket
import sys
import time

_ADDRESS = "\0tpd-gate"
_TIMEOUT = 120.0  # seconds, unless TPD_GATE_TIMEOUT says otherwise
_RETRY = 0.05  # seconds; only until the daemon's process listens


def main() -> int:
    """The exit status: 0 ready, 1 refused or not in time."""
    timeout = float(os.environ.get("TPD_GATE_TIMEOUT", _TIMEOUT))
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.settimeout(left)
                sock.connect(_ADDRESS)
                line = sock.makefile().readline()
            except ConnectionError:
                line = ""
            except TimeoutError:
                break
        if line == "ready\n":
            return 0
        if line:
            print(f"tpd: {line.strip()}", file=sys.stderr)
            return 1
        time.sleep(_RETRY)
    print(f"tpd: the daemon was not ready within {timeout:g} s: see `tpd status`", file=sys.stderr)
    return 1
