"""`python3 -m tpd.daemon hotmount UID...`: attaches the volumes of attachments inside a running app container.

Runs in a container of its own that shares the daemon's network namespace and the app's PID namespace, with SYS_ADMIN
and SYS_CHROOT, and SYS_PTRACE for an app of another user. It ends when all is attached; what it attached lives as long
as the app's container runs. Where a volume is attached already, the new one comes on top.

Nothing but the standard library, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from pathlib import Path

from tpd.daemon.mountfd import attach_mount, enter_mounts_of

_ADDRESS = "\0tpd-mounts"
_TIMEOUT = 30.0  # seconds
_APP = 1  # the app container's first process, in its own PID namespace


def main(attachments: list[str]) -> int:
    """The exit status: 0 when everything is attached, 1 with the reasons on stderr."""
    mounts: list[tuple[str, int]] = []
    complaints: list[str] = []
    for attachment in attachments:
        try:
            _fetch(attachment, mounts, complaints)
        except OSError as error:
            complaints.append(f"the daemon did not answer: {error}")
    try:
        enter_mounts_of(_APP)
    except OSError as error:
        complaints.append(f"the app's mounts cannot be reached: {error}")
        mounts = []
    for target, descriptor in mounts:
        try:
            _make_place(Path(target), descriptor)
            attach_mount(descriptor, target)
        except OSError as error:
            complaints.append(f"{target}: {error.strerror}")
    for complaint in complaints:
        print(f"tpd: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def _fetch(attachment: str, mounts: list[tuple[str, int]], complaints: list[str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(_TIMEOUT)
        sock.connect(_ADDRESS)
        sock.send(json.dumps({"attachment": attachment}).encode())
        while True:
            data, descriptors, _, _ = socket.recv_fds(sock, 4096, 1)
            if not data:
                return
            answer = json.loads(data)
            if "error" in answer:
                complaints.append(answer["error"])
            else:
                mounts.append((answer["target"], descriptors[0]))


def _make_place(target: Path, descriptor: int) -> None:
    """A file is attached at a file, a directory at a directory; both are made where there is none."""
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(exist_ok=True)
