"""A daemon's link as the manager serves it, over a socket pair and an API server of one page."""

from __future__ import annotations

import asyncio
import datetime
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit.kube.fakeapi import FakeApi
from tests.unit.manager import samples
from tpd_cluster.manager import pki
from tpd_cluster.manager.board import Board
from tpd_cluster.manager.clusterinfo import ClusterFacts
from tpd_cluster.manager.daemons import Daemons
from tpd_cluster.manager.presence import Presence
from tpd_cluster.manager.settings import Settings
from tpd_core import grants
from tpd_core.aio.errors import LinkClosed
from tpd_core.aio.link import Link
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.aio.tls import client_context, server_context
from tpd_core.proto import link_pb2

NOW = datetime.datetime.now(datetime.UTC)
CA = pki.Authority.create(NOW)
KEY = pki.new_key()
SESSION = "/apis/tpd.dev/v1alpha1/sessions/ada-1"
ATTACHMENT = "/apis/tpd.dev/v1alpha1/attachments/orders-x"  # the fake has no namespaces in collections
REGISTRY = "/api/v1/namespaces/tpd/configmaps/tpd-agents"
SETTINGS = Settings(namespace="tpd", pod="tpd-manager-0", pod_ip="10.244.0.3", agent_image="a")
DEADLINE = 10


@dataclass
class Place:
    """A replica's daemons, and the world around."""

    fake: FakeApi
    board: Board
    facts: ClusterFacts
    daemons: Daemons

    @asynccontextmanager
    async def linked(self, session: str = "ada-1") -> AsyncIterator[Link]:
        """A daemon's link."""
        left, right = socket.socketpair()
        for sock in (left, right):
            sock.setblocking(False)
        server = spawn(self.daemons.serve(right), name="daemons")
        certificate = CA.issue_session(KEY.public_key(), session, NOW).pem
        tls = client_context(CA.pem, certificate, pki.key_to_pem(KEY))
        link = await Link.connect(
            left, tls=tls, server_hostname="manager.tpd", on_open=lambda incoming: incoming.reject(5)
        )
        async with link:
            yield link
        await cancel_and_wait(server)

    @asynccontextmanager
    async def talking(self) -> AsyncIterator[MessageStream]:
        """A control conversation after its hello and the first word about the cluster."""
        async with asyncio.timeout(DEADLINE), self.linked() as link:
            request = link_pb2.OpenRequest(control=link_pb2.Control()).SerializeToString()
            messages = MessageStream(await link.open(request))
            await messages.send(link_pb2.DaemonToManager(hello=link_pb2.DaemonHello(session="ada-1")))
            assert (await next_message(messages)).cluster.cluster_domain == "cluster.local"
            yield messages


async def next_message(messages: MessageStream) -> link_pb2.ManagerToDaemon:
    message = await messages.receive(link_pb2.ManagerToDaemon)
    assert message is not None
    return message


def ready_attachment() -> dict[str, Any]:
    pod = {"name": "orders-1-a", "uid": "pod-1", "ip": "10.244.0.9", "state": "Ready", "message": "", "mounts": []}
    return {**samples.attachment_object(), "status": {"phase": "Ready", "pods": [pod], "envNames": []}}


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    manager_key = pki.new_key()
    tls = server_context(CA.issue_manager(manager_key.public_key(), NOW).pem, pki.key_to_pem(manager_key), CA.pem)
    async with FakeApi() as fake, fake.client() as client:
        fake.aliases[f"{SESSION}/status"] = SESSION
        signed = CA.issue_session(KEY.public_key(), "ada-1", NOW).pem.decode()
        fake.put(SESSION, {"spec": {"user": "ada"}, "status": {"certificate": signed}})
        fake.put(REGISTRY, {"data": {"pod-1": samples.record().dump()}})
        fake.put(ATTACHMENT, ready_attachment())
        facts = ClusterFacts(client, SETTINGS, "")
        facts.current = link_pb2.ClusterInfo(cluster_domain="cluster.local")
        board = Board(client, "tpd")
        presence = Presence(client, "tpd-manager-0")
        made = Place(fake, board, facts, Daemons(client, board, facts, CA, presence=presence, tls=tls))
        following = spawn(board.run(), name="board")
        await asyncio.wait_for(board.wait_synced(), DEADLINE)
        yield made
        await made.daemons.close("the test is over")
        await cancel_and_wait(following)


def open_grant(message: link_pb2.ManagerToDaemon) -> link_pb2.Grant:
    signed = message.attachment.pods[0].grant
    return grants.verify(
        signed,
        CA.key.public_key(),
        pod_uid="pod-1",
        session_key=grants.key_digest(KEY.public_key()),
        now=datetime.datetime.now(datetime.UTC).timestamp(),
    )


async def test_what_is_there_is_told_and_what_changes_too(place: Place) -> None:
    async with place.talking() as messages:
        assert open_grant(await next_message(messages)).attachment == "att-1"
        await place.board.forget("pod-1")
        assert not (await next_message(messages)).attachment.pods[0].HasField("grant")
        place.fake.remove(ATTACHMENT)
        assert (await next_message(messages)).gone.uid == "att-1"


async def test_grants_are_renewed_before_they_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "LIFETIME", 3)
    monkeypatch.setattr(grants, "RENEW_BEFORE", 2)
    async with place.talking() as messages:
        first = open_grant(await next_message(messages))
        second = open_grant(await next_message(messages))
        assert first.serial != second.serial
        assert second.not_after > first.not_after


async def test_a_change_of_the_cluster_is_told(place: Place) -> None:
    async with place.talking() as messages:
        await next_message(messages)
        place.facts.current = link_pb2.ClusterInfo(cluster_domain="other.local")
        place.facts.on_change(place.facts.current)
        assert (await next_message(messages)).cluster.cluster_domain == "other.local"


async def test_a_deleted_session_ends(place: Place) -> None:
    async with place.talking() as messages:
        await next_message(messages)
        place.fake.remove(SESSION)
        assert "deleted" in (await next_message(messages)).ended.reason


async def test_other_sessions_attachments_are_none_of_its_business(place: Place) -> None:
    other = ready_attachment()
    other["metadata"] |= {"name": "other", "uid": "att-2"}
    other["spec"]["session"] = "bob-1"
    async with place.talking() as messages:
        await next_message(messages)
        place.fake.put(ATTACHMENT.replace("orders-x", "other"), other)
        place.fake.remove(ATTACHMENT)
        assert (await next_message(messages)).gone.uid == "att-1"


async def closed_because(place: Place, session: str = "ada-1") -> str:
    async with asyncio.timeout(DEADLINE), place.linked(session) as link:
        return await link.wait_closed()


async def test_a_session_that_does_not_exist(place: Place) -> None:
    assert "bob-1 does not exist" in await closed_because(place, "bob-1")


async def test_a_session_with_another_key(place: Place) -> None:
    """Whoever has an older certificate under the same name is not the session."""
    signed = CA.issue_session(pki.new_key().public_key(), "ada-1", NOW).pem.decode()
    place.fake.put(SESSION, {"spec": {"user": "ada"}, "status": {"certificate": signed}})
    assert "another key" in await closed_because(place)


async def test_one_that_is_being_deleted(place: Place) -> None:
    place.fake.objects[SESSION]["metadata"]["deletionTimestamp"] = samples.STAMP
    assert await closed_because(place)


async def test_a_replica_that_ends_says_so_and_takes_nobody_new(place: Place) -> None:
    async with place.talking() as messages:
        await place.daemons.close("shutting down")
        assert "shutting down" in await messages.stream.link.wait_closed()
    assert place.fake.objects[SESSION]["status"].get("lostAt")
    with pytest.raises(LinkClosed):
        async with place.linked():
            pass
