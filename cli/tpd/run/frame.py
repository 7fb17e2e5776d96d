"""What all runs share: the cluster checked first, everything made remembered, everything remembered undone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tpd.cli.report import Reporter
from tpd.compose.model import Volumes
from tpd.compose.spec import InterceptSpec
from tpd.engine.docker import PROJECT_LABEL, Engine
from tpd.kube.access import client_for
from tpd.kube.config import load_login
from tpd.kube.session import require_manager, who_am_i
from tpd.kube.targets import Target, pod_template, resolve_target
from tpd.kube.workloads import find_workload, list_services, require_namespace
from tpd.run.attach import Attacher, confined, propagates
from tpd.run.options import ClusterOptions, ImageOptions
from tpd.run.reach import find_reach
from tpd.run.seat import Attached, Cluster, Seat, SeatPlan, delete_objects
from tpd.run.state import RunDirectory, RunRecord, SeatRecord, run_directory
from tpd.run.supervise import Supervisor
from tpd.run.undo import Undo
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import EngineError
from tpd_core.kube import ApiClient

_TOKEN_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 (a path)


@dataclass(frozen=True, slots=True)
class Ground:
    """What has been looked at before anything is made.

    Attributes:
        volumes: Whether any target has volumes that could be mounted.
        propagates: Whether the engine's containers see each other's mounts; false where no volumes are wanted.
        upstreams: The engine's own DNS servers, being found out meanwhile.
    """

    engine: Engine
    info: dict[str, Any]
    cluster: Cluster
    namespace: str
    targets: tuple[tuple[InterceptSpec, Target], ...]
    volumes: bool
    propagates: bool = False
    upstreams: asyncio.Task[tuple[str, ...]] | None = None


@contextlib.asynccontextmanager
async def survey(
    options: ClusterOptions,
    images: ImageOptions,
    specs: Sequence[InterceptSpec],
    container: str | None = None,
    *,
    mount: bool = False,
) -> AsyncIterator[Ground]:
    """Look at engine and cluster, all at once.

    Args:
        mount: Volumes are wanted.

    Raises:
        TpdError: Whatever is missing, before anything was made.
    """
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as group:
            engine_task = group.create_task(_engine(images, mount=mount))
            login_task = group.create_task(asyncio.to_thread(load_login, options.kubeconfig, options.context))
            login = await login_task
            api = await stack.enter_async_context(client_for(login))
            identity_task = group.create_task(who_am_i(api))
            group.create_task(require_manager(api, options.manager_namespace))
            namespace = options.namespace or login.namespace
            targets_task = group.create_task(_targets(api, namespace, specs, container))
        engine, info, running, propagates = engine_task.result()
        stack.callback(engine.close)
        upstreams = spawn(
            asyncio.to_thread(engine.dns_servers, images.images.daemon), name="upstreams", on_error=lambda error: None
        )
        stack.push_async_callback(asyncio.wait, [upstreams])
        found = targets_task.result()
        cluster = Cluster(login, api, identity_task.result(), options.manager_namespace, find_reach(login, running))
        volumes = any(_has_volumes(workload, target) for _, target, workload in found)
        targets = tuple((spec, target) for spec, target, _ in found)
        yield Ground(engine, info, cluster, namespace, targets, volumes, propagates, upstreams)


async def upstreams_of(ground: Ground, given: tuple[str, ...]) -> tuple[str, ...]:
    """DNS servers for names that are not the cluster's: the user's, else the engine's."""
    return given or (await ground.upstreams if ground.upstreams is not None else ())


async def choose_volumes(
    ground: Ground, wanted: bool, name: str, labels: dict[str, str], external: bool
) -> Volumes | None:
    """Whether and how volumes are mounted; makes the shared Docker volume where the engine can show it to the app."""
    if not wanted or not ground.volumes:
        return None
    apparmor = confined(ground.info)
    if not ground.propagates:
        return Volumes(None, apparmor)
    if external:
        described = await asyncio.to_thread(ground.engine.volume, name)
        mountpoint = described["Mountpoint"] if described else ""
    else:
        mountpoint = await asyncio.to_thread(ground.engine.create_volume, name, labels)
    return Volumes(mountpoint, apparmor)


class Run:
    """One run: its record on disk, its seats, and the way back."""

    def __init__(self, directory: RunDirectory, record: RunRecord, ground: Ground, report: Reporter) -> None:
        self.name = record.id
        self.record = record
        self.ground = ground
        self.report = report
        self.directory = directory
        self.undo = Undo(report.warn)
        self.seats: list[Seat] = []
        self.supervisor: Supervisor | None = None
        self.attacher: Attacher | None = None
        self._released = False
        self.undo.push("remove the state directory", self._forget)
        self.save()

    @classmethod
    def begin(cls, name: str, ground: Ground, report: Reporter, options: ClusterOptions, kind: str) -> Self:
        """A new run.

        Args:
            name: Names the run, its directory, and its first session.
        """
        directory = run_directory(name).create()
        directory.take()
        login = ground.cluster.login
        record = RunRecord(
            id=name,
            kind=kind,
            pid=os.getpid(),
            started=time.time(),
            command=[],
            context=login.context,
            kubeconfig=options.kubeconfig or os.environ.get("KUBECONFIG"),
            manager_namespace=options.manager_namespace,
            namespace=ground.namespace,
            engine=ground.engine.address,
            mount=False,
        )
        return cls(directory, record, ground, report)

    @classmethod
    def taken_over(cls, directory: RunDirectory, record: RunRecord, ground: Ground, report: Reporter) -> Self:
        """A run that another process began; its directory is held already."""
        record.pid = os.getpid()
        run = cls(directory, record, ground, report)
        if record.volume:
            run.own_volume(record.volume)
        if record.network:
            run.own_network(record.network)
        run.own_containers()
        return run

    async def _forget(self) -> None:
        self.directory.remove()

    def save(self) -> None:
        """Write the record."""
        self.directory.write(self.record)

    def own_containers(self) -> None:
        """From here on, containers of this run may exist."""
        self.undo.push("remove tpd's containers", self._remove_containers)

    def own_volume(self, name: str) -> None:
        """From here on, a volume of this run exists."""
        self.record.volume = name
        self.save()
        self.undo.push(f"remove the volume {name}", self._remove_volume)

    def own_network(self, name: str) -> None:
        """From here on, a network of this run exists."""
        self.record.network = name
        self.save()
        self.undo.push(f"remove the network {name}", self._remove_network)

    async def _remove_network(self) -> None:
        await asyncio.to_thread(self.ground.engine.remove_network, self.record.network)

    async def _remove_containers(self) -> None:
        await asyncio.to_thread(remove_containers, self.ground.engine, self.name, self.record.project)

    async def _remove_volume(self) -> None:
        await asyncio.to_thread(self.ground.engine.remove_volume, self.record.volume)

    async def sit(self, stack: contextlib.AsyncExitStack, records: Sequence[tuple[SeatRecord, SeatPlan]]) -> None:
        """Open the seats and start watching over them."""
        for record, plan in records:
            record.plan = dataclasses.asdict(plan)
            seat = Seat(self.ground.engine, self.ground.cluster, record, plan, self.save)
            self.seats.append(await stack.enter_async_context(seat))
        self.record.seats = [record for record, _ in records]
        self.save()
        self.undo.push("delete the session in the cluster", self._delete_objects)
        self.undo.push("unmount the volumes", self._disconnect)
        self.undo.push("stop the app", self._stop_apps)
        self.undo.push("give the traffic back", self.release)
        if self.record.attach:
            self.attacher = Attacher(self.ground.engine, self.name, self.seats, self.report, self.save)
            stack.push_async_callback(cancel_and_wait, spawn(self.attacher.run(), name="attacher"))
        self.supervisor = Supervisor(self.seats, self.report, self.attacher)
        stack.push_async_callback(cancel_and_wait, spawn(self.supervisor.run(), name="supervisor"))

    async def resume(self, stack: contextlib.AsyncExitStack, records: Sequence[tuple[SeatRecord, SeatPlan]]) -> None:
        """Open seats that another process has engaged; those that are not any more are engaged anew."""
        await self.sit(stack, records)
        async with asyncio.TaskGroup() as group:
            for seat in self.seats:
                group.create_task(_resume(seat))

    async def engage(self) -> list[Attached]:
        """Engage all seats at once; what they have attached."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(seat.engage()) for seat in self.seats]
        return [attached for task in tasks for attached in task.result()]

    async def release(self) -> None:
        """Give all traffic back, once."""
        if self.supervisor is not None:
            self.supervisor.rest()
        if self._released:
            return
        self._released = True
        await asyncio.gather(*(seat.release() for seat in self.seats))
        if self.attacher is not None:
            await self.attacher.detach()

    async def _stop_apps(self) -> None:
        await asyncio.to_thread(stop_apps, self.ground.engine, self.name)

    async def _disconnect(self) -> None:
        await asyncio.gather(*(seat.disconnect() for seat in self.seats))

    async def _delete_objects(self) -> None:
        await delete_objects(self.ground.cluster.api, self.record.seats)


async def _resume(seat: Seat) -> None:
    if not await seat.resume():
        await seat.engage()


def stop_apps(engine: Engine, run: str) -> None:
    """Stop the user's containers that live in a run's namespaces: those go, and so do the volumes."""
    ours = engine.containers({"dev.tpd.run": run, "dev.tpd.role": "anchor"})
    anchors = {item["Id"] for item in ours}
    for item in engine.containers({}, running=True):
        mode = str((item.get("HostConfig") or {}).get("NetworkMode", ""))
        if mode.removeprefix("container:") in anchors and "dev.tpd" not in (item.get("Labels") or {}):
            engine.stop(item["Id"], timeout=10)


def remove_containers(engine: Engine, run: str, project: str = "") -> int:
    """Remove a run's own containers; those of the user's that live in their namespaces are stopped.

    Where no container of the compose project is left then, its networks go too: `docker compose down` could not remove
    them while an anchor was in them.

    Args:
        project: The compose project's name; empty for none.
    """
    stop_apps(engine, run)
    ours = engine.containers({"dev.tpd.run": run})
    order = {"gate": 0, "daemon": 1, "anchor": 2}
    for item in sorted(ours, key=lambda item: order.get(item["Labels"].get("dev.tpd.role", ""), 0)):
        engine.remove(item["Id"])
    if project and not engine.containers({PROJECT_LABEL: project}):
        for network in engine.networks({PROJECT_LABEL: project}):
            with contextlib.suppress(EngineError):  # in use by somebody else
                engine.remove_network(network["Id"])
    return len(ours)


_Found = tuple[Engine, dict[str, Any], list[dict[str, Any]], bool]


async def _engine(images: ImageOptions, *, mount: bool) -> _Found:
    def look() -> _Found:
        engine = Engine()
        for image in (images.images.anchor, images.images.daemon):
            engine.ensure_image(image)
        info = engine.info()
        return (
            engine,
            info,
            engine.containers({}, running=True),
            mount and propagates(engine, info, images.images.anchor),
        )

    return await asyncio.to_thread(look)


async def _targets(
    api: ApiClient, namespace: str, specs: Sequence[InterceptSpec], container: str | None
) -> list[tuple[InterceptSpec, Target, dict[str, Any]]]:
    if not specs:
        await require_namespace(api, namespace)
        return []
    async with asyncio.TaskGroup() as group:
        services = group.create_task(list_services(api, namespace))
        workloads = [group.create_task(find_workload(api, namespace, spec)) for spec in specs]
    return [
        (spec, resolve_target(spec, task.result(), services.result(), container), task.result())
        for spec, task in zip(specs, workloads, strict=True)
    ]


def _has_volumes(workload: dict[str, Any], target: Target) -> bool:
    for container in pod_template(workload).get("spec", {}).get("containers") or ():
        if container["name"] == target.container:
            return any(mount["mountPath"] != _TOKEN_MOUNT for mount in container.get("volumeMounts") or ())
    return False
