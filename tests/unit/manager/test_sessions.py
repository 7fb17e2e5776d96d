"""The life of a session, and what daemons are told."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from tests.unit.manager import samples
from tests.unit.manager.samples import NOW
from tpd_cluster.manager import pki, sessions, snapshot
from tpd_core import grants
from tpd_core.proto import link_pb2

CREATED = NOW - 10


def session(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "ada-1", "uid": "s-1", "creationTimestamp": samples.STAMP, **metadata},
        "spec": {"user": "ada", "request": ""},
        "status": status or {},
    }


def decide(item: dict[str, Any], now: float = NOW) -> sessions.SessionPlan:
    return sessions.decide(item, now=now, grace=60, connect_within=300)


SIGNED = {"phase": "Ready", "certificate": "x", "notAfter": "2027-01-16T08:00:00Z"}


def test_a_new_session_is_signed() -> None:
    assert decide(session()).step is sessions.Step.SIGN


def test_one_that_is_being_deleted_is_left_alone() -> None:
    assert decide(session(deletionTimestamp=samples.STAMP)).step is sessions.Step.NOTHING


@pytest.mark.parametrize(
    ("status", "due", "reason"),
    [
        (SIGNED, CREATED + 300, "did not connect"),
        ({**SIGNED, "lostAt": "2027-01-15T08:00:00Z"}, NOW + 60, "gone for 60 s"),
        ({**SIGNED, "link": {"replica": "tpd-manager-0"}}, NOW + 86_400, "expired"),
        ({**SIGNED, "lostAt": "2027-01-16T07:59:59Z"}, NOW + 86_400, "expired"),
        ({"phase": "Refused"}, CREATED + 300, "refused"),
    ],
)
def test_how_sessions_end(status: dict[str, Any], due: float, reason: str) -> None:
    before = decide(session(status), due - 1)
    assert (before.step, before.again) == (sessions.Step.NOTHING, due)
    after = decide(session(status), due)
    assert after.step is sessions.Step.DELETE
    assert reason in after.reason


def test_signed_and_refused_statuses() -> None:
    authority, key = pki.Authority.create(datetime.datetime.now(datetime.UTC)), pki.new_key()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    item = session()
    now = datetime.datetime.now(datetime.UTC)
    options: dict[str, Any] = {
        "endpoints": [link_pb2.Endpoint(host="h", port=1)],
        "manager": {"namespace": "tpd", "pods": ["tpd-manager-0"], "port": 8443},
    }
    item["spec"]["request"] = request.public_bytes(Encoding.PEM).decode()
    good = sessions.signed_status(item, authority, now, **options)
    assert good["phase"] == "Ready"
    assert good["endpoints"] == [{"host": "h", "port": 1}]
    assert pki.key_of_certificate(good["certificate"].encode()) == grants.key_digest(key.public_key())
    item["spec"]["request"] = "rubbish"
    bad = sessions.signed_status(item, authority, now, **options)
    assert bad["phase"] == "Refused"
    assert bad["problem"]["category"] == "cluster"


# -- snapshots -----------------------------------------------------------------------------------------------------
KEY = pki.new_key()


def signer() -> snapshot.Signer:
    serials = itertools.count(1)
    return snapshot.Signer(
        "ada-1", b"k" * 32, lambda grant: grants.sign(grant, KEY), lambda: next(serials).to_bytes(16)
    )


def item(**status: Any) -> dict[str, Any]:
    pod = {"name": "orders-1-a", "uid": "pod-1", "ip": "10.244.0.9", "state": "Ready", "message": ""}
    mounts = [{"mountPath": "/etc/app.conf", "volume": "config", "subPath": "app.conf", "readOnly": True}]
    fields = {"phase": "Ready", "envNames": ["A"], "pods": [{**pod, "mounts": mounts}], **status}
    return {**samples.attachment_object(), "status": fields}


AGENTS = {"pod-1": samples.record()}


def test_a_ready_pod_comes_with_a_grant_that_its_agent_takes() -> None:
    state, held = snapshot.snapshot(item(), agents=AGENTS, signer=signer(), held={}, now=NOW)
    assert state.phase == link_pb2.AttachmentState.READY
    assert (state.workload_kind, state.workload_name, state.container) == ("Deployment", "orders", "app")
    assert list(state.env_names) == ["A"]
    (pod,) = state.pods
    grant = grants.verify(pod.grant, KEY.public_key(), pod_uid="pod-1", session_key=b"k" * 32, now=NOW)
    assert grant.attachment == "att-1"
    assert (grant.user, grant.session, grant.container) == ("ada", "ada-1", "app")
    assert [(port.container_port, port.local_port) for port in grant.ports] == [(8080, 9090)]
    assert [mount.sub_path for mount in grant.mounts] == ["app.conf"]
    assert grant.mounts == state.mounts
    assert grant.not_after - grant.not_before == grants.LIFETIME
    assert snapshot.renewal_time(held) == NOW + grants.LIFETIME - grants.RENEW_BEFORE


def test_a_grant_is_sent_again_until_it_is_due_or_says_something_else() -> None:
    by = signer()
    first, held = snapshot.snapshot(item(), agents=AGENTS, signer=by, held={}, now=NOW)
    due = NOW + grants.LIFETIME - grants.RENEW_BEFORE
    same, held = snapshot.snapshot(item(), agents=AGENTS, signer=by, held=held, now=due - 1)
    assert same.pods[0].grant == first.pods[0].grant
    fresh, _ = snapshot.snapshot(item(), agents=AGENTS, signer=by, held=held, now=due)
    assert fresh.pods[0].grant != first.pods[0].grant
    changed = item()
    changed["status"]["pods"][0]["mounts"] = []
    other, _ = snapshot.snapshot(changed, agents=AGENTS, signer=by, held=held, now=NOW)
    assert other.pods[0].grant != first.pods[0].grant


def test_no_grant_without_an_enrolled_agent_or_before_the_pod_is_ready() -> None:
    unknown, held = snapshot.snapshot(item(), agents={}, signer=signer(), held={}, now=NOW)
    assert not unknown.pods[0].HasField("grant")
    assert held == {}
    young = item()
    young["status"]["pods"][0]["state"] = "Injecting"
    state, _ = snapshot.snapshot(young, agents=AGENTS, signer=signer(), held={}, now=NOW)
    assert not state.pods[0].HasField("grant")


def test_problems_and_young_attachments() -> None:
    problem = {"category": "user", "message": "no", "hint": "do"}
    failed, _ = snapshot.snapshot(
        item(phase="Failed", pods=[], problem=problem), agents={}, signer=signer(), held={}, now=NOW
    )
    assert failed.phase == link_pb2.AttachmentState.FAILED
    assert (failed.problem.category, failed.problem.message, failed.problem.hint) == ("user", "no", "do")
    young, _ = snapshot.snapshot(samples.attachment_object(), agents={}, signer=signer(), held={}, now=NOW)
    assert young.phase == link_pb2.AttachmentState.PENDING
    assert not young.HasField("problem")
