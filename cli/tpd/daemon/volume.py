"""One of a pod's volumes, mounted by sshfs; the mount outlives the links that carry it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tpd.daemon.changes import Backoff
from tpd.daemon.mountpoints import unmount, wait_mounted
from tpd.daemon.sftp import ProtocolError, SftpSession
from tpd_core.aio.stream import Stream
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import ClusterError, EngineError, NetworkError, TpdError
from tpd_core.proto import link_pb2

_log = logging.getLogger(__name__)

_MOUNT_TIMEOUT: Final = 10.0  # seconds
_END_TIMEOUT: Final = 2.0  # seconds that sshfs may take to end after its mount is gone
_PATIENCE: Final = 30.0
"""Seconds without a link after which the app's file operations fail instead of waiting."""

_CHUNK: Final = 256 << 10
_MOST_PENDING: Final = 8 << 20
"""Bytes of unanswered questions, data to be written above all, until sshfs has to wait."""

_OPTIONS: Final = (
    "passive",
    "allow_other",
    "idmap=none",
    # A change in the pod is seen within a second: the kernel asks every time, sshfs answers from what it heard within
    # the same second.
    "attr_timeout=0",
    "entry_timeout=0",
    "negative_timeout=0",
    "dcache_timeout=0",
    # Links mean what they mean in the pod: the volume is at the same path here.
    "no_contain_symlinks",
    "suid",
    "fsname=tpd",
    "subtype=tpd",
)

OpenFiles = Callable[[str], Awaitable[Stream]]
"""Opens an SFTP stream to a volume by name; raises TpdError or TimeoutError."""


class Volume:
    """A mount, its sshfs process and the SFTP session behind it.

    Args:
        path: Where to mount; None where the container has no place for volumes.
        name: The pod volume's name.
        open_files: Called for each new stream.
        read_only: Mount it so.

    Attributes:
        mounted: It is there.
        problem: Why not.
        handed_out: It may be attached elsewhere too, where this process cannot unmount it.
    """

    def __init__(self, path: Path | None, name: str, open_files: OpenFiles, *, read_only: bool) -> None:
        self.mounted = False
        self.problem: link_pb2.Problem | None = None
        self.handed_out = False
        self._path = path
        self._name = name
        self._open_files = open_files
        self._read_only = read_only
        self._process: asyncio.subprocess.Process | None = None
        self._carrier: asyncio.Task[None] | None = None

    async def mount(self) -> None:
        """Mount it; how that went is in the attributes."""
        try:
            if self._path is None:
                raise EngineError("the daemon's container has no shared volume")
            await self._mount(self._path, await self._open_files(self._name))
        except TpdError as error:
            self._fail(str(error.category), error.message, error.hint)
        except (OSError, TimeoutError) as error:
            self._fail("engine", f"volume {self._name} cannot be mounted: {error}")
        else:
            self.mounted, self.problem = True, None
            _log.info("volume mounted", extra={"volume": self._name, "path": str(self._path)})

    async def aclose(self) -> None:
        """Unmount it."""
        self.mounted = False
        if self._path is not None and self._process is not None:
            try:
                unmount(str(self._path))
            except OSError as error:
                _log.warning("not unmounted", extra={"volume": self._name, "reason": str(error)})
        await self._end()

    def _fail(self, category: str, message: str, hint: str = "") -> None:
        self.problem = link_pb2.Problem(category=category, message=message, hint=hint)
        _log.warning("volume not mounted", extra={"volume": self._name, "reason": message})

    async def _mount(self, path: Path, stream: Stream) -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        self._carrier = spawn(_Carrier(self._name, near, self._open_files).run(stream), name=f"files-{self._name}")
        try:
            unmount(str(path))
            path.mkdir(parents=True, exist_ok=True)
            command = ["sshfs", "-f", "-o", ",".join((*_OPTIONS, "ro" if self._read_only else "rw")), "tpd:", str(path)]
            stdio = far.fileno()
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=stdio, stdout=stdio, stderr=asyncio.subprocess.PIPE
            )
        except OSError:
            await self._end()
            raise
        finally:
            far.close()
        if not await self._wait_mounted(path):
            words = await self._last_words()
            await self._end()
            raise ClusterError(f"volume {self._name} cannot be mounted: {words or 'no answer in time'}")

    async def _wait_mounted(self, path: Path) -> bool:
        """Until it is mounted, or sshfs has ended, or time is up."""
        assert self._process is not None
        mounted = spawn(asyncio.to_thread(wait_mounted, str(path), _MOUNT_TIMEOUT), name="wait-mounted")
        ended = spawn(self._process.wait(), name="wait-sshfs")
        await asyncio.wait((mounted, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        return mounted.done() and mounted.result()

    async def _last_words(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return (await self._process.stderr.read()).decode(errors="replace").strip()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            if self.handed_out:
                process.terminate()
            try:
                async with asyncio.timeout(_END_TIMEOUT):
                    await process.wait()
            except TimeoutError:  # the app still has files open: they end with the container
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        await cancel_and_wait(self._carrier)


class _Carrier:
    """Drives one SFTP session between sshfs's socket and one stream after the other.

    Whoever reads from the server must never wait for the server to read: both would stand still. So writing to it is
    a task of its own, and what holds sshfs back is the amount of questions without an answer.
    """

    def __init__(self, name: str, sock: socket.socket, open_files: OpenFiles) -> None:
        self._name = name
        self._sock = sock
        self._open_files = open_files
        self._session = SftpSession()
        self._to_client = asyncio.Lock()
        self._asked = asyncio.Event()
        self._answered = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self, stream: Stream) -> None:
        """Until sshfs ends; `stream` is the first one."""
        server = spawn(self._serve(stream), name=f"files-server-{self._name}")
        try:
            while data := await self._receive():
                self._session.client_data(data)
                await self._answer()
        except ProtocolError as error:
            _log.warning("sshfs broke the protocol", extra={"volume": self._name, "reason": str(error)})
        finally:
            await cancel_and_wait(server)
            self._sock.close()

    async def _receive(self) -> bytes:
        while self._session.pending > _MOST_PENDING:
            self._answered.clear()
            await self._answered.wait()
        try:
            return await self._loop.sock_recv(self._sock, _CHUNK)
        except OSError:
            return b""

    async def _serve(self, stream: Stream) -> None:
        backoff = Backoff()
        while True:
            reason = await self._converse(stream, backoff)
            _log.warning("files interrupted", extra={"volume": self._name, "reason": reason})
            await asyncio.sleep(backoff.next())
            stream = await self._reopen(backoff)
            _log.info("files resumed", extra={"volume": self._name})

    async def _converse(self, stream: Stream, backoff: Backoff) -> str:
        """Until the stream ends; why."""
        self._session.attach()
        writer = spawn(self._write(stream), name=f"files-writer-{self._name}")
        self._asked.set()
        try:
            while data := await stream.read(_CHUNK):
                self._session.server_data(data)
                backoff.reset()
                await self._answer()
            return "the file server ended"
        except (NetworkError, ProtocolError) as error:
            return str(error)
        finally:
            await cancel_and_wait(writer)
            stream.reset()
            self._session.detach()
            await self._answer()

    async def _write(self, stream: Stream) -> None:
        with contextlib.suppress(NetworkError):  # its reader notices
            while True:
                await self._asked.wait()
                self._asked.clear()
                while self._session.to_server:
                    data, self._session.to_server = self._session.to_server, bytearray()
                    await stream.write(bytes(data))

    async def _reopen(self, backoff: Backoff) -> Stream:
        deadline = self._loop.time() + _PATIENCE
        while True:
            try:
                return await self._open_files(self._name)
            except (TpdError, TimeoutError):
                if self._loop.time() >= deadline:
                    self._session.give_up()
                    await self._answer()
                await asyncio.sleep(backoff.next())

    async def _answer(self) -> None:
        """Pass on what the session has for sshfs, and wake who writes to the server."""
        self._asked.set()
        self._answered.set()
        async with self._to_client:
            data, self._session.to_client = self._session.to_client, bytearray()
            if data:
                with contextlib.suppress(OSError):  # sshfs ended: its reader notices
                    await self._loop.sock_sendall(self._sock, data)
