"""A connection without an app: the cluster's network in a container namespace that others may join."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence

from tpd.cli.report import Reporter
from tpd.compose.argv import parse_child
from tpd.compose.dockerrun import RunCommand, RunRequest, plan_run
from tpd.compose.model import labels
from tpd.kube.session import session_name
from tpd.run.frame import Run, survey, upstreams_of
from tpd.run.handover import Watcher
from tpd.run.options import ClusterOptions, ImageOptions
from tpd.run.programs import quietly
from tpd.run.seat import SeatPlan
from tpd.run.signals import Signals
from tpd.run.state import SeatRecord, run_directory
from tpd_core.errors import BugError, UserError

DEFAULT_NAME = "default"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


async def connect(
    name: str,
    cluster: ClusterOptions,
    images: ImageOptions,
    docker_options: Sequence[str],
    networks: Sequence[str],
    transports: tuple[int, ...],
    report: Reporter,
) -> int:
    """Make the connection `name` and leave it to a watcher.

    Args:
        docker_options: Options of `docker run` for the anchor, e.g. published ports.
        networks: Further networks for the anchor.

    Raises:
        TpdError: It could not be made, and nothing of it is left.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is not a name for a connection", hint="Use small letters, digits and dashes.")
    directory = run_directory(name)
    if directory.read() is not None:
        raise UserError(
            f"there is a connection {name!r} already",
            hint=f"`tpd status` shows it, `tpd quit {name}` ends it; --name makes another one.",
        )
    with Signals() as signals:
        try:
            async with contextlib.AsyncExitStack() as stack:
                with report.step("checking cluster and engine"):
                    ground = await stack.enter_async_context(survey(cluster, images, ()))
                run = Run.begin(name, ground, report, cluster, "connect")
                run.record.command = ["connect"]
                try:
                    return await _carry_out(run, stack, images, docker_options, networks, transports)
                finally:
                    with signals.ignored():
                        await run.undo.run()
        except asyncio.CancelledError:
            if signals.received is None:
                raise
            return 128 + signals.received


async def _carry_out(
    run: Run,
    stack: contextlib.AsyncExitStack,
    images: ImageOptions,
    docker_options: Sequence[str],
    networks: Sequence[str],
    transports: tuple[int, ...],
) -> int:
    network = f"tpd-{run.name}"
    await asyncio.to_thread(run.ground.engine.create_network, network, labels("network", run.name, run.name))
    run.own_network(network)
    command = parse_child(["docker", "run", f"--network={network}", *docker_options, "none"])
    if not isinstance(command, RunCommand):
        raise BugError("docker run was not understood as such")
    plan = plan_run(command, RunRequest(session=run.name, images=images.images))
    run.own_containers()
    with run.report.step("starting the daemon"):
        await quietly(plan.anchor_argv, "start the anchor")
        for other in networks:
            await asyncio.to_thread(run.ground.engine.connect, other, plan.anchor)
        await quietly(plan.daemon_argv, "start the daemon")
    record = SeatRecord(run.name, session_name(), plan.anchor, plan.daemon)
    seat = SeatPlan(
        namespace=run.ground.namespace,
        targets=(),
        mount=False,
        transports=transports,
        dns_upstreams=await upstreams_of(run.ground, plan.dns_upstreams),
    )
    await run.sit(stack, [(record, seat)])
    watcher = await stack.enter_async_context(Watcher(run))
    with run.report.step("connecting"):
        await run.engage()
    await watcher.take_over()
    run.report.say(
        f"connected as {run.name!r}: a container joins by `docker run --network container:{plan.anchor} ...`,\n"
        "`tpd intercept WORKLOAD` gives it a workload's place",
        "connected",
        name=run.name,
        anchor=plan.anchor,
    )
    return 0
