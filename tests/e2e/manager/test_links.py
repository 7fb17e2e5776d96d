"""Links of daemons: who gets in, what they may reach, and how sessions end."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.support.cluster import Cluster, Namespace
from tests.e2e.support.linkclient import Control, Session, open_session
from tpd_cluster.manager.sessions import rfc3339
from tpd_core.aio.errors import LinkClosed, StreamRejected
from tpd_core.aio.link import Link
from tpd_core.aio.tls import client_context
from tpd_core.kube import ATTACHMENTS, SESSIONS, ApiClient
from tpd_core.kube.client import wait_for
from tpd_core.proto import link_pb2
from tpd_core.wire.frames import RejectCode

LATER = datetime.timedelta(seconds=120)


async def status_of(session: Session, done: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The session's status once it is as wanted."""
    found = await wait_for(
        session.client,
        SESSIONS.path(),
        session.name,
        done=lambda item: item is not None and bool(done(item["status"])),
        timeout=20,
    )
    assert found is not None
    return dict(found["status"])


def dial(host: str, port: int) -> bytes:
    return link_pb2.OpenRequest(dial=link_pb2.Dial(host=host, port=port)).SerializeToString()


async def test_the_first_word_is_about_the_cluster(cluster: Cluster, session: Session) -> None:
    async with await session.link() as link:
        control = await Control.start(link, session.name)
        await control.until(lambda now: now.cluster)
        assert control.cluster is not None
        kubernetes = cluster.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"]
        dns = cluster.get("service", "kube-dns", "-n", "kube-system")["spec"]["clusterIP"]
        assert control.cluster.cluster_domain == "cluster.local"
        assert control.cluster.dns_address == dns
        assert any(contains(cidr, kubernetes) for cidr in control.cluster.service_cidrs)
        assert control.cluster.pod_cidrs
        assert [(found.host, found.port) for found in control.cluster.endpoints] == [session.endpoint]


def contains(cidr: str, address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


async def test_nobody_links_without_a_certificate(session: Session) -> None:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, session.endpoint)
    anonymous = client_context(session.status["ca"].encode())
    with pytest.raises(LinkClosed):
        await Link.connect(
            sock, tls=anonymous, server_hostname="manager.tpd", on_open=lambda incoming: incoming.reject(5)
        )


async def test_a_deleted_session_is_told_and_its_certificate_worth_nothing(kube: ApiClient) -> None:
    session = await open_session(kube)
    link = await session.link()
    control = await Control.start(link, session.name)
    await control.until(lambda now: now.cluster)
    await session.delete()
    await control.until(lambda now: now.ended)
    async with asyncio.timeout(10):
        await link.wait_closed()
        again = await session.link()
        assert "does not exist" in await again.wait_closed() or again.reason


async def test_the_manager_dials_into_the_cluster_but_not_into_itself(session: Session, namespace: Namespace) -> None:
    namespace.deploy("orders")
    address = namespace.pods("orders")[0]["status"]["podIP"]
    async with await session.link() as link:
        stream = await link.open(dial(address, 8080), timeout=10)
        await stream.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await stream.read()).startswith(b"HTTP/1.1 200")
        for host, port, code in (
            ("127.0.0.1", 8443, RejectCode.DENIED),
            ("169.254.169.254", 80, RejectCode.DENIED),
            (namespace.address("caller"), 1, RejectCode.REFUSED),
        ):
            with pytest.raises(StreamRejected) as caught:
                await link.open(dial(host, port), timeout=15)
            assert caught.value.code == code


async def test_a_lost_daemon_is_noted_and_its_session_ends_after_the_grace(
    kube: ApiClient, namespace: Namespace
) -> None:
    namespace.deploy("orders")
    session = await open_session(kube)
    item = await session.attach(namespace.name, "orders")
    async with await session.link():
        status = await status_of(session, lambda now: now.get("link"))
        assert status["link"]["replica"].startswith("tpd-manager-")
    status = await status_of(session, lambda now: now.get("lostAt"))
    assert not status.get("link")
    async with await session.link():
        status = await status_of(session, lambda now: now.get("link"))
        assert not status.get("lostAt")
    await status_of(session, lambda now: now.get("lostAt"))
    # as if the grace had passed
    past = rfc3339(datetime.datetime.now(datetime.UTC) - LATER)
    await kube.patch(SESSIONS.path(name=session.name, subresource="status"), {"status": {"lostAt": past}})
    assert await wait_for(kube, SESSIONS.path(), session.name, done=lambda now: now is None, timeout=20) is None
    name = item["metadata"]["name"]
    gone = await wait_for(kube, ATTACHMENTS.path(namespace.name), name, done=lambda now: now is None, timeout=20)
    assert gone is None


async def test_only_agents_are_reached_by_their_names(session: Session) -> None:
    for name in ("00000000-0000-0000-0000-000000000000.agent.tpd", "example.com"):
        with pytest.raises((LinkClosed, OSError)):
            await session.link(name)


async def test_two_streams_of_control_are_one_too_many(session: Session) -> None:
    async with await session.link() as link:
        await Control.start(link, session.name)
        with pytest.raises(StreamRejected):
            await Control.start(link, session.name)


async def test_hello_for_another_session_ends_the_link(session: Session) -> None:
    link: Link = await session.link()
    await Control.start(link, "another")
    async with asyncio.timeout(10):
        await link.wait_closed()
