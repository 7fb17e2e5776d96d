"""The pods' volumes as directories of the session's shared volume, by sshfs over streams.

Each pod volume is mounted once, however many times the container mounts parts of it. sshfs sees files with the owners
they have in the pod, and every right is decided there, since the file server runs as the app's user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tpd.daemon.changes import Changes
from tpd.daemon.mountserver import Attachable
from tpd.daemon.volume import Volume
from tpd_core.aio.stream import Stream
from tpd_core.proto import control_pb2, link_pb2


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
        self._volumes: dict[str, Volume] = {}

    def update(self, mounts: Sequence[link_pb2.Mount]) -> None:
        """What the container mounts, as the manager knows it by now."""
        self._mounts = list(mounts)

    async def mount(self) -> None:
        """Mount all that are not mounted; what fails is told by `status`."""
        names = dict.fromkeys(mount.volume for mount in self._mounts)
        for name in names:
            if name not in self._volumes:
                read_only = all(mount.read_only for mount in self._mounts if mount.volume == name)
                self._volumes[name] = Volume(self._path(name), name, self._open_files, read_only=read_only)
        waiting = [volume for volume in self._volumes.values() if not volume.mounted]
        await asyncio.gather(*(volume.mount() for volume in waiting))
        self._changes.ring()

    def status(self) -> list[control_pb2.VolumeStatus]:
        """For the CLI."""
        return [self._status(mount) for mount in self._mounts]

    def attachable(self) -> list[Attachable]:
        """What is now to be attached inside the app's container."""
        for volume in self._volumes.values():
            volume.handed_out = True
        return [
            Attachable(f"{self._root}/{status.source}", status.mount_path, status.read_only)
            for status in self.status()
            if status.mounted
        ]

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
