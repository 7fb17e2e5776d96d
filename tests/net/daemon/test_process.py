"""The daemon as a process: sessions, gate, bridge, relay, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from tests.net.agent_pki import POD_UID
from tests.net.daemon.cluster import ATTACHMENT, attachment_state, cluster_info
from tests.net.daemon.laptop import HOST, Laptop, deadline
from tpd.daemon.daemon import EXIT_NAMESPACE_LOST
from tpd_core.proto import control_pb2
from tpd_core.proto.link_pb2 import (
    AttachmentState,
    ManagerToDaemon,
    PodGrant,
    Problem,
    SessionEnded,
    SignedGrant,
)

pytestmark = pytest.mark.net


@pytest.fixture
async def laptop(tmp_path: Path) -> AsyncIterator[Laptop]:
    async with Laptop.running(tmp_path) as running:
        yield running


def problem(error: grpc.aio.AioRpcError) -> dict[str, str]:
    result: dict[str, str] = json.loads(error.details() or "")
    return result


def command(laptop: Laptop, name: str, **environment: str) -> subprocess.Popen[bytes]:
    with laptop.space.entered():
        return subprocess.Popen(
            [sys.executable, "-m", "tpd.daemon", name],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
        )


async def finished(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, words = await asyncio.to_thread(process.communicate, None, 15)
    return process.returncode, words.decode()


async def test_the_gate_opens_when_everything_asked_for_is_there(laptop: Laptop) -> None:
    gate = command(laptop, "gate")
    await laptop.connect()
    assert await finished(gate) == (0, "")
    attaching = asyncio.gather(
        laptop.stub.Attach(control_pb2.AttachRequest(uid=ATTACHMENT, timeout=10)), return_exceptions=True
    )
    assert (await finished(command(laptop, "gate", TPD_GATE_TIMEOUT="0.5")))[0] == 1
    manager = await laptop.cluster.managers.get()
    await manager.send(ManagerToDaemon(attachment=attachment_state()))
    await attaching
    assert await finished(command(laptop, "gate")) == (0, "")


async def test_the_gate_tells_why_it_stays_shut(laptop: Laptop) -> None:
    await laptop.connect()
    failed = attachment_state(
        pods=[],
        phase=AttachmentState.FAILED,
        problem=Problem(category="cluster", message="deployment/orders has no pods", hint="scale it up"),
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await laptop.attach(failed)
    assert problem(refused.value) == {
        "category": "cluster",
        "message": "deployment/orders has no pods",
        "hint": "scale it up",
    }
    assert await finished(command(laptop, "gate")) == (1, "tpd: failed: deployment/orders has no pods\n")


async def test_an_agents_refusal_reaches_the_caller_and_a_newer_grant_mends_it(laptop: Laptop) -> None:
    laptop.cluster.refuse = Problem(category="cluster", message="the grant has expired")
    await laptop.connect()
    manager = await laptop.cluster.managers.get()
    await manager.send(ManagerToDaemon(attachment=attachment_state()))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await laptop.stub.Attach(control_pb2.AttachRequest(uid=ATTACHMENT, timeout=60), timeout=10)
    assert problem(refused.value)["message"] == "the grant has expired"
    laptop.cluster.refuse = None
    grant = PodGrant(pod="orders-0", pod_uid=POD_UID, pod_ip="10.244.0.7", grant=SignedGrant(grant=b"second"))
    await manager.send(ManagerToDaemon(attachment=attachment_state(pods=[grant])))
    async with deadline():
        agent = await laptop.cluster.agents.get()
    assert agent.grants[-1] == b"second"
    await laptop.state(lambda state: state.attachments[0].engaged)


async def test_a_renewed_grant_is_forwarded(laptop: Laptop) -> None:
    await laptop.connect()
    await laptop.attach(attachment_state())
    async with deadline():
        agent = await laptop.cluster.agents.get()
        manager = await laptop.cluster.managers.get()
        pod = attachment_state().pods[0]
        pod.grant.grant = b"renewed"
        await manager.send(ManagerToDaemon(attachment=attachment_state(pods=[pod])))
        await laptop.stub.Detach(control_pb2.DetachRequest(uid=ATTACHMENT, drain=0.1))
    assert agent.grants == [b"first", b"renewed"]
    assert agent.disengaged == pytest.approx(0.1)


async def test_a_new_session_replaces_the_former(laptop: Laptop) -> None:
    await laptop.connect()
    await laptop.attach(attachment_state())
    _, former = await laptop.cluster.links.get()
    laptop.cluster.info = cluster_info(service_cidrs=["10.100.0.0/16"], pod_cidrs=["10.110.0.0/16"])
    reply = await laptop.connect(session="ann-2")
    assert reply.cluster.service_cidrs == ["10.100.0.0/16"]
    async with deadline():
        await former.wait_closed()
    routes = laptop.space.run("ip", "route", "show", "table", "local")
    assert "10.100.0.0/16" in routes
    assert "10.96.0.0/16" not in routes
    await laptop.state(lambda state: state.connected and not state.attachments)


async def test_an_ended_session_says_why_and_leaves_its_attachments(laptop: Laptop) -> None:
    await laptop.connect()
    await laptop.attach(attachment_state())
    manager = await laptop.cluster.managers.get()
    await manager.send(ManagerToDaemon(ended=SessionEnded(reason="deleted by an administrator")))
    await laptop.state(lambda state: state.ended == "deleted by an administrator" and not state.attachments)
    assert await finished(command(laptop, "gate")) == (
        1,
        "tpd: failed: the session ended: deleted by an administrator\n",
    )


async def test_ranges_that_overlap_the_containers_network_are_refused(laptop: Laptop) -> None:
    laptop.cluster.info = cluster_info(pod_cidrs=["172.30.0.0/16"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await laptop.connect()
    assert problem(refused.value)["category"] == "config"
    assert "172.30.0.0/16 overlaps the container network 172.30.0.0/24 (eth0)" in problem(refused.value)["message"]


async def test_a_certificate_of_another_key_is_refused(laptop: Laptop) -> None:
    certificate = laptop.pki.session("ann-1").certificate
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await laptop.connect(certificate=certificate)
    assert problem(refused.value)["category"] == "user"
    assert "does not belong to this daemon's key" in problem(refused.value)["message"]


async def test_nothing_at_the_endpoint_is_told(laptop: Laptop) -> None:
    port = laptop.cluster.address[1]
    await laptop.cluster.close()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await laptop.connect()
    assert problem(refused.value)["category"] == "network"
    assert f"{HOST}:{port}" in problem(refused.value)["message"]


async def test_the_command_line_carries_a_link(laptop: Laptop) -> None:
    async def carry() -> None:
        state = await laptop.state(lambda state: bool(state.relays_wanted))
        with laptop.host.entered():
            reader, writer = await asyncio.open_connection(*laptop.cluster.address)
        call = laptop.stub.Relay()
        await call.write(control_pb2.RelayChunk(id=state.relays_wanted[0]))

        async def down() -> None:
            while data := await reader.read(65536):
                await call.write(control_pb2.RelayChunk(data=data))

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(down())
                async for chunk in call:
                    writer.write(chunk.data)
                    await writer.drain()
        finally:
            writer.close()

    carrying = asyncio.gather(carry(), return_exceptions=True)
    reply = await laptop.connect(endpoints=[], transports=[control_pb2.TRANSPORT_RELAY])
    assert reply.transport == control_pb2.TRANSPORT_RELAY
    assert (await laptop.state(lambda state: state.connected)).relays_wanted == []
    carrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await carrying


async def test_the_bridge_copies_bytes(tmp_path: Path) -> None:
    path = tmp_path / "sock"

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(echo, path)
    script = "import sys; from tpd.daemon import bridge; bridge.CONTROL = sys.argv[1]; sys.exit(bridge.main())"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(path)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    content = os.urandom(1 << 20)
    async with deadline():
        answer, _ = await process.communicate(content)
    assert answer == content
    assert process.returncode == 0
    server.close()


async def test_losing_every_interface_ends_the_daemon_with_a_known_status(laptop: Laptop) -> None:
    assert laptop.process is not None
    laptop.space.ip("link", "del", "eth0")
    assert await asyncio.to_thread(laptop.process.wait, 10) == EXIT_NAMESPACE_LOST


async def test_a_stopped_daemon_gives_everything_back(laptop: Laptop) -> None:
    await laptop.connect()
    await laptop.attach(attachment_state())
    async with deadline():
        agent = await laptop.cluster.agents.get()
    assert await laptop.stop() == 0
    assert agent.disengaged is not None
    assert laptop.space.run("nft", "list", "ruleset") == ""
    routes = laptop.space.run("ip", "route", "show", "table", "local")
    assert "10.96" not in routes
    assert "198.18" not in routes


async def test_a_killed_daemon_leaves_no_rules_and_the_next_one_starts(laptop: Laptop) -> None:
    await laptop.connect()
    await laptop.stop(kill=True)
    assert laptop.space.run("nft", "list", "ruleset") == ""
    await laptop.start()
    await laptop.connect()
