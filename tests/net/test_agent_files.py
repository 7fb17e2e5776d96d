"""Volumes over a real link: OpenSSH's file server as another user, kept to its volume."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.net.agent_pki import POD_UID, Pki
from tpd_cluster.agent.confine import Confinement
from tpd_cluster.agent.files import Owner, ensure_user, serve_files
from tpd_core.aio.errors import StreamRejected
from tpd_core.aio.link import Link
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.aio.tasks import spawn
from tpd_core.aio.tls import client_context, server_context

pytestmark = pytest.mark.net

OWNER = Owner(1, 2345, (3456,))  # a user that every system has, and groups that none has
OPEN_READ, OPEN_CREATE = 1, 2 | 8
STATUS, HANDLE, DATA, NAME = 101, 102, 103, 104
OK, NO_SUCH_FILE, DENIED = 0, 2, 3


class Sftp:
    """As much of the SFTP protocol, version 3, as the tests need."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = b""

    async def start(self) -> None:
        await self._send(1, struct.pack("!I", 3))
        assert (await self._receive())[0] == 2

    async def _send(self, kind: int, body: bytes) -> None:
        await self._stream.write(struct.pack("!IB", len(body) + 1, kind) + body)

    async def _receive(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            while len(self._buffer) < 4 or len(self._buffer) < 4 + int.from_bytes(self._buffer[:4]):
                data = await self._stream.read()
                assert data, "the file server has ended"
                self._buffer += data
        size = int.from_bytes(self._buffer[:4])
        kind, body, self._buffer = self._buffer[4], self._buffer[5 : 4 + size], self._buffer[4 + size :]
        return kind, body

    async def _call(self, kind: int, *fields: str | int | bytes) -> tuple[int, bytes]:
        body = struct.pack("!I", 1)
        for field in fields:
            if isinstance(field, int):
                body += struct.pack("!I", field)
            else:
                data = field.encode() if isinstance(field, str) else field
                body += struct.pack("!I", len(data)) + data
        await self._send(kind, body)
        answer, data = await self._receive()
        return answer, data[4:]

    async def realpath(self, path: str) -> str:
        answer, body = await self._call(16, path)
        assert answer == NAME
        return body[8 : 8 + int.from_bytes(body[4:8])].decode()

    async def read(self, path: str) -> bytes | int:
        """The file's first bytes, or the error's code."""
        answer, body = await self._call(3, path, OPEN_READ, 0)
        if answer == STATUS:
            return int.from_bytes(body[:4])
        handle = body[4:]
        answer, body = await self._call(5, handle, 0, 0, 1000)
        return body[4:] if answer == DATA else int.from_bytes(body[:4])

    async def write(self, path: str, content: bytes) -> int:
        """Create a file; the code of the first error, or 0."""
        answer, body = await self._call(3, path, OPEN_CREATE, 0)
        if answer == STATUS:
            return int.from_bytes(body[:4])
        handle = body[4:]
        await self._call(6, handle, 0, 0, content)
        _, body = await self._call(4, handle)
        return int.from_bytes(body[:4])


class Volumes:
    """Two volumes and a link whose accepting end serves them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read_only = False
        self.ended = asyncio.Event()
        self.link: Link

    def on_open(self, incoming: Incoming) -> None:
        async def serve() -> None:
            await serve_files(incoming, incoming.request.decode(), OWNER, read_only=self.read_only, root=self.root)
            self.ended.set()

        spawn(serve(), name="files")

    async def open(self, volume: str = "data") -> Sftp:
        sftp = Sftp(await self.link.open(volume.encode()))
        await sftp.start()
        return sftp


@pytest.fixture
async def volumes() -> AsyncIterator[Volumes]:
    with tempfile.TemporaryDirectory(prefix="tpd-volumes-") as directory:
        root = Path(directory)
        root.chmod(0o755)  # pytest's own directories are closed to other users
        for name in ("data", "secret"):
            (root / name).mkdir()
            (root / name / "file").write_bytes(name.encode())
            os.chown(root / name, OWNER.uid, OWNER.gid)
        async for volumes in linked(Volumes(root)):
            yield volumes


async def linked(volumes: Volumes) -> AsyncIterator[Volumes]:
    pki = Pki()
    server, client = pki.server_only(POD_UID), pki.session("ann")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    async with asyncio.TaskGroup() as group:
        accepting = group.create_task(
            Link.accept(ours, tls=server_context(server.certificate, server.key, pki.pem), on_open=volumes.on_open)
        )
        volumes.link = await Link.connect(
            theirs,
            tls=client_context(pki.pem, client.certificate, client.key),
            server_hostname=f"{POD_UID}.agent.tpd",
            on_open=lambda incoming: incoming.reject(1),
        )
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(accepting.result())
        await stack.enter_async_context(volumes.link)
        yield volumes


async def test_reads_and_writes_as_the_app(volumes: Volumes) -> None:
    sftp = await volumes.open()
    assert await sftp.realpath(".") == str(volumes.root / "data")
    assert await sftp.read("file") == b"data"
    assert await sftp.write("new", b"written") == OK
    written = volumes.root / "data" / "new"
    assert written.read_bytes() == b"written"
    assert (written.stat().st_uid, written.stat().st_gid) == (OWNER.uid, OWNER.gid)


async def test_sees_what_the_pod_writes(volumes: Volumes) -> None:
    sftp = await volumes.open()
    assert await sftp.read("later") == NO_SUCH_FILE
    (volumes.root / "data" / "later").write_bytes(b"now")
    assert await sftp.read("later") == b"now"


async def test_the_groups_are_the_apps(volumes: Volumes) -> None:
    shared = volumes.root / "data" / "shared"
    shared.write_bytes(b"group")
    os.chown(shared, 0, OWNER.groups[0])
    shared.chmod(0o640)
    private = volumes.root / "data" / "private"
    private.write_bytes(b"root")
    private.chmod(0o600)
    sftp = await volumes.open()
    assert await sftp.read("shared") == b"group"
    assert await sftp.read("private") == DENIED


async def test_read_only_refuses_every_change(volumes: Volumes) -> None:
    volumes.read_only = True
    sftp = await volumes.open()
    assert await sftp.read("file") == b"data"
    assert await sftp.write("new", b"x") == DENIED
    assert not (volumes.root / "data" / "new").exists()


async def test_other_volumes_are_out_of_reach(volumes: Volumes) -> None:
    confinement = Confinement("/", read_only=True)
    confinement.close()
    assert confinement.landlock, "this kernel should have Landlock"
    sftp = await volumes.open()
    assert await sftp.read("../secret/file") == DENIED
    assert await sftp.read(str(volumes.root / "secret" / "file")) == DENIED
    assert await sftp.read("/proc/self/environ") == DENIED
    assert await sftp.write("/tmp/tpd-test", b"x") == DENIED


@pytest.mark.parametrize("name", ["none", "", "..", "data/../secret"])
async def test_names_that_are_no_volume(volumes: Volumes, name: str) -> None:
    with pytest.raises(StreamRejected, match="no volume"):
        await volumes.open(name)


async def test_the_server_ends_with_its_stream(volumes: Volumes) -> None:
    sftp = await volumes.open()
    sftp._stream.reset()
    async with asyncio.timeout(10):
        await volumes.ended.wait()


def test_a_nameless_user_gets_a_name_once(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text("root:x:0:0:root:/root:/bin/bash\n")
    for owner in (Owner(0, 0), Owner(1234, 5), Owner(1234, 5)):
        ensure_user(owner, passwd)
    assert passwd.read_text().splitlines()[1:] == ["tpd-1234:x:1234:5::/:/usr/sbin/nologin"]
