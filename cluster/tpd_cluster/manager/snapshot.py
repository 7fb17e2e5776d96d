"""What a daemon is told about one of its attachments: a whole snapshot with freshly signed grants. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tpd_cluster.manager.model import MODES, AgentRecord, Attachment, Object
from tpd_core import grants
from tpd_core.proto import link_pb2

_PHASES = {
    "Ready": link_pb2.AttachmentState.READY,
    "Failed": link_pb2.AttachmentState.FAILED,
}


@dataclass(frozen=True, slots=True)
class Held:
    """A grant that the daemon has, and what it says apart from serial and times."""

    signed: link_pb2.SignedGrant
    content: bytes
    not_after: int


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs grants for one session.

    Attributes:
        session: Its name.
        session_key: `grants.session_key_of` its certificate.
        sign: With the CA's key.
        serial: Makes 16 random bytes.
    """

    session: str
    session_key: bytes
    sign: Callable[[link_pb2.Grant], link_pb2.SignedGrant]
    serial: Callable[[], bytes]


def snapshot(
    item: Object, *, agents: Mapping[str, AgentRecord], signer: Signer, held: Mapping[str, Held], now: float
) -> tuple[link_pb2.AttachmentState, dict[str, Held]]:
    """The attachment as a message, and the grants in it by pod UID.

    Args:
        item: The Attachment object.
        agents: Enrolled agents by pod UID; only they get a grant.
        held: The daemon's grants by pod UID: one that still says the same, and for long enough, is sent again.
        now: Unix seconds.
    """
    attachment = Attachment.of(item)
    status = item.get("status") or {}
    ports = [
        link_pb2.Port(
            name=port.name,
            protocol=port.protocol,
            container_port=port.container_port,
            local_port=port.local_port,
        )
        for port in attachment.ports
    ]
    state = link_pb2.AttachmentState(
        uid=attachment.uid,
        namespace=attachment.namespace,
        name=attachment.name,
        workload_kind=attachment.kind,
        workload_name=attachment.workload,
        container=attachment.container,
        mode=MODES[attachment.mode],
        ports=ports,
        phase=_PHASES.get(status.get("phase", ""), link_pb2.AttachmentState.PENDING),
        env_names=status.get("envNames") or (),
    )
    problem = status.get("problem")
    if problem:
        state.problem.CopyFrom(
            link_pb2.Problem(category=problem["category"], message=problem["message"], hint=problem.get("hint") or "")
        )
    kept: dict[str, Held] = {}
    for pod in status.get("pods") or ():
        entry = state.pods.add(pod=pod["name"], pod_uid=pod["uid"], pod_ip=pod.get("ip") or "")
        mounts = [_mount(mount) for mount in pod.get("mounts") or ()]
        if mounts and not state.mounts:
            state.mounts.extend(mounts)
        if pod["state"] != "Ready" or pod["uid"] not in agents:
            continue
        grant = link_pb2.Grant(
            session=signer.session,
            user=attachment.user,
            session_key=signer.session_key,
            namespace=attachment.namespace,
            pod=pod["name"],
            pod_uid=pod["uid"],
            container=attachment.container,
            attachment=attachment.uid,
            mode=state.mode,
            ports=ports,
            mounts=mounts,
        )
        kept[pod["uid"]] = _hold(grant, signer, held.get(pod["uid"]), now)
        entry.grant.CopyFrom(kept[pod["uid"]].signed)
    return state, kept


def renewal_time(held: Mapping[str, Held]) -> float | None:
    """Unix seconds at which the first of the grants must be renewed."""
    return min((grant.not_after - grants.RENEW_BEFORE for grant in held.values()), default=None)


def _hold(grant: link_pb2.Grant, signer: Signer, old: Held | None, now: float) -> Held:
    content = grant.SerializeToString(deterministic=True)
    if old is not None and old.content == content and now < old.not_after - grants.RENEW_BEFORE:
        return old
    grant.serial = signer.serial()
    grant.not_before = int(now)
    grant.not_after = int(now) + grants.LIFETIME
    return Held(signer.sign(grant), content, grant.not_after)


def _mount(mount: Mapping[str, object]) -> link_pb2.Mount:
    return link_pb2.Mount(
        mount_path=str(mount["mountPath"]),
        volume=str(mount["volume"]),
        sub_path=str(mount.get("subPath") or ""),
        read_only=bool(mount.get("readOnly")),
    )
