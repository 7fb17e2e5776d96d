"""The pods' volumes as directories of the session's shared volume, by sshfs over streams.

Each pod volume is mounted once, however many times the container mounts parts of it. sshfs sees files with the owners
they have in the pod, and every right is decided there, since the file server runs as the app's user.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from tpd.daemon.changes import Changes
from tpd.daemon.mountpoints import unmount, wait_mounted
from tpd_core.aio.stream import Stream
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import ClusterError, EngineError, TpdError
from tpd_core.proto import control_pb2, link_pb2

_log = logging.getLogger(__name__)

_MOUNT_TIMEOUT: Final = 10.0  # seconds
_END_TIMEOUT: Final = 2.0  # seconds that sshfs may take to end after its mount is gone

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


class VolumeSet:
    """The volumes of one attachment.

    Args:
        root: Where the shared volume is mounted; None where no volumes are wanted.
        directory: The attachment's own one below `root`.
        open_files: Opens an SFTP stream to a volume.
        changes: Rung when anything in `status` may have changed.
    """

    def __init__(
        self,
        root: str | None,
        directory: str,
        open_files: Callable[[str], Awaitable[Stream]],
        changes: Changes,
    ) -> None:
        self._mounts: Sequence[link_pb2.Mount] = ()
        self._directory = directory
        self._root = root
        self._open_files = open_files
        self._changes = changes
        self._volumes: dict[str, _Volume] = {}

    def update(self, mounts: Sequence[link_pb2.Mount]) -> None:
        """What the container mounts, as the manager knows it by now."""
        self._mounts = list(mounts)

    async def mount(self) -> None:
        """Mount all that are not mounted; what fails is told by `status`."""
        names = dict.fromkeys(mount.volume for mount in self._mounts)
        for name in names:
            if name not in self._volumes:
                read_only = all(mount.read_only for mount in self._mounts if mount.volume == name)
                self._volumes[name] = _Volume(self._path(name), name, read_only=read_only)
        waiting = [volume for volume in self._volumes.values() if not volume.mounted]
        await asyncio.gather(*(volume.mount(self._open_files) for volume in waiting))
        self._changes.ring()

    def status(self) -> list[control_pb2.VolumeStatus]:
        """For the CLI."""
        return [self._status(mount) for mount in self._mounts]

    async def aclose(self) -> None:
        """Unmount all."""
        volumes, self._volumes = list(self._volumes.values()), {}
        await asyncio.gather(*(volume.aclose() for volume in volumes))

    def _path(self, name: str) -> Path | None:
        return None if self._root is None else Path(self._root) / self._directory / name

    def _status(self, mount: link_pb2.Mount) -> control_pb2.VolumeStatus:
        volume = self._volumes.get(mount.volume)
        parts = [self._directory, mount.volume, *([mount.sub_path] if mount.sub_path else [])]
        return control_pb2.VolumeStatus(
            mount_path=mount.mount_path,
            source="/".join(parts),
            read_only=mount.read_only,
            mounted=volume is not None and volume.mounted,
            problem=volume.problem if volume is not None else None,
        )


class _Volume:
    """One sshfs process and its stream."""

    def __init__(self, path: Path | None, name: str, *, read_only: bool) -> None:
        self.mounted = False
        self.problem: link_pb2.Problem | None = None
        self._path = path
        self._name = name
        self._read_only = read_only
        self._process: asyncio.subprocess.Process | None = None
        self._carrier: asyncio.Task[None] | None = None

    async def mount(self, open_files: Callable[[str], Awaitable[Stream]]) -> None:
        try:
            if self._path is None:
                raise EngineError("the daemon's container has no shared volume")
            await self._mount(self._path, await open_files(self._name))
        except TpdError as error:
            self._fail(str(error.category), error.message, error.hint)
        except (OSError, TimeoutError) as error:
            self._fail("engine", f"volume {self._name} cannot be mounted: {error}")
        else:
            self.mounted, self.problem = True, None
            _log.info("volume mounted", extra={"volume": self._name, "path": str(self._path)})

    async def aclose(self) -> None:
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
        self._carrier = spawn(_carry(stream, near), name=f"files-{self._name}")
        try:
            unmount(str(path))
            path.mkdir(parents=True, exist_ok=True)
            options = ",".join((*_OPTIONS, "ro" if self._read_only else "rw"))
            command = ["sshfs", "-f", "-o", options, "tpd:", str(path)]
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
            try:
                async with asyncio.timeout(_END_TIMEOUT):
                    await process.wait()
            except TimeoutError:  # the app still has files open: they end with the container
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        await cancel_and_wait(self._carrier)


async def _carry(stream: Stream, sock: socket.socket) -> None:
    with contextlib.suppress(TpdError):
        await stream.splice(sock)
