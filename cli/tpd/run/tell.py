"""Telling what is in force, to people and to programs; values of the environment are never among it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tpd.cli.report import Reporter
from tpd.run.seat import Attached
from tpd_core.proto import control_pb2

TRANSPORTS: dict[int, tuple[str, str]] = {
    control_pb2.TRANSPORT_UNSPECIFIED: ("none", "nothing"),
    control_pb2.TRANSPORT_ENDPOINT: ("endpoint", "the manager's endpoint"),
    control_pb2.TRANSPORT_API_SERVER: ("api-server", "the API server"),
    control_pb2.TRANSPORT_RELAY: ("relay", "a relay of this computer's"),
}
"""What the link goes through, for programs and for people."""


WAYS = {False: "propagated", True: "attached"}
"""How volumes get into the app's container, by whether they are attached after its start; for programs."""


def report_attached(report: Reporter, attached: Sequence[Attached], *, mount: bool, attach: bool = False) -> None:
    """Say what is in force.

    Args:
        mount: Whether volumes were to be mounted.
        attach: Whether they are attached in the app's container after its start.
    """
    for item in attached:
        report.say(described(item, mount=mount, attach=attach), "intercepting", **event_of(item, attach=attach))


def mounted(volume: control_pb2.VolumeStatus, *, attach: bool) -> str:
    """How a volume is mounted, or why not."""
    if not volume.mounted:
        return volume.problem.message or "not mounted"
    return "mounted (attached after start: this engine does not propagate mounts)" if attach else "mounted"


def described(attached: Attached, *, mount: bool, attach: bool) -> str:
    """One attachment in a few lines."""
    reply, target = attached.reply, attached.target
    status = reply.attachment
    ports = ", ".join(f"{port} -> {local}" for port, local in target.ports)
    pods = ", ".join(pod.pod for pod in status.pods if pod.engaged) or "none yet"
    lines = [f"intercepting {target} in {target.namespace}: port {ports}, pods {pods}"]
    lines += [f"  pod {pod.pod}: {pod.problem.message}" for pod in status.pods if pod.problem.message]
    if attached.transport:
        lines.append(f"  link: through {TRANSPORTS[attached.transport][1]}")
    note = f" ({reply.environment_note})" if reply.environment_note else ""
    lines.append(f"  environment: {len(reply.environment)} variables{note}")
    if mount:
        for volume in status.volumes:
            rights = " (read-only)" if volume.read_only else ""
            lines.append(f"  volume {volume.mount_path}{rights}: {mounted(volume, attach=attach)}")
    elif status.volumes:
        lines.append(f"  volumes: not mounted ({', '.join(volume.mount_path for volume in status.volumes)})")
    return "\n".join(lines)


def event_of(attached: Attached, *, attach: bool = False) -> dict[str, Any]:
    """One attachment as the fields of an `intercepting` event."""
    status, target = attached.reply.attachment, attached.target
    return {
        "workload": str(target),
        "namespace": target.namespace,
        "container": target.container,
        "transport": TRANSPORTS[attached.transport][0],
        "ports": [{"workload": port.number, "name": port.name, "local": local} for port, local in target.ports],
        "pods": [{"name": pod.pod, "engaged": pod.engaged, "existing": pod.existing} for pod in status.pods],
        "environment": sorted(attached.reply.environment),
        "volumes": [
            {
                "path": volume.mount_path,
                "mounted": volume.mounted,
                "way": WAYS[attach] if volume.mounted else None,
                "read_only": volume.read_only,
            }
            for volume in status.volumes
        ],
    }
