"""Hands an attachment's mounted volumes out as descriptors, for engines where mounts do not propagate.

The listener is an abstract socket: every container of the network namespace reaches it, without sharing a directory.
A helper asks with the attachment's UID; each answer is one packet that names a path in the app's container, with the
descriptor of a mount that belongs there. Only root is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tpd.daemon.mountfd import clone_mount
from tpd_core.aio.tasks import spawn

_log = logging.getLogger(__name__)

ADDRESS: Final = "\0tpd-mounts"
_CREDENTIALS: Final = struct.Struct("3i")  # process, user, group
_TIMEOUT: Final = 5.0  # seconds for the helper to ask


@dataclass(frozen=True, slots=True)
class Attachable:
    """Something mounted that belongs into the app's container.

    Attributes:
        source: Where it is here; a directory or a file.
        target: Where it belongs there.
        read_only: Attach it so.
    """

    source: str
    target: str
    read_only: bool


class MountServer:
    """Listens; a context manager.

    Args:
        find: What is mounted for an attachment, by UID; None for one that is not known.
    """

    def __init__(self, find: Callable[[str], Sequence[Attachable] | None]) -> None:
        self._find = find
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __enter__(self) -> MountServer:
        self._listener.setblocking(False)
        self._listener.bind(ADDRESS)
        self._listener.listen()
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        spawn(self._serve(sock), name="mounts")

    async def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, ValueError, TimeoutError):
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(credentials)[1] != 0:
                sock.send(json.dumps({"error": "only root may have mounts"}).encode())
                return
            async with asyncio.timeout(_TIMEOUT):
                request = json.loads(await asyncio.get_running_loop().sock_recv(sock, 4096))
            wanted = self._find(str(request.get("attachment")))
            if wanted is None:
                sock.send(json.dumps({"error": f"there is no attachment {request.get('attachment')}"}).encode())
                return
            for one in wanted:
                await self._hand_out(sock, one)

    async def _hand_out(self, sock: socket.socket, one: Attachable) -> None:
        try:
            # In a thread: to find the path the kernel asks sshfs, and what sshfs asks is answered by this loop.
            descriptor = await asyncio.to_thread(clone_mount, one.source, read_only=one.read_only)
        except OSError as error:
            sock.send(json.dumps({"error": f"{one.target}: {error.strerror}"}).encode())
            return
        try:
            socket.send_fds(sock, [json.dumps({"target": one.target}).encode()], [descriptor])
        finally:
            os.close(descriptor)
        _log.info("mount handed out", extra={"target": one.target})
