"""A run whose child is `docker compose`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tpd.cli.report import Reporter
from tpd.compose.argv import ComposeCommand, child_environment
from tpd.compose.locate import project_directory
from tpd.compose.model import SHARED_VOLUME, Plan, Request, Target
from tpd.compose.spec import InterceptSpec, map_services
from tpd.compose.transform import render, shared_volume, transform
from tpd.engine.docker import PROJECT_LABEL, Engine
from tpd.kube.session import session_name
from tpd.kube.targets import Target as Workload
from tpd.run.attach import app_record, given
from tpd.run.child import Child
from tpd.run.end import make_way
from tpd.run.environment import child_base
from tpd.run.frame import Ground, Run, choose_volumes, survey, upstreams_of
from tpd.run.handover import Watcher
from tpd.run.options import RunOptions
from tpd.run.programs import Program, quietly
from tpd.run.seat import SeatPlan
from tpd.run.signals import Signals
from tpd.run.state import SeatRecord
from tpd.run.tell import report_attached

_SERVICE_LABEL = "com.docker.compose.service"


async def run_compose(
    options: RunOptions,
    specs: Sequence[InterceptSpec],
    command: ComposeCommand,
    reading: Program,
    report: Reporter,
    signals: Signals,
) -> int:
    """Carry out the run; returns the child's exit status.

    Args:
        reading: `command.config_argv()`, under way.

    Raises:
        TpdError: Something stands in the way; nothing is left behind.
    """
    directory = project_directory(command, Path.cwd(), os.environ)
    async with contextlib.AsyncExitStack() as stack:
        with report.step("checking cluster, engine and compose file"):
            async with asyncio.TaskGroup() as group:
                project_json = group.create_task(reading.output("read the compose project"))
                naming = group.create_task(_enabled(command))
                surveying = group.create_task(
                    stack.enter_async_context(
                        survey(options.cluster, options.images, specs, options.container, mount=options.mount)
                    )
                )
            config: dict[str, Any] = json.loads(project_json.result())
            ground, enabled = surveying.result(), naming.result()
        services: dict[str, Any] = config.get("services") or {}
        if enabled is None:
            enabled = _by_profiles(command, services)
        mapped = map_services([spec for spec, _ in ground.targets], list(services))
        targets = {service: target for (_, service), (_, target) in zip(mapped, ground.targets, strict=True)}
        project = _Project(options, command, config, enabled, ground, targets)
        await make_way(config["name"], ground.engine.address, report)
        run = Run.begin(session_name(), ground, report, options.cluster, "run")
        run.record.command = list(options.argv)
        run.record.project = config["name"]
        try:
            return await project.carry_out(run, stack, directory, report, signals)
        finally:
            with signals.ignored():
                await run.undo.run()


class _Project:
    """One compose project on its way from the user's document to ours."""

    def __init__(
        self,
        options: RunOptions,
        command: ComposeCommand,
        config: dict[str, Any],
        enabled: Sequence[str],
        ground: Ground,
        targets: Mapping[str, Workload],
    ) -> None:
        self._options = options
        self._command = command
        self._config = config
        self._enabled = enabled
        self._ground = ground
        self._targets = targets

    async def carry_out(
        self, run: Run, stack: contextlib.AsyncExitStack, directory: Path, report: Reporter, signals: Signals
    ) -> int:
        """From the anchor to the child's end."""
        command = self._command
        shared = shared_volume(self._config)
        known = await asyncio.to_thread(self._ground.engine.volume, shared.name)
        volumes = await choose_volumes(
            self._ground, self._options.mount, shared.name, dict(shared.labels), shared.external
        )
        # One that an earlier run could not remove counts as tpd's too.
        ours = known is None or "dev.tpd" in (known.get("Labels") or {})
        if volumes and volumes.mountpoint and not shared.external and ours:
            run.own_volume(shared.name)
        run.record.mount = volumes is not None
        run.record.attach = volumes is not None and volumes.mountpoint is None
        if run.record.attach:
            _warn_of_empty(self._config, report)
        request = Request(
            targets=tuple(Target(service) for service in self._targets),
            session=run.name,
            images=self._options.images.images,
            volumes=volumes,
            remote=self._options.remote,
            # The daemon has answered that all is in place before the child starts: only where compose may start the app
            # again without tpd is there something to wait for.
            gate=command.detached and not command.abort_on_exit,
            separator=command.separator(os.environ),
        )
        plan = transform(self._config, request)
        command.check(plan, self._enabled)
        for note in plan.notes:
            report.note(note)
        file = str(run.directory.compose_file)
        run.directory.write_private(run.directory.compose_file, render(plan.document))
        run.own_containers()
        with report.step("starting the daemon"):
            outside = await asyncio.to_thread(_outside, self._ground.engine, plan)
            if outside:
                await quietly(command.stop_argv(file, plan, str(directory), outside), "stop the services")
            await quietly(command.prepare_argv(file, plan, str(directory)), "start tpd's containers")
        await run.sit(stack, await self._seats(plan, volumes is not None))
        with report.step(f"engaging {', '.join(self._targets)}"):
            attached = await run.engage()
        report_attached(report, attached, mount=run.record.mount, attach=run.record.attach)
        filled = tuple(
            Target(service, *given([item for item in attached if item.target == target], every=run.record.attach))
            for service, target in self._targets.items()
        )
        said = plan.notes
        plan = transform(self._config, replace(request, targets=filled))
        for note in plan.notes[len(said) :]:
            report.note(note)
        if run.record.attach:
            self._attach(run, plan, filled)
        run.directory.write_private(run.directory.compose_file, render(plan.document))
        watcher = await stack.enter_async_context(Watcher(run)) if command.detached else None
        child = Child(
            command.child_argv(file, plan, str(directory), services=self._enabled),
            {**child_base(), **child_environment(file, plan)},
            signals,
            before_end=run.release,
            keys_end=command.subcommand != "run",
        )
        status = await child.run()
        if status == 0 and watcher is not None and signals.received is None:
            await watcher.take_over()
        return status

    def _attach(self, run: Run, plan: Plan, filled: Sequence[Target]) -> None:
        """From here on, the volumes are attached in the apps' containers whenever they start."""
        given = {target.service: target.binds for target in filled}
        seats = {record.label: record for record in run.record.seats}
        for namespace in plan.namespaces:
            seats[namespace.session].apps = [
                app_record(service, self._targets[service], given[service], plan.binds[service])
                for service in namespace.targets
            ]
        run.save()

    async def _seats(self, plan: Plan, mount: bool) -> list[tuple[SeatRecord, SeatPlan]]:
        seats = []
        for namespace in plan.namespaces:
            record = SeatRecord(
                namespace.session, namespace.session, namespace.anchor, namespace.daemon, list(namespace.members)
            )
            seat = SeatPlan(
                namespace=self._ground.namespace,
                targets=tuple(self._targets[service] for service in namespace.targets),
                mount=mount,
                transports=self._options.transports,
                dns_upstreams=await upstreams_of(self._ground, namespace.dns_upstreams),
                local_names=plan.local_names,
                remote_names=plan.remote_names,
            )
            seats.append((record, seat))
        return seats


def _warn_of_empty(config: Mapping[str, Any], report: Reporter) -> None:
    """Services that would see the shared volume on another engine."""
    users = [
        name
        for name, service in (config.get("services") or {}).items()
        if any(mount.get("source") == SHARED_VOLUME for mount in service.get("volumes") or ())
    ]
    if users:
        report.warn(
            f"{SHARED_VOLUME} stays empty in {', '.join(users)}: this engine does not propagate mounts between"
            " containers, so only the intercepted service sees the workload's volumes"
        )


def _outside(engine: Engine, plan: Plan) -> list[str]:
    """Members that run in a container which was made without tpd: it holds the ports that the anchor needs."""
    found = set()
    for item in engine.containers({PROJECT_LABEL: plan.project}, running=True):
        service = item["Labels"].get(_SERVICE_LABEL, "")
        mode = str((item.get("HostConfig") or {}).get("NetworkMode", ""))
        if service in plan.members and not mode.startswith("container:"):
            found.add(service)
    return sorted(found)


async def _enabled(command: ComposeCommand) -> list[str] | None:
    """The services that the user's profiles enable, where the command means all of them; None: by `_by_profiles`."""
    if not command.wants_services:
        return []
    if "-" in command.files:
        return None  # standard input can be read once
    async with await Program.begin(command.services_argv()) as naming:
        return (await naming.output("list the project's services")).split()


def _by_profiles(command: ComposeCommand, services: Mapping[str, Any]) -> list[str]:
    active = {*command.options.values("profile"), *os.environ.get("COMPOSE_PROFILES", "").split(",")}
    return [
        name
        for name, service in services.items()
        if not service.get("profiles") or "*" in active or active.intersection(service["profiles"])
    ]
