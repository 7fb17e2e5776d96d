"""Looks once at an app's process and tells the agent: `/usr/bin/python3 -I -S .../peek.py`.

Runs in a short-lived ephemeral container that targets the app's container, so that it shares its PID namespace; a
long-lived one there would end whenever the app restarts. Its own environment is a copy of the app's declarations,
resolved by the kubelet, so it must not depend on any of it: isolated mode, the standard library, and no other module
of tpd.
"""

# pathlib would be a third of the start-up time
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any

_DEADLINE = 30.0  # seconds until the agent's socket must be there
_LIMIT = 8 << 20  # bytes of one process's environment


def find_process(container: str) -> int | None:
    """PID of the container's first process, None when none can be told.

    The kubelet mounts each container's termination log from a directory that bears the container's name. In a PID
    namespace of its own the app is process 1; in a shared one, process 1 is the pod's pause process.
    """
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as lines:
                if any(is_log_of(container, line) for line in lines):
                    return pid
        except OSError:
            continue  # gone, or another user's
    return 1 if os.getpid() != 1 and _name_of(1) != "pause" else None


def _name_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def is_log_of(container: str, line: str) -> bool:
    """The line of a mountinfo file shows the termination log of this container."""
    fields = line.split(" ")
    return len(fields) > 4 and "termination-log" in fields[4] and f"/containers/{container}/" in fields[3]


def look(container: str, environ: dict[str, str]) -> dict[str, Any]:
    """The message to the agent."""
    found: dict[str, Any] = {"process": None, "uid": None, "gid": None, "groups": [], "note": ""}
    pid = find_process(container)
    if pid is None:
        found["note"] = f"the process of container {container} was not found"
    else:
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
                found |= identity(lines.read())
            with open(f"/proc/{pid}/environ", "rb") as file:
                found["process"] = parse_environ(file.read(_LIMIT))
        except OSError as error:
            found["note"] = f"the environment of container {container}'s process could not be read: {error.strerror}"
    return found | {
        "container": container,
        "token": environ["TPD_PEEK_TOKEN"],
        "names": json.loads(environ.get("TPD_PEEK_NAMES") or "[]"),
        "prefixes": json.loads(environ.get("TPD_PEEK_PREFIXES") or "[]"),
        "resolved": {name: value for name, value in environ.items() if not name.startswith("TPD_PEEK_")},
    }


def identity(status: str) -> dict[str, Any]:
    """Effective user, group and supplementary groups from the text of /proc/PID/status."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "uid": int(fields["Uid"].split()[1]),
        "gid": int(fields["Gid"].split()[1]),
        "groups": [int(group) for group in fields.get("Groups", "").split()],
    }


def parse_environ(data: bytes) -> dict[str, str]:
    """Names and values from /proc/PID/environ; bytes that are not UTF-8 are replaced."""
    entries = (entry.partition(b"=") for entry in data.split(b"\0") if b"=" in entry)
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, _, value in entries}


def deliver(message: dict[str, Any], pod_uid: str, deadline: float) -> None:
    """Send to the agent, whose abstract socket is in the pod's network namespace, and wait for its answer.

    Raises:
        OSError: It refused, or is not there until the deadline (seconds).
    """
    end = time.monotonic() + deadline
    while True:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5.0)
            try:
                sock.connect(f"\0tpd-peek-{pod_uid}")
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
                continue
            sock.sendall(json.dumps(message).encode())
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(1024)
        if answer != b"ok\n":
            raise OSError(f"the agent answered {answer.decode(errors='replace').strip() or 'nothing'}")
        return


def main() -> int:
    """Exit status: 0 when the agent has it."""
    environ = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in os.environb.items()}
    try:
        container, pod_uid = environ["TPD_PEEK_CONTAINER"], environ["TPD_PEEK_POD_UID"]
        deliver(look(container, environ), pod_uid, _DEADLINE)
    except KeyError as error:
        print(f"{error.args[0]} is not set", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
