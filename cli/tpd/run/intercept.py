"""Intercepts on a connection that exists: adding one, and ending one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tpd.cli.report import Reporter
from tpd.compose.argv import parse_child
from tpd.compose.dockerrun import RunCommand, RunPlan, RunRequest, names_in_env_file, plan_run
from tpd.compose.spec import InterceptSpec
from tpd.control.client import DaemonClient
from tpd.engine.docker import Engine
from tpd.kube.access import open_cluster
from tpd.kube.attachments import attachment_body, create_attachment, delete_attachment
from tpd.kube.session import who_am_i
from tpd.kube.targets import resolve_target
from tpd.kube.workloads import find_workload, list_services
from tpd.run.child import Child
from tpd.run.environment import child_base
from tpd.run.options import ImageOptions
from tpd.run.seat import ATTACH_SECONDS, DRAIN_SECONDS, Attached
from tpd.run.signals import Signals
from tpd.run.state import AttachmentRecord, RunDirectory, RunRecord, SeatRecord, all_runs
from tpd.run.tell import report_attached
from tpd_core.errors import ClusterError, UserError
from tpd_core.kube import SESSIONS, ApiClient, NotFound


def connection(name: str | None) -> tuple[RunDirectory, RunRecord]:
    """The connection of that name, or the only one.

    Raises:
        UserError: There is none, or it is not clear which.
    """
    found = [(directory, record) for directory, record in all_runs() if record.kind == "connect"]
    if name is not None:
        found = [item for item in found if item[1].id == name]
    if len(found) == 1:
        return found[0]
    if not found:
        what = f"no connection is called {name!r}" if name else "there is no connection"
        raise UserError(what, hint="Make one with `tpd connect`, or use `tpd run --intercept W -- docker run ...`.")
    names = ", ".join(record.id for _, record in found)
    raise UserError(f"there is more than one connection: {names}", hint="Choose one with --use NAME.")


@contextlib.asynccontextmanager
async def daemon_of(record: RunRecord, seat: SeatRecord | None = None) -> AsyncIterator[DaemonClient]:
    """The control service of one of a run's daemons, the first where none is named."""
    label = (seat or record.seats[0]).label
    engine = await asyncio.to_thread(Engine, record.engine)

    async def find() -> str | None:
        return await asyncio.to_thread(engine.find, label, "daemon")

    with contextlib.closing(engine):
        async with DaemonClient(find) as client:
            yield client


async def intercept(
    record: RunRecord,
    spec: InterceptSpec,
    namespace: str | None,
    container: str | None,
    env_file: str | None,
    argv: Sequence[str],
    images: ImageOptions,
    report: Reporter,
) -> int:
    """Take a workload's place on a connection; with a command, for as long as it runs.

    Args:
        env_file: Where to write the workload's environment, in docker's format; None for nowhere.
        argv: `docker run ...`, or empty.

    Raises:
        TpdError: It could not be done; nothing of it is left.
    """
    command = _command(argv)
    async with contextlib.AsyncExitStack() as stack:
        _, api = await stack.enter_async_context(open_cluster(record.kubeconfig, record.context))
        client = await stack.enter_async_context(daemon_of(record))
        where = namespace or record.namespace
        with Signals() as signals:
            attached: Attached | None = None
            keep = False
            try:
                with report.step(f"engaging {spec.workload}"):
                    attached = await _attach(api, client, record, spec, where, container)
                report_attached(report, [attached], mount=False)
                if env_file:
                    _write_environment(Path(env_file), attached, record, images)
                if command is None:
                    keep = True
                    return 0
                status = await _run_app(command, record, attached, images, report, signals, client)
                keep = status == 0 and command.detached and signals.received is None
                return status
            except asyncio.CancelledError:
                if signals.received is None:
                    raise
                return 128 + signals.received
            finally:
                if attached is not None and not keep:
                    with signals.ignored():
                        await client.detach(attached.record.uid, DRAIN_SECONDS)
                        await delete_attachment(api, attached.record.namespace, attached.record.name)


async def _attach(
    api: ApiClient,
    client: DaemonClient,
    record: RunRecord,
    spec: InterceptSpec,
    namespace: str,
    container: str | None,
) -> Attached:
    session = record.seats[0].session
    try:
        found = await api.get(SESSIONS.path(None, session))
    except NotFound as error:
        raise ClusterError(
            f"the session {session!r} of connection {record.id!r} is gone from the cluster",
            hint=f"End it with `tpd quit {record.id}` and connect again.",
        ) from error
    workload, services, identity = await asyncio.gather(
        find_workload(api, namespace, spec), list_services(api, namespace), who_am_i(api)
    )
    target = resolve_target(spec, workload, services, container)
    body = attachment_body(session, found["metadata"]["uid"], identity.user, target, mount=False)
    item = await create_attachment(api, namespace, body)
    meta = item["metadata"]
    ports = [(local, port.number) for port, local in target.ports]
    kept = AttachmentRecord(namespace, meta["name"], meta["uid"], str(target), target.container, ports)
    try:
        reply = await client.attach(meta["uid"], mount=False, timeout=ATTACH_SECONDS)
    except BaseException:
        await delete_attachment(api, namespace, meta["name"])
        raise
    return Attached(target, kept, reply)


def _command(argv: Sequence[str]) -> RunCommand | None:
    if not argv:
        return None
    command = parse_child(argv)
    if not isinstance(command, RunCommand):
        raise UserError(
            "tpd intercept takes `docker run ...`; a compose project needs its own containers",
            hint="tpd run --intercept WORKLOAD -- docker compose ...",
        )
    return command


def _plan(command: RunCommand, record: RunRecord, attached: Attached, images: ImageOptions, env_file: Path) -> RunPlan:
    names: frozenset[str] = frozenset()
    for path in command.env_files:
        names |= names_in_env_file(Path(path).read_text(encoding="utf-8", errors="surrogateescape"))
    request = RunRequest(
        session=record.seats[0].label,
        images=images.images,
        environment=attached.reply.environment,
        user_names=names,
        env_file=str(env_file),
    )
    return plan_run(command, request)


async def _run_app(
    command: RunCommand,
    record: RunRecord,
    attached: Attached,
    images: ImageOptions,
    report: Reporter,
    signals: Signals,
    client: DaemonClient,
) -> int:
    if command.options.values("publish", "network", "net") or command.publish_all:
        raise UserError(
            "the container joins the connection's network: it cannot publish ports or choose networks",
            hint=f"Give them to the connection: tpd quit {record.id}; tpd connect -p HOST:PORT --network NAME.",
        )
    directory = next(item for item, other in all_runs() if other.id == record.id)
    env_file = directory.path / f"environment-{attached.record.uid}"
    try:
        plan = _plan(command, record, attached, images, env_file)
    except OSError as error:
        raise UserError(f"docker run --env-file {error.filename}: {error.strerror}") from error
    for note in plan.notes:
        report.note(note)
    if plan.env_file_text:
        directory.write_private(env_file, plan.env_file_text)

    async def release() -> None:
        await client.detach(attached.record.uid, DRAIN_SECONDS)

    try:
        child = Child(plan.app_argv, {**child_base(), **plan.environment}, signals, before_end=release, keys_end=False)
        return await child.run()
    finally:
        env_file.unlink(missing_ok=True)


def _write_environment(path: Path, attached: Attached, record: RunRecord, images: ImageOptions) -> None:
    command = parse_child(["docker", "run", "none"])
    assert isinstance(command, RunCommand)
    text = _plan(command, record, attached, images, path).env_file_text
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"--env-file {path}: {error.strerror}") from error
