"""Enrolment as a conversation between a made-up agent and the real enroller, over TCP on loopback."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from tests.unit.kube.fakeapi import FakeApi
from tests.unit.manager import samples
from tpd_cluster.manager import pki, tickets
from tpd_cluster.manager.board import Board
from tpd_cluster.manager.enroll import Enroller
from tpd_core.aio.errors import StreamRejected
from tpd_core.aio.link import Link
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.aio.tls import client_context, server_context
from tpd_core.grants import key_digest
from tpd_core.proto import link_pb2

NOW = datetime.datetime.now(datetime.UTC)
CA = pki.Authority.create(NOW)
SECRET = tickets.secret_from(CA.key_pem)
POD = "/api/v1/namespaces/shop/pods/orders-1-a"
REGISTRY = "/api/v1/namespaces/tpd/configmaps/tpd-agents"
CLAIM = tickets.Claim("shop", "orders-1-a", "pod-1", "tpd-agent-00001", int(time.time()) + 60)
DEADLINE = 10


def self_signed(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agent")])
    end = NOW + datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), NOW, end)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


@dataclass
class Place:
    """An enroller, and an agent's listener that serves one key."""

    fake: FakeApi
    board: Board
    enroller: Enroller
    served: ec.EllipticCurvePrivateKey
    port: int = 0
    callers: list[bytes | None] = field(default_factory=list)

    async def enroll(
        self,
        *,
        ticket: str = "",
        pod_uid: str = "pod-1",
        key: ec.EllipticCurvePrivateKey | None = None,
        port: int = 0,
        kind: dict[str, Any] | None = None,
    ) -> link_pb2.EnrollReply:
        """What an agent does; returns when the manager has ended the conversation."""
        left, right = socket.socketpair()
        for sock in (left, right):
            sock.setblocking(False)
        server = spawn(self.enroller.serve(right), name="enroller")
        request = link_pb2.OpenRequest(**(kind or {"enroll": link_pb2.Enroll()}))
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        try:
            async with asyncio.timeout(DEADLINE):
                link = await Link.connect(
                    left,
                    tls=client_context(CA.pem),
                    server_hostname="enroll.tpd",
                    on_open=lambda incoming: incoming.reject(5),
                )
                async with link:
                    messages = MessageStream(await link.open(request.SerializeToString()))
                    await messages.send(
                        link_pb2.EnrollRequest(
                            ticket=ticket or tickets.make(CLAIM, SECRET),
                            pod_uid=pod_uid,
                            port=port or self.port,
                            certificate_request=builder.sign(key or self.served, SHA256()).public_bytes(Encoding.PEM),
                            version="0.1.0",
                        )
                    )
                    reply = await messages.receive(link_pb2.EnrollReply)
                    assert reply is not None
                    assert not self.board.agents or reply.HasField("problem"), "registered before it serves"
                    messages.stream.write_eof()
                    await messages.receive(link_pb2.EnrollReply)
                    return reply
        finally:
            await cancel_and_wait(server)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    key, manager_key = pki.new_key(), pki.new_key()
    certificate = CA.issue_manager(manager_key.public_key(), NOW).pem
    back = client_context(CA.pem, certificate, pki.key_to_pem(manager_key))
    back.check_hostname, back.verify_mode = False, ssl.CERT_NONE
    async with FakeApi() as fake, fake.client() as client:
        fake.put(REGISTRY, {})
        fake.put(POD, samples.with_agent(samples.pod(podIP="127.0.0.1")), uid="pod-1")
        board = Board(client, "tpd")
        tls = server_context(certificate, pki.key_to_pem(manager_key), None)
        made = Place(fake, board, Enroller(client, board, CA, tls=tls, back=back), key)
        async with listening(made):
            yield made


@asynccontextmanager
async def listening(place: Place) -> AsyncIterator[None]:
    """The agent's port with its self-signed certificate; only the manager may connect."""

    async def called(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place.callers.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.close()

    tls = server_context(self_signed(place.served), pki.key_to_pem(place.served), CA.pem)
    server = await asyncio.start_server(called, "127.0.0.1", 0, ssl=tls)
    async with server:
        place.port = server.sockets[0].getsockname()[1]
        yield


async def test_the_agent_gets_its_certificate_and_is_registered_once_it_serves(place: Place) -> None:
    reply = await place.enroll()
    certificate = x509.load_pem_x509_certificate(reply.certificate)
    assert certificate.public_key() == place.served.public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pod-1.agent.tpd"]
    assert reply.ca == CA.pem
    (record,) = place.board.agents.values()
    assert (record.ip, record.port, record.container) == ("127.0.0.1", place.port, "tpd-agent-00001")
    assert record.key == key_digest(place.served.public_key()).hex()


async def test_a_ticket_is_good_once(place: Place) -> None:
    await place.enroll()
    again = await place.enroll()
    assert "used before" in again.problem.message
    assert not again.certificate


async def test_a_key_that_is_not_served_in_the_pod_is_not_signed(place: Place) -> None:
    reply = await place.enroll(key=pki.new_key())
    assert "Another key" in reply.problem.message
    assert place.board.agents == {}


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (replace(CLAIM, expires=int(time.time()) - 1), "expired"),
        (replace(CLAIM, pod="another"), "does not exist"),
        (replace(CLAIM, pod_uid="pod-2"), "not the one"),
        (replace(CLAIM, container="tpd-agent-00002"), "has no container"),
    ],
)
async def test_tickets_that_do_not_fit(place: Place, claim: tickets.Claim, words: str) -> None:
    reply = await place.enroll(ticket=tickets.make(claim, SECRET), pod_uid=claim.pod_uid)
    assert words in reply.problem.message
    assert place.board.agents == {}
    assert place.callers == []


async def test_another_pods_uid_is_refused(place: Place) -> None:
    assert "not the one" in (await place.enroll(pod_uid="pod-2")).problem.message


async def test_a_forged_ticket_is_refused_before_anything_is_looked_up(place: Place) -> None:
    reply = await place.enroll(ticket=tickets.make(CLAIM, b"guess"))
    assert "not made by this manager" in reply.problem.message
    assert place.fake.requests == []


async def test_a_pod_without_an_address_may_ask_again(place: Place) -> None:
    place.fake.put(POD, samples.with_agent(samples.pod(podIP="")), uid="pod-1")
    assert (await place.enroll()).problem.category == "network"


async def test_nobody_at_home_may_ask_again(place: Place) -> None:
    assert (await place.enroll(port=1)).problem.category == "network"


async def test_nothing_else_is_served_under_this_name(place: Place) -> None:
    with pytest.raises(StreamRejected):
        await place.enroll(kind={"dial": link_pb2.Dial(host="10.0.0.1", port=80)})
