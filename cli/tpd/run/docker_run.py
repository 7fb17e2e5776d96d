"""A run whose child is `docker run`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tpd.cli.report import Reporter
from tpd.compose.dockerrun import RunCommand, RunRequest, names_in_env_file, plan_run
from tpd.compose.model import labels
from tpd.compose.spec import InterceptSpec
from tpd.kube.session import session_name
from tpd.run.attach import app_record, given
from tpd.run.child import Child
from tpd.run.environment import child_base
from tpd.run.frame import Ground, Run, choose_volumes, survey, upstreams_of
from tpd.run.handover import Watcher
from tpd.run.options import RunOptions
from tpd.run.programs import quietly
from tpd.run.seat import SeatPlan
from tpd.run.signals import Signals
from tpd.run.state import SeatRecord
from tpd.run.tell import report_attached
from tpd_core.errors import UserError


async def run_docker(
    options: RunOptions,
    specs: Sequence[InterceptSpec],
    command: RunCommand,
    report: Reporter,
    signals: Signals,
) -> int:
    """Carry out the run; returns the child's exit status.

    Raises:
        TpdError: Something stands in the way; nothing is left behind.
    """
    if len(specs) > 1:
        raise UserError(
            f"one `docker run` cannot take the place of {len(specs)} workloads",
            hint="Intercept one of them, or use a compose project with a service for each.",
        )
    if specs[0].service is not None:
        raise UserError(f"--intercept {specs[0].workload}={specs[0].service}: `docker run` has no compose services")
    if options.remote:
        raise UserError("--remote leaves out services of a compose project; `docker run` has none")
    user_names = _user_names(command)
    async with contextlib.AsyncExitStack() as stack:
        with report.step("checking cluster and engine"):
            ground = await stack.enter_async_context(
                survey(options.cluster, options.images, specs, options.container, mount=options.mount)
            )
        run = Run.begin(session_name(), ground, report, options.cluster, "run")
        run.record.command = list(options.argv)
        try:
            request = await _request(options, command, run, ground, user_names)
            return await _carry_out(options, command, run, request, stack, signals)
        finally:
            with signals.ignored():
                await run.undo.run()


async def _request(
    options: RunOptions,
    command: RunCommand,
    run: Run,
    ground: Ground,
    user_names: frozenset[str],
) -> RunRequest:
    name = f"tpd-{run.name}"
    volumes = await choose_volumes(ground, options.mount, name, labels("volumes", run.name, run.name), external=False)
    if volumes and volumes.mountpoint:
        run.own_volume(name)
    run.record.mount = volumes is not None
    run.record.attach = volumes is not None and volumes.mountpoint is None
    ports = await asyncio.to_thread(ground.engine.exposed_ports, command.image) if command.publish_all else ()
    return RunRequest(
        session=run.name,
        images=options.images.images,
        volumes=volumes,
        image_ports=ports,
        user_names=user_names,
        env_file=str(run.directory.path / "environment"),
    )


async def _carry_out(
    options: RunOptions,
    command: RunCommand,
    run: Run,
    request: RunRequest,
    stack: contextlib.AsyncExitStack,
    signals: Signals,
) -> int:
    report, ground = run.report, run.ground
    plan = plan_run(command, request)
    for note in plan.notes:
        report.note(note)
    run.own_containers()
    with report.step("starting the daemon"):
        await quietly(plan.anchor_argv, "start the anchor")
        await quietly(plan.daemon_argv, "start the daemon")
    ((_, target),) = ground.targets
    record = SeatRecord(run.name, run.name, plan.anchor, plan.daemon, [command.name] if command.name else [])
    seat = SeatPlan(
        namespace=ground.namespace,
        targets=(target,),
        mount=request.volumes is not None,
        transports=options.transports,
        dns_upstreams=await upstreams_of(ground, plan.dns_upstreams),
        local_names=(command.name,) if command.name else (),
    )
    await run.sit(stack, [(record, seat)])
    with report.step(f"engaging {target}"):
        attached = await run.engage()
    report_attached(report, attached, mount=run.record.mount, attach=run.record.attach)
    environment, binds = given(attached, every=run.record.attach)
    request = replace(request, environment=environment, binds=binds)
    plan = plan_run(command, request)
    if run.record.attach:
        record.apps = [app_record("", target, request.binds, plan.binds)]
        run.save()
    for note in plan.notes:
        report.note(note)
    if plan.env_file_text:
        run.directory.write_private(Path(request.env_file), plan.env_file_text)
    watcher = await stack.enter_async_context(Watcher(run)) if command.detached else None
    child = Child(
        plan.app_argv,
        {**child_base(), **plan.environment},
        signals,
        before_end=run.release,
        keys_end=False,
    )
    status = await child.run()
    if status == 0 and watcher is not None and signals.received is None:
        await watcher.take_over()
    return status


def _user_names(command: RunCommand) -> frozenset[str]:
    names: frozenset[str] = frozenset()
    for path in command.env_files:
        try:
            names |= names_in_env_file(Path(path).read_text(encoding="utf-8", errors="surrogateescape"))
        except OSError as error:
            raise UserError(f"docker run --env-file {path}: {error.strerror}") from error
    return names
