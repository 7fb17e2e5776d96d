"""The life of a Session object, decided purely; and its signature.

A session is signed once, from the object as the API server holds it: the admission policy has tied `spec.user` and
`spec.groups` to the request's own user. It ends when its owner deletes it, when its daemon has been gone for too long
or never came, and with its certificate.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from tpd_cluster.manager import pki
from tpd_cluster.manager.model import Object, Problem
from tpd_cluster.manager.pods import timestamp
from tpd_core.proto import link_pb2


class Step(Enum):
    """What to do with a session."""

    NOTHING = auto()
    SIGN = auto()
    DELETE = auto()


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """The next step.

    Attributes:
        again: Unix seconds at which to look again though nothing happens.
        reason: Why it is deleted.
    """

    step: Step
    again: float | None = None
    reason: str = ""


def decide(session: Object, *, now: float, grace: float, connect_within: float) -> SessionPlan:
    """The next step for a session.

    Args:
        now: Unix seconds.
        grace: Seconds that its daemon may be away.
        connect_within: Seconds in which its daemon must come for the first time.
    """
    if session["metadata"].get("deletionTimestamp"):
        return SessionPlan(Step.NOTHING)
    status = session.get("status") or {}
    created = timestamp(session["metadata"]["creationTimestamp"])
    if status.get("phase") == "Refused":
        return _delete_at(created + connect_within, now, "it was refused")
    if not status.get("certificate"):
        return SessionPlan(Step.SIGN)
    ends = timestamp(status.get("notAfter")) or float("inf")
    if now >= ends:
        return SessionPlan(Step.DELETE, reason="its certificate has expired")
    if status.get("lostAt"):
        due, reason = timestamp(status["lostAt"]) + grace, f"its daemon has been gone for {grace:.0f} s"
    elif not status.get("link"):
        due, reason = created + connect_within, f"its daemon did not connect within {connect_within:.0f} s"
    else:
        return SessionPlan(Step.NOTHING, again=ends)
    return _delete_at(min(due, ends), now, reason)


def _delete_at(due: float, now: float, reason: str) -> SessionPlan:
    if now >= due:
        return SessionPlan(Step.DELETE, reason=reason)
    return SessionPlan(Step.NOTHING, again=due)


def signed_status(
    session: Object,
    authority: pki.Authority,
    now: datetime.datetime,
    *,
    endpoints: list[link_pb2.Endpoint],
    manager: dict[str, Any],
) -> dict[str, Any]:
    """The status of a session that the manager has signed, or refused to sign."""
    try:
        key = pki.public_key_of(session["spec"]["request"].encode())
    except pki.BadRequest as error:
        return {"phase": "Refused", "problem": Problem.of(error).to_status()}
    issued = authority.issue_session(key, session["metadata"]["name"], now)
    return {
        "phase": "Ready",
        "problem": None,
        "certificate": issued.pem.decode(),
        "ca": authority.pem.decode(),
        "notAfter": rfc3339(issued.not_after),
        "endpoints": [{"host": endpoint.host, "port": endpoint.port} for endpoint in endpoints],
        "manager": manager,
    }


def rfc3339(time: datetime.datetime) -> str:
    """As Kubernetes writes times."""
    return time.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
