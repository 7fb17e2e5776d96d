"""Volumes for the laptop: an SFTP session per stream, served by OpenSSH's program as the app's user."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tpd_cluster.agent.confine import Confinement
from tpd_core.aio.errors import LinkClosed, StreamReset
from tpd_core.wire.frames import RejectCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tpd_core.aio.stream import Incoming

VOLUMES: Final = Path("/tpd/volumes")
"""Where the pod's volumes are mounted in the agent's container, each under its name."""

_SERVERS: Final = (Path("/usr/lib/openssh/sftp-server"), Path("/usr/lib/ssh/sftp-server"))
_ENDING: Final = 5.0  # seconds that the program may take to end once its input has ended

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom files are served as."""

    uid: int
    gid: int
    groups: Sequence[int] = ()


async def serve_files(incoming: Incoming, volume: str, owner: Owner, *, read_only: bool, root: Path = VOLUMES) -> None:
    """Serve one volume until either end has had enough; relative paths start at the volume's root.

    Args:
        incoming: The laptop's request, whose right to the volume was checked.
        volume: The volume's name.
        owner: The app's user.
        read_only: Every change is refused.
        root: Where volumes are mounted.
    """
    directory = root / volume
    if not volume or "/" in volume or volume in (".", "..") or not directory.is_dir():
        incoming.reject(RejectCode.UNREACHABLE, f"the agent has no volume {volume!r}")
        return
    ours, theirs = socket.socketpair()
    try:
        process = _start(directory, owner, theirs, read_only=read_only)
    except (OSError, subprocess.SubprocessError) as error:
        ours.close()
        incoming.reject(RejectCode.INTERNAL, f"volume {volume} cannot be served: {error}")
        return
    finally:
        theirs.close()
    try:
        ours.setblocking(False)
        stream = incoming.accept()
        await stream.splice(ours)
    except (LinkClosed, StreamReset):
        pass
    finally:
        ours.close()
        await _wait(process)


def _start(directory: Path, owner: Owner, stdio: socket.socket, *, read_only: bool) -> subprocess.Popen[bytes]:
    server = next((path for path in _SERVERS if path.exists()), None)
    if server is None:
        raise FileNotFoundError(f"none of {', '.join(map(str, _SERVERS))} is there")
    ensure_user(owner)
    confinement = Confinement(str(directory), read_only=read_only)
    if not confinement.landlock:
        _log.warning("no Landlock here: the file server is confined by its user alone")
    try:
        return subprocess.Popen(
            [str(server), "-e", "-l", "ERROR", *(["-R"] if read_only else []), "-d", str(directory)],
            stdin=stdio.fileno(),
            stdout=stdio.fileno(),
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            user=owner.uid,
            group=owner.gid,
            extra_groups=list(owner.groups),
            preexec_fn=confinement.apply,  # safe: the agent has one thread
        )
    finally:
        confinement.close()


def ensure_user(owner: Owner, passwd: Path = Path("/etc/passwd")) -> None:
    """Give the user a name in the agent's own container: OpenSSH's program serves no nameless user.

    Raises:
        OSError: The file cannot be written.
    """
    lines = passwd.read_text().splitlines()
    if not any(line.split(":")[2:3] == [str(owner.uid)] for line in lines):
        lines.append(f"tpd-{owner.uid}:x:{owner.uid}:{owner.gid}::/:/usr/sbin/nologin")
        passwd.write_text("\n".join(lines) + "\n")


async def _wait(process: subprocess.Popen[bytes]) -> None:
    """Reap the program; one that is stuck in the kernel is left to end with the agent."""
    ended = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(_ENDING):
            await ended.wait()
    except TimeoutError:
        _log.warning("the file server %d does not end", process.pid)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        process.poll()
