"""`python3 -m tpd.daemon hotmount [--without PATH]... [UID]...`: attaches volumes inside a running app container.

Runs in a container of its own that shares the daemon's network namespace and the app's PID namespace, with SYS_ADMIN
and SYS_CHROOT, and SYS_PTRACE for an app of another user. Afterwards the app has the volumes of these attachments and
no others of tpd's: what was attached before goes, so that without attachments nothing is left. What was attached lives
as long as the app's container runs. Paths after `--without` are left as they are.

Nothing but the standard library, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import posixpath
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from tpd.daemon.mountfd import attach_mount, enter_mounts_of
from tpd.daemon.mountpoints import detach, mounts_of_tpd

_ADDRESS = "\0tpd-mounts"
_TIMEOUT = 30.0  # seconds
_APP = 1  # the app container's first process, in its own PID namespace


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 when everything is attached, 1 with the reasons on stderr."""
    attachments, without = _parse(arguments)
    mounts: list[tuple[str, int]] = []
    complaints: list[str] = []
    for attachment in attachments:
        try:
            _fetch(attachment, mounts, complaints)
        except OSError as error:
            complaints.append(f"the daemon did not answer: {error}")
    own = os.open("/proc/self", os.O_PATH | os.O_CLOEXEC)  # the app's own /proc may be missing
    try:
        enter_mounts_of(_APP)
        for path in mounts_of_tpd(own):
            detach(path)
    except OSError as error:
        complaints.append(f"the app's mounts cannot be reached: {error}")
        mounts = []
    for target, descriptor in sorted(mounts):
        if posixpath.normpath(target) in without:
            continue
        try:
            _make_place(Path(target), descriptor)
            attach_mount(descriptor, target)
        except OSError as error:
            complaints.append(f"{target}: {error.strerror}")
    for complaint in complaints:
        print(f"tpd: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def _parse(arguments: Sequence[str]) -> tuple[list[str], set[str]]:
    attachments: list[str] = []
    without: set[str] = set()
    words = iter(arguments)
    for word in words:
        if word == "--without":
            without.add(posixpath.normpath(next(words)))
        else:
            attachments.append(word)
    return attachments, without


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
        if not target.exists():  # on a read-only root, touching what is there fails too
            target.touch()
