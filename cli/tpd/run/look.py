"""What the runs on this laptop are doing, from their records and their daemons."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tpd.control.client import DaemonClient, wait_state
from tpd.engine.docker import Engine
from tpd.run.state import RunDirectory, RunRecord, SeatRecord
from tpd.run.tell import TRANSPORTS, WAYS, mounted
from tpd_core.errors import TpdError
from tpd_core.proto import control_pb2

_PATIENCE = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class SeatView:
    """One daemon; `state` is None where it does not answer, with the reason in `problem`."""

    record: SeatRecord
    state: control_pb2.State | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RunView:
    """One run; `kept` tells whether a living process keeps it."""

    record: RunRecord
    kept: bool
    seats: list[SeatView] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        record = self.record
        return {
            "name": record.id,
            "kind": record.kind,
            "detached": record.detached,
            "pid": record.pid if self.kept else None,
            "started": record.started,
            "command": record.command,
            "project": record.project or None,
            "context": record.context,
            "namespace": record.namespace,
            "manager_namespace": record.manager_namespace,
            "volume": record.volume or None,
            "seats": [_seat_json(seat, attach=record.attach) for seat in self.seats],
        }


async def look(runs: Sequence[tuple[RunDirectory, RunRecord]]) -> list[RunView]:
    """Ask every daemon for its state, all at once."""
    views = [RunView(record, directory.kept()) for directory, record in runs]
    engines: dict[str, Engine | str] = {}
    for view in views:
        if view.record.engine not in engines:
            engines[view.record.engine] = await asyncio.to_thread(_open, view.record.engine)
    jobs = [(view, seat) for view in views for seat in view.record.seats]
    found = await asyncio.gather(*(_look(engines[view.record.engine], seat) for view, seat in jobs))
    for (view, _), seat in zip(jobs, found, strict=True):
        view.seats.append(seat)
    for engine in engines.values():
        if isinstance(engine, Engine):
            engine.close()
    return views


def _open(address: str) -> Engine | str:
    try:
        return Engine(address)
    except TpdError as error:
        return error.message


async def _look(engine: Engine | str, record: SeatRecord) -> SeatView:
    if isinstance(engine, str):
        return SeatView(record, None, engine)
    container = await asyncio.to_thread(engine.find, record.label, "daemon")
    if container is None:
        return SeatView(record, None, "its daemon container is gone")

    async def find() -> str | None:
        return container

    async with DaemonClient(find) as client:
        try:
            return SeatView(record, await wait_state(client, lambda state: True, _PATIENCE))
        except TpdError as error:
            return SeatView(record, None, error.message)
        except TimeoutError:
            return SeatView(record, None, "its daemon does not answer")


def _seat_json(view: SeatView, *, attach: bool) -> dict[str, Any]:
    state = view.state
    content: dict[str, Any] = {
        "label": view.record.label,
        "session": view.record.session,
        "anchor": view.record.anchor,
        "daemon": view.record.daemon,
        "services": view.record.services,
        "problem": view.problem or None,
    }
    if state is not None:
        content |= {
            "connected": state.connected,
            "transport": TRANSPORTS[state.transport][0],
            "manager_version": state.manager_version,
            "ended": state.ended or None,
            "problem": state.problem.message or None,
            "attachments": [
                _attachment_json(item, attach=attach, problem=_attaching(view, item)) for item in state.attachments
            ],
        }
    return content


def _attaching(view: SeatView, item: control_pb2.AttachmentStatus) -> str:
    """Why its volumes could not be attached in the app's container."""
    uid_of = {record.uid: record.workload for record in view.record.attachments}
    return next((app.problem for app in view.record.apps if app.workload == uid_of.get(item.uid)), "")


def _attachment_json(item: control_pb2.AttachmentStatus, *, attach: bool, problem: str) -> dict[str, Any]:
    return {
        "name": item.name,
        "namespace": item.namespace,
        "workload": item.workload,
        "container": item.container,
        "engaged": item.engaged,
        "problem": item.problem.message or None,
        "ports": [{"workload": port.container_port, "local": port.local_port} for port in item.ports],
        "pods": [
            {
                "name": pod.pod,
                "ip": pod.ip,
                "linked": pod.linked,
                "engaged": pod.engaged,
                "connections": pod.connections,
                "fallback": pod.fallback,
                "probes": pod.probes,
                "bytes_in": pod.bytes_in,
                "bytes_out": pod.bytes_out,
                "existing": pod.existing,
                "problem": pod.problem.message or None,
            }
            for pod in item.pods
        ],
        "volumes": [
            {
                "path": volume.mount_path,
                "source": volume.source,
                "read_only": volume.read_only,
                "mounted": volume.mounted,
                "way": WAYS[attach] if volume.mounted else None,
                "problem": volume.problem.message or problem or None,
            }
            for volume in item.volumes
        ],
    }


def as_text(view: RunView) -> str:
    """For people."""
    record = view.record
    what = f"docker project {record.project}" if record.project else " ".join(record.command[:3]) or "no app"
    keeper = f"{'watcher' if record.detached else 'foreground'} process {view.record.pid}"
    lines = [
        f"{record.id}: {record.kind} ({what}), namespace {record.namespace}, context {record.context}",
        f"  kept by: {keeper}" if view.kept else "  kept by: nobody (left behind; `tpd quit` removes it)",
    ]
    for seat in view.seats:
        lines += _seat_text(seat, attach=record.attach)
    return "\n".join(lines)


def _seat_text(view: SeatView, *, attach: bool) -> list[str]:
    where = f" of {', '.join(view.record.services)}" if view.record.services else ""
    state = view.state
    if state is None:
        return [f"  daemon{where}: {view.problem}"]
    if state.ended:
        link = f"ended: {state.ended}"
    elif state.connected:
        link = f"connected through {TRANSPORTS[state.transport][1]}, manager {state.manager_version}"
    else:
        link = f"not connected{': ' + state.problem.message if state.problem.message else ''}"
    lines = [f"  daemon{where}: {link}"]
    for item in state.attachments:
        ports = ", ".join(f"{port.container_port} -> {port.local_port}" for port in item.ports)
        engaged = "engaged" if item.engaged else item.problem.message or "not engaged"
        lines.append(f"    intercept {item.namespace}/{item.workload} port {ports}: {engaged}")
        for pod in item.pods:
            how = "engaged" if pod.engaged else "linked" if pod.linked else pod.problem.message or "no link"
            lines.append(
                f"      pod {pod.pod} ({pod.ip}): {how}; {pod.connections} connections, {pod.fallback} answered by the"
                f" pod itself, {pod.probes} probes; {_size(pod.bytes_in)} in, {_size(pod.bytes_out)} out"
            )
        for volume in item.volumes:
            how = mounted(volume, attach=attach)
            lines.append(f"      volume {volume.mount_path}{' (read-only)' if volume.read_only else ''}: {how}")
        if problem := _attaching(view, item):
            lines.append(f"      not all are attached in the app's container: {problem}")
    return lines


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
