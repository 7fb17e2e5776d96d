"""Volumes over a real link: OpenSSH's file server as another user, kept to its volume."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.net.agent_pki import POD_UID, Pki
from tests.net.agent_sftp import DENIED, NO_SUCH_FILE, OK, Sftp
from tpd_cluster.agent.confine import Confinement
from tpd_cluster.agent.files import Owner, ensure_user, serve_files
from tpd_core.aio.errors import StreamRejected
from tpd_core.aio.link import Link
from tpd_core.aio.stream import Incoming
from tpd_core.aio.tasks import spawn
from tpd_core.aio.tls import client_context, server_context

pytestmark = pytest.mark.net

OWNER = Owner(1, 2345, (3456,))  # a user that every system has, and groups that none has


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
