"""Volumes where mounts do not propagate between containers: attached in the app's container after each of its starts.

The daemon keeps its mounts in its own container. A short-lived helper beside it, in the app's PID namespace, fetches
them as descriptors and attaches them there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tpd.cli.report import Reporter
from tpd.compose.model import Bind, labels
from tpd.engine.docker import Engine
from tpd.run.seat import Attached, Seat
from tpd.run.state import AppRecord, state_home
from tpd_core.errors import TpdError
from tpd_core.proto import control_pb2

_SERVICE_LABEL = "com.docker.compose.service"
_CAPABILITIES = ("SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE")


def confined(info: Mapping[str, Any]) -> bool:
    """Whether the engine confines containers by AppArmor, whose default profile forbids mounts."""
    return any("apparmor" in option for option in info.get("SecurityOptions") or ())


def propagates(engine: Engine, info: Mapping[str, Any], image: str) -> bool:
    """Whether the engine's containers see each other's mounts; tried once per engine that can do it."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", str(info.get("ID") or engine.address))
    finding = state_home() / "propagates" / name
    if finding.exists():
        return True
    found = engine.propagates(image, posixpath.join(str(info.get("DockerRootDir")), "volumes"))
    if found:
        with contextlib.suppress(OSError):
            finding.parent.mkdir(parents=True, exist_ok=True)
            finding.touch()
    return found


def given(attached: Iterable[Attached], *, every: bool) -> tuple[dict[str, str], tuple[Bind, ...]]:
    """The environment and the volumes that an app gets from its workloads.

    Args:
        every: Also volumes that are not mounted yet: they are attached later.
    """
    environment: dict[str, str] = {}
    binds: list[Bind] = []
    for item in attached:
        environment.update(item.reply.environment)
        binds += [
            Bind(volume.source, volume.mount_path, volume.read_only)
            for volume in item.reply.attachment.volumes
            if volume.mounted or every
        ]
    return environment, tuple(binds)


def app_record(service: str, workload: object, given: Iterable[Bind], placed: Iterable[Bind]) -> AppRecord:
    """What to attach in an app's container.

    Args:
        given: The workload's volumes.
        placed: Those among them that leave the user's mounts as they are.
    """
    paths = {posixpath.normpath(bind.target) for bind in given} - {bind.target for bind in placed}
    return AppRecord(service, str(workload), sorted(paths))


class Attacher:
    """Keeps the volumes attached in a run's app containers, until it is cancelled.

    Args:
        run: The run's name.
        save: Called when the seats' records have changed.
    """

    def __init__(
        self, engine: Engine, run: str, seats: Sequence[Seat], report: Reporter, save: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._run = run
        self._seats = seats
        self._report = report
        self._save = save
        self._states: dict[str, control_pb2.State] = {}
        self._wanted: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._passing = asyncio.Lock()
        self._ending = False
        self._over = False
        self._confined: bool | None = None

    def observe(self, seat: Seat, state: control_pb2.State) -> None:
        """What a daemon says; volumes may have come or gone."""
        label = seat.record.label
        volumes = {item.uid: [[v.mount_path, v.mounted] for v in item.volumes] for item in state.attachments}
        wanted = json.dumps([state.instance, volumes])
        self._states[label] = state
        if self._wanted.get(label) != wanted:
            self._wanted[label] = wanted
            self._changed.set()

    async def run(self) -> None:
        """Run until cancelled."""
        loop = asyncio.get_running_loop()

        def follow(events: Any) -> None:
            for event in events:
                if "dev.tpd" not in event.get("Actor", {}).get("Attributes", {}):
                    with contextlib.suppress(RuntimeError):  # the loop has ended
                        loop.call_soon_threadsafe(self._changed.set)

        with self._engine.events({"type": "container", "event": ["start"]}) as events:
            threading.Thread(target=follow, args=(events,), name="starts", daemon=True).start()
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._pass()

    async def detach(self) -> None:
        """Take all volumes out of the apps, which may go on without."""
        self._ending = True
        await self._pass()

    async def hand_over(self) -> None:
        """Attach what is to be attached by now, and leave the rest to another process."""
        await self._pass()
        async with self._passing:
            self._over = True

    async def _pass(self) -> None:
        async with self._passing:
            for seat in () if self._over else self._seats:
                if any(app.attached for app in seat.record.apps) or (not self._ending and self._volumes_of(seat)):
                    try:
                        await self._attend(seat)
                    except TpdError as error:
                        if not self._ending:
                            self._report.warn(f"volumes could not be attached: {error.message}")

    def _volumes_of(self, seat: Seat) -> dict[str, list[str]]:
        """Paths of mounted volumes by attachment."""
        state = self._states.get(seat.record.label)
        if state is None or self._ending:
            return {}
        found = {item.uid: [v.mount_path for v in item.volumes if v.mounted] for item in state.attachments}
        return {uid: paths for uid, paths in found.items() if paths}

    async def _attend(self, seat: Seat) -> None:
        record = seat.record
        anchor = await asyncio.to_thread(self._engine.find, record.label, "anchor")
        running = await asyncio.to_thread(self._engine.containers, {}, running=True) if anchor is not None else []
        joined = [
            item
            for item in running
            if (item.get("HostConfig") or {}).get("NetworkMode") == f"container:{anchor}"
            and "dev.tpd" not in (item.get("Labels") or {})
        ]
        for app in record.apps:
            containers = {
                str(item["Id"]): str(item["Names"][0]).lstrip("/")
                for item in joined
                if not app.service or (item.get("Labels") or {}).get(_SERVICE_LABEL) == app.service
            }
            for gone in app.attached.keys() - containers.keys():
                del app.attached[gone]
            for container, name in containers.items():
                await self._settle(seat, app, container, name)

    async def _settle(self, seat: Seat, app: AppRecord, container: str, name: str) -> None:
        started = await self._started(container)
        volumes = self._volumes_of(seat)
        uids = [item.uid for item in seat.record.attachments if item.workload == app.workload and item.uid in volumes]
        state = self._states.get(seat.record.label)
        instance = state.instance if state is not None else ""
        mark = json.dumps([started, instance, {uid: volumes[uid] for uid in uids}]) if uids else ""
        before = app.attached.get(container, "")
        if not started or mark == before or (not mark and not before.startswith(json.dumps([started])[:-1])):
            return
        problem = await self._help(seat, app, container, uids)
        if await self._started(container) != started:
            return  # its next start is an event of its own
        if problem and not self._ending:
            self._report.warn(f"not all volumes are attached in {name}: {problem}")
        app.problem = problem
        if mark:
            app.attached[container] = mark
        else:
            app.attached.pop(container, None)
        self._save()

    async def _started(self, container: str) -> str:
        """When a running container was started; empty where it does not run."""
        description = await asyncio.to_thread(self._engine.inspect, container)
        if description is None or not description["State"]["Running"]:
            return ""
        return str(description["State"]["StartedAt"])

    async def _help(self, seat: Seat, app: AppRecord, container: str, uids: Sequence[str]) -> str:
        """Run the helper; what it complains of."""
        anchor, daemon = await asyncio.gather(
            *(asyncio.to_thread(self._engine.find, seat.record.label, role) for role in ("anchor", "daemon"))
        )
        described = await asyncio.to_thread(self._engine.inspect, daemon) if daemon is not None else None
        if anchor is None or described is None:
            return "the daemon's container is gone"
        if self._confined is None:
            self._confined = confined(await asyncio.to_thread(self._engine.info))
        try:
            status, words = await asyncio.to_thread(
                self._engine.finish,
                described["Image"],
                ["hotmount", *(word for path in app.without for word in ("--without", path)), *uids],
                network_mode=f"container:{anchor}",
                pid_mode=f"container:{container}",
                cap_drop=["ALL"],
                cap_add=list(_CAPABILITIES),
                read_only=True,
                labels=labels("mounts", seat.record.label, self._run),
                security_opt=["apparmor=unconfined"] if self._confined else [],
            )
        except TpdError as error:
            return error.message
        return (
            "; ".join(line.removeprefix("tpd: ") for line in words.splitlines()) or "no reason given" if status else ""
        )
