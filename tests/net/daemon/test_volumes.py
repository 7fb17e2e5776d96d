"""Volumes: real sshfs, OpenSSH's real file server behind the fake agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.net.daemon.cluster import ATTACHMENT, attachment_state
from tests.net.daemon.laptop import Laptop, deadline
from tpd_core.aio.stream import Incoming
from tpd_core.errors import NetworkError
from tpd_core.proto.control_pb2 import DetachRequest
from tpd_core.proto.link_pb2 import AttachmentGone, ManagerToDaemon, Mount
from tpd_core.wire.frames import RejectCode

pytestmark = pytest.mark.net

SERVER = "/usr/lib/openssh/sftp-server"
MOUNTS = [
    Mount(mount_path="/data", volume="data"),
    Mount(mount_path="/etc/app.conf", volume="config", sub_path="app.conf", read_only=True),
    Mount(mount_path="/config", volume="config", read_only=True),
]


class Pod:
    """The pod's volumes, as directories, served to the laptop."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("data", "config/..one", "config/..two"):
            (root / name).mkdir(parents=True)
        for version in ("one", "two"):
            (root / f"config/..{version}/app.conf").write_text(version)
        (root / "config/..data").symlink_to("..one")
        (root / "config/app.conf").symlink_to("..data/app.conf")

    def swap_config(self) -> None:
        """As the kubelet does it."""
        (self.root / "config/..new").symlink_to("..two")
        (self.root / "config/..new").rename(self.root / "config/..data")

    async def serve(self, incoming: Incoming, volume: str) -> None:
        directory = self.root / volume
        if not directory.is_dir():
            incoming.reject(RejectCode.UNREACHABLE, f"the agent has no volume {volume!r}")
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        stdio = theirs.fileno()
        process = await asyncio.create_subprocess_exec(SERVER, "-d", str(directory), stdin=stdio, stdout=stdio)
        theirs.close()
        with contextlib.suppress(NetworkError):
            await incoming.accept().splice(ours)
        await process.wait()


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path / "pod")


@pytest.fixture
async def laptop(tmp_path: Path, pod: Pod) -> AsyncIterator[Laptop]:
    assert shutil.which("sshfs"), "the package sshfs is missing"
    volumes = tmp_path / "volumes"
    volumes.mkdir()
    async with Laptop.running(tmp_path, TPD_VOLUME_ROOT=str(volumes)) as running:
        running.cluster.serve_files = pod.serve
        await running.connect()
        yield running
    assert not [path for path in mounted() if path.startswith(str(volumes))]


def mounted() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


async def files(function: Any, *args: Any) -> Any:
    """Run a file operation elsewhere: this thread serves the files."""
    async with deadline():
        return await asyncio.to_thread(function, *args)


async def eventually(function: Callable[[], bool]) -> None:
    """Within a second the file operation says True."""
    async with deadline(1.1):
        while not await asyncio.to_thread(function):
            pass


async def attach(laptop: Laptop, tmp_path: Path) -> Path:
    """Mount; where the session's volumes are."""
    reply = await laptop.attach(attachment_state(mounts=MOUNTS), mount=True)
    assert [(one.mount_path, one.source, one.read_only, one.mounted) for one in reply.attachment.volumes] == [
        ("/data", "orders/data", False, True),
        ("/etc/app.conf", "orders/config/app.conf", True, True),
        ("/config", "orders/config", True, True),
    ]
    return tmp_path / "volumes"


async def test_a_write_on_either_side_is_seen_on_the_other_within_a_second(
    laptop: Laptop, pod: Pod, tmp_path: Path
) -> None:
    volumes = await attach(laptop, tmp_path)
    await files((volumes / "orders/data/from-laptop").write_text, "hello")
    assert (pod.root / "data/from-laptop").read_text() == "hello"
    assert await files((volumes / "orders/data/from-laptop").read_text) == "hello"
    (pod.root / "data/from-laptop").write_text("changed in the pod")
    (pod.root / "data/new").write_text("new")
    await eventually(lambda: (volumes / "orders/data/from-laptop").read_text() == "changed in the pod")
    await eventually(lambda: volumes / "orders/data/new" in (volumes / "orders/data").iterdir())


async def test_a_config_map_is_followed_and_cannot_be_written(laptop: Laptop, pod: Pod, tmp_path: Path) -> None:
    volumes = await attach(laptop, tmp_path)
    config = volumes / "orders/config/app.conf"
    assert await files(config.read_text) == "one"
    pod.swap_config()
    await eventually(lambda: config.read_text() == "two")
    with pytest.raises(OSError, match="Read-only"):
        await files(config.write_text, "mine")


async def test_files_outlive_a_lost_link(laptop: Laptop, pod: Pod, tmp_path: Path) -> None:
    volumes = await attach(laptop, tmp_path)
    log = await files(open, volumes / "orders/data/log", "w+", 1)
    await files(log.write, "before\n")
    laptop.cluster.cut()
    await files(log.write, "after\n")
    await files(log.close)
    assert (pod.root / "data/log").read_text() == "before\nafter\n"
    assert await files((volumes / "orders/data/log").read_text) == "before\nafter\n"
    content = os.urandom(3 << 20)
    await files((volumes / "orders/data/big").write_bytes, content)
    assert (pod.root / "data/big").read_bytes() == content


async def test_detaching_keeps_the_files_until_the_object_is_gone(laptop: Laptop, tmp_path: Path) -> None:
    volumes = await attach(laptop, tmp_path)
    await laptop.stub.Detach(DetachRequest(uid=ATTACHMENT, drain=0.1))
    await laptop.state(lambda state: not state.attachments[0].engaged)
    await files((volumes / "orders/data/last-words").write_text, "bye")
    manager = await laptop.cluster.managers.get()
    await manager.send(ManagerToDaemon(gone=AttachmentGone(uid=ATTACHMENT)))
    await laptop.state(lambda state: not state.attachments)
    assert str(volumes / "orders/data") not in mounted()


async def test_what_a_killed_daemon_left_is_removed_by_the_next(laptop: Laptop, tmp_path: Path) -> None:
    volumes = await attach(laptop, tmp_path)
    assert laptop.process is not None
    pid = laptop.process.pid
    children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for child in children:  # as with a container's last moment: no process sees another one's end
        os.kill(child, signal.SIGSTOP)
    await laptop.stop(kill=True)
    for child in children:
        os.kill(child, signal.SIGKILL)
    assert str(volumes / "orders/data") in mounted()
    await laptop.start()
    assert str(volumes / "orders/data") not in mounted()


async def test_a_volume_that_cannot_be_had_says_why(laptop: Laptop) -> None:
    missing = [Mount(mount_path="/x", volume="nothing")]
    reply = await laptop.attach(attachment_state(mounts=missing), mount=True)
    volume = reply.attachment.volumes[0]
    assert not volume.mounted
    assert "no volume 'nothing'" in volume.problem.message


async def test_volumes_are_attached_inside_a_running_container(laptop: Laptop, pod: Pod, tmp_path: Path) -> None:
    place = tmp_path / "app"
    mounts = [
        Mount(mount_path=f"{place}/data", volume="data"),
        Mount(mount_path=f"{place}/etc/app.conf", volume="config", sub_path="app.conf", read_only=True),
    ]
    await laptop.attach(attachment_state(mounts=mounts), mount=True)
    app = await asyncio.create_subprocess_exec(
        *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "infinity")
    )
    try:
        first = await files(first_process, app.pid)
        helper = [
            *("nsenter", f"--net=/run/netns/{laptop.space.name}", f"--pid=/proc/{first}/ns/pid"),
            *("unshare", "--mount-proc", sys.executable, "-m", "tpd.daemon", "hotmount"),
        ]
        assert (await files(subprocess.run, [*helper, ATTACHMENT])).returncode == 0
        inside = ["nsenter", f"--mount=/proc/{first}/ns/mnt", "sh", "-c"]
        script = f"echo written > {place}/data/hot && cat {place}/etc/app.conf && ! touch {place}/etc/app.conf"
        done = await files(lambda: subprocess.run([*inside, script], capture_output=True, text=True, check=False))
        assert (done.returncode, done.stdout) == (0, "one")
        assert (pod.root / "data/hot").read_text() == "written\n"
        assert f"{place}/data" not in mounted(), "only the app's own mounts have changed"

        table = Path(f"/proc/{first}/mountinfo")
        for arguments, wanted in (
            ([ATTACHMENT], ["data", "etc/app.conf"]),
            (["--without", f"{place}/data/", ATTACHMENT], ["etc/app.conf"]),
            ([], []),
        ):
            assert (await files(subprocess.run, [*helper, *arguments])).returncode == 0
            paths = [line.split()[4] for line in table.read_text().splitlines()]
            assert sorted(path for path in paths if path.startswith(f"{place}/")) == [
                f"{place}/{one}" for one in wanted
            ]
    finally:
        app.kill()
        await app.wait()


def first_process(parent: int) -> int:
    """The child that `unshare --fork` made, once it has become the program."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    while True:
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "sleep\n":
                return int(child)
