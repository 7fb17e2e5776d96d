"""What tpd remembers on the laptop: one private directory per run, and whether its keeper still lives."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from tpd_core.errors import ConfigError


@dataclass(slots=True)
class AttachmentRecord:
    """One Attachment object of ours."""

    namespace: str
    name: str
    uid: str
    workload: str
    container: str
    ports: list[tuple[int, int]]  # (laptop's, workload's)


@dataclass(slots=True)
class AppRecord:
    """An app whose volumes are attached in its container after each start of it.

    Attributes:
        service: Its compose service; empty for `docker run`.
        workload: Whose volumes.
        without: Paths at which the user has something mounted.
        attached: By container id, what has been attached in which of its starts.
        problem: Why that failed the last time.
    """

    service: str
    workload: str
    without: list[str] = field(default_factory=list)
    attached: dict[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(slots=True)
class SeatRecord:
    """One network namespace with its daemon.

    Attributes:
        label: Value of the containers' `dev.tpd.session` label.
        base: What its Session objects are named after.
        session: Name of the present Session object; empty while there is none.
        instance: The daemon process that has it.
        services: Compose services (or container names) that live in it.
        plan: What the daemon is for (`tpd.run.seat.SeatPlan`), for the one who takes over.
        generation: How many daemons have had a session here.
        apps: Apps in whose containers volumes are to be attached.
    """

    label: str
    base: str
    anchor: str
    daemon: str
    services: list[str] = field(default_factory=list)
    session: str = ""
    instance: str = ""
    generation: int = 0
    plan: dict[str, Any] = field(default_factory=dict)
    attachments: list[AttachmentRecord] = field(default_factory=list)
    apps: list[AppRecord] = field(default_factory=list)


@dataclass(slots=True)
class RunRecord:
    """One run, as `status`, `quit` and the watcher need it; holds no secret.

    Attributes:
        kind: "run" or "connect".
        pid: The process that keeps it: the run itself, or its watcher.
        attach: Volumes are attached in containers, since the engine does not propagate mounts.
        volume: The shared Docker volume; empty for none.
        network: A network of tpd's own to remove at the end; empty for none.
    """

    id: str
    kind: str
    pid: int
    started: float
    command: list[str]
    context: str
    kubeconfig: str | None
    manager_namespace: str
    namespace: str
    engine: str
    mount: bool
    attach: bool = False
    detached: bool = False
    project: str = ""
    volume: str = ""
    network: str = ""
    seats: list[SeatRecord] = field(default_factory=list)


class RunDirectory:
    """A run's directory: its record, its compose file, its watcher's log; readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @property
    def compose_file(self) -> Path:
        """The transformed compose file."""
        return self.path / "compose.json"

    @property
    def log_file(self) -> Path:
        """What the watcher says."""
        return self.path / "watcher.log"

    def create(self) -> Self:
        """Make the directory.

        Raises:
            ConfigError: The state directory cannot be written.
        """
        try:
            self.path.mkdir(parents=True, mode=0o700, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise ConfigError(
                f"the state directory {self.path} cannot be written: {error.strerror}",
                hint="Set XDG_STATE_HOME to a directory of yours.",
            ) from error
        return self

    def write(self, record: RunRecord) -> None:
        """Replace the record."""
        self.write_private(self.path / "run.json", json.dumps(dataclasses.asdict(record), indent=1))

    def write_private(self, path: Path, text: str) -> None:
        """Write a file of mode 0600, whole or not at all."""
        scratch = path.with_suffix(".new")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        scratch.replace(path)

    def read(self) -> RunRecord | None:
        """The record; None when there is none (any more)."""
        try:
            content = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            seats = [
                SeatRecord(
                    **{
                        **seat,
                        "attachments": [AttachmentRecord(**item) for item in seat["attachments"]],
                        "apps": [AppRecord(**item) for item in seat["apps"]],
                    }
                )
                for seat in content.pop("seats")
            ]
            return RunRecord(**content, seats=seats)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def remove(self) -> None:
        """Remove the directory."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def take(self) -> bool:
        """Become the keeper; False while another process is."""
        file = (self.path / "keeper").open("w")
        if not _lock(file):
            file.close()
            return False
        self._lock = file
        return True

    def release(self) -> None:
        """Stop being the keeper."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kept(self) -> bool:
        """Whether a living process keeps this run."""
        if self._lock is not None:
            return True
        try:
            with (self.path / "keeper").open("r+") as file:
                return not _lock(file)
        except OSError:
            return False


def state_home() -> Path:
    """tpd's state directory: $XDG_STATE_HOME/tpd, or what the platform has for it."""
    import platformdirs

    return Path(platformdirs.user_state_dir("tpd", appauthor=False))


def run_directory(run: str) -> RunDirectory:
    """The directory of one run."""
    return RunDirectory(state_home() / "runs" / run)


def all_runs() -> list[tuple[RunDirectory, RunRecord]]:
    """Every run with a record, the oldest first; directories without one that nobody keeps are removed."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted((state_home() / "runs").iterdir()):
            directory = RunDirectory(path)
            record = directory.read()
            if record is not None:
                found.append((directory, record))
            elif not directory.kept():
                directory.remove()
    return sorted(found, key=lambda item: item[1].started)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
