"""Which of the workload's volumes the app gets: the user's own mounts always win."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping

from tpd.compose.model import Bind, Document
from tpd_core.errors import ClusterError


def place(binds: Iterable[Bind], taken: Mapping[str, bool], app: str) -> tuple[tuple[Bind, ...], tuple[str, ...]]:
    """Choose the binds that leave every mount of the user's as it is.

    Args:
        binds: The workload's volumes.
        taken: The user's mounts: target path -> read-only.
        app: How to call the container in the notes.

    Returns:
        The binds to make, by target, and sentences about the ones left out.

    Raises:
        ClusterError: A volume's path leads out of the shared volume or is not absolute in the app.
    """
    users = {_clean(path): read_only for path, read_only in taken.items()}
    chosen: dict[str, Bind] = {}
    notes = []
    for bind in binds:
        source, target = posixpath.normpath(bind.source), _clean(bind.target)
        if source.startswith(("/", "../")) or source in ("..", ".") or not bind.target.startswith("/") or target == "/":
            raise ClusterError(f"The workload's volume {bind.source!r} at {bind.target!r} cannot be mounted.")
        reason = _obstacle(target, bind.read_only, users)
        if reason:
            notes.append(f"{app}: the workload's volume at {target} is not mounted, because {reason}.")
        else:
            chosen.setdefault(target, Bind(source, target, bind.read_only))
    return tuple(chosen[target] for target in sorted(chosen)), tuple(notes)


def service_mounts(service: Document) -> dict[str, bool]:
    """All paths that a compose service mounts something at: target -> read-only."""
    taken: dict[str, bool] = {}
    for volume in service.get("volumes") or []:
        taken[volume["target"]] = bool(volume.get("read_only"))
    tmpfs = service.get("tmpfs") or []
    for entry in [tmpfs] if isinstance(tmpfs, str) else tmpfs:
        taken[entry.partition(":")[0]] = False
    for key, home in (("secrets", "/run/secrets"), ("configs", "/")):
        for entry in service.get(key) or []:
            taken[posixpath.join(home, entry.get("target") or entry["source"])] = True
    return taken


def _obstacle(target: str, read_only: bool, users: Mapping[str, bool]) -> str:
    for path, users_read_only in users.items():
        if path == target:
            return "yours is mounted there"
        if target.startswith(path.rstrip("/") + "/") and users_read_only:
            return f"it would lie inside your read-only mount at {path}"
        # The engine makes a mount point for the user's mount; in a read-only volume it cannot.
        if path.startswith(target + "/") and read_only:
            return f"your mount at {path} would lie inside it, and it is read-only"
    return ""


def _clean(path: str) -> str:
    # normpath keeps two leading slashes, which POSIX allows to mean something else.
    return posixpath.normpath("/" + path.lstrip("/"))
