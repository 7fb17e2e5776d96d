"""Agents in real pods: environment, volumes, traffic and probes, by the links that daemons have."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.support.cluster import Namespace
from tests.e2e.support.linkclient import Control, Session
from tests.net.agent_sftp import DENIED, OK, Sftp
from tpd_core.aio.link import Link
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.aio.tasks import spawn
from tpd_core.proto import link_pb2

REFUSED = 1


class Daemon:
    """A link to one pod's agent; it answers HTTP requests as `laptop`, or refuses them."""

    def __init__(self, attachment: str) -> None:
        self.attachment = attachment
        self.refusing = False
        self.inbound: list[link_pb2.Inbound] = []
        self.link: Link
        self.talk: MessageStream

    async def link_to(self, session: Session, pod: link_pb2.PodGrant) -> link_pb2.AgentWelcome:
        """Link and show the grant."""
        self.link = await session.link(f"{pod.pod_uid}.agent.tpd", self.on_open)
        request = link_pb2.OpenRequest(control=link_pb2.Control())
        self.talk = MessageStream(await self.link.open(request.SerializeToString(), timeout=10))
        await self.talk.send(link_pb2.DaemonToAgent(grant=pod.grant))
        welcome: link_pb2.AgentWelcome = await self.receive("welcome")
        return welcome

    def on_open(self, incoming: Incoming) -> None:
        self.inbound.append(link_pb2.OpenRequest.FromString(incoming.request).inbound)
        if self.refusing:
            incoming.reject(REFUSED)
        else:
            spawn(self._answer(incoming.accept()), name="laptop")

    async def _answer(self, stream: Stream) -> None:
        body, seen = json.dumps({"origin": "laptop"}).encode(), b""
        with contextlib.suppress(Exception):
            while data := await stream.read():
                *requests, seen = (seen + data).split(b"\r\n\r\n")
                for _ in requests:
                    await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            stream.write_eof()

    async def receive(self, kind: str) -> Any:
        async with asyncio.timeout(20):
            while (message := await self.talk.receive(link_pb2.AgentToDaemon)) is not None:
                if message.WhichOneof("message") == kind:
                    return getattr(message, kind)
                assert message.WhichOneof("message") == "counters", message
        raise AssertionError("the agent ended the conversation")

    async def engage(self) -> int:
        await self.talk.send(link_pb2.DaemonToAgent(engage=link_pb2.Engage(attachment=self.attachment)))
        return int((await self.receive("engaged")).existing)

    async def disengage(self) -> None:
        message = link_pb2.Disengage(attachment=self.attachment, drain=5.0)
        await self.talk.send(link_pb2.DaemonToAgent(disengage=message))
        await self.receive("disengaged")

    async def files(self, volume: str) -> Sftp:
        request = link_pb2.OpenRequest(files=link_pb2.Files(attachment=self.attachment, volume=volume))
        sftp = Sftp(await self.link.open(request.SerializeToString(), timeout=10))
        await sftp.start()
        return sftp


@contextlib.asynccontextmanager
async def attached(session: Session, namespace: Namespace) -> AsyncIterator[tuple[Daemon, link_pb2.AgentWelcome]]:
    """The workload `orders` attached by the session, and a link to its only pod."""
    async with await session.link() as link:
        control = await Control.start(link, session.name)
        item = await session.attach(namespace.name, "orders")
        uid = item["metadata"]["uid"]
        (pod,) = (await control.granted(uid)).pods
        daemon = Daemon(uid)
        welcome = await daemon.link_to(session, pod)
        async with daemon.link:
            yield daemon, welcome


def reshape(namespace: Namespace, pod_spec: dict[str, Any]) -> None:
    """Change the workload's pods, and wait until only such are there."""
    patch = json.dumps(
        {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}, "template": {"spec": pod_spec}}}
    )
    namespace.kubectl("patch", "deployment", "orders", "-p", patch)
    namespace.kubectl("rollout", "status", "deployment/orders", "--timeout=120s", timeout=150)


USERS: dict[str, tuple[dict[str, Any], int | None]] = {
    "the image's user": ({}, None),
    "a user of the pod's": ({"securityContext": {"runAsUser": 1234, "runAsGroup": 2345, "fsGroup": 3456}}, 1234),
    "root": ({"securityContext": {"runAsUser": 0, "runAsGroup": 0}}, 0),
    "a shared process namespace": (
        {"shareProcessNamespace": True, "securityContext": {"runAsUser": 1234, "runAsGroup": 2345}},
        1234,
    ),
}


@pytest.mark.parametrize("case", USERS)
async def test_environment_and_volumes_whoever_the_app_runs_as(
    session: Session, namespace: Namespace, case: str
) -> None:
    shape, uid = USERS[case]
    namespace.deploy("orders", volume=True)
    if shape:
        reshape(namespace, shape)
    async with attached(session, namespace) as (daemon, welcome):
        assert welcome.environment_source == link_pb2.AgentWelcome.PROCESS, welcome.note
        environment = dict(welcome.environment)
        for name in ("ORIGIN", "PORT", "GREETING", "FROM_SECRET", "POD_ADDRESS", "FROM_MAP"):
            assert environment.pop(name) == namespace.look("orders", "env", name)
        assert environment == {}, "declared names only"
        if uid is not None:
            assert welcome.uid == uid

        data = await daemon.files("data")
        assert await data.write("from-laptop", b"hello") == OK
        assert namespace.look("orders", "file", "/data/from-laptop") == "hello"
        namespace.kubectl("exec", "deploy/orders", "-c", "app", "--", "sh", "-c", "echo back >> /data/from-laptop")
        assert await data.read("from-laptop") == b"helloback\n"
        assert await data.read("/proc/1/environ") == DENIED

        config = await daemon.files("config")
        assert await config.read("app.conf") == b"colour=blue\n"
        assert await config.write("new", b"x") != OK
        secret = await daemon.files("secret")
        assert await secret.read("password") == b"s3cret$and`more`"
    assert namespace.restarts() == 0


async def test_no_request_fails_and_probes_stay_with_the_app(session: Session, namespace: Namespace) -> None:
    namespace.deploy("orders")
    async with attached(session, namespace) as (daemon, _):
        loop = asyncio.get_running_loop()
        with await loop.run_in_executor(None, namespace.steady, "http://orders/") as steady:
            assert await loop.run_in_executor(None, namespace.origin, "orders") == "cluster"
            await daemon.engage()
            assert await loop.run_in_executor(None, namespace.origin, "orders") == "laptop"
            inbound = daemon.inbound[-1]
            assert inbound.source_host == namespace.address("caller")
            assert inbound.destination_port == 8080
            async with asyncio.timeout(20):
                while (await daemon.receive("counters")).probes < 3:
                    pass
            daemon.refusing = True
            assert await loop.run_in_executor(None, namespace.origin, "orders") == "cluster"
            daemon.refusing = False
            assert await loop.run_in_executor(None, namespace.origin, "orders") == "laptop"
            await daemon.disengage()
            assert await loop.run_in_executor(None, namespace.origin, "orders") == "cluster"
            result = await loop.run_in_executor(None, steady.end)
        assert not result["failures"], result
        assert set(result["fresh"]) == {"cluster", "laptop"}
        assert set(result["kept"]) == {"cluster"}, "older connections stay with the app"
    assert namespace.restarts() == 0
    (pod,) = namespace.pods("orders")
    assert all(status["ready"] for status in pod["status"]["containerStatuses"])


async def test_a_tcp_probe_is_answered_by_the_app(session: Session, namespace: Namespace) -> None:
    namespace.deploy("orders")
    probe = {"httpGet": None, "tcpSocket": {"port": 8080}, "periodSeconds": 1}
    reshape(namespace, {"containers": [{"name": "app", "readinessProbe": probe, "livenessProbe": probe}]})
    async with attached(session, namespace) as (daemon, _):
        await daemon.engage()
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, namespace.origin, "orders") == "laptop"
        counters = await daemon.receive("counters")
        gateway = namespace.get("node")["items"][0]["spec"]["podCIDR"].rpartition(".")[0] + ".1"
        end = loop.time() + 4.0  # four probes at least
        while loop.time() < end:
            await loop.run_in_executor(None, namespace.origin, "orders")
        assert gateway not in {inbound.source_host for inbound in daemon.inbound}
        assert counters.fallback == 0


async def test_an_agent_told_to_end_gives_the_traffic_back(session: Session, namespace: Namespace) -> None:
    namespace.deploy("orders")
    async with attached(session, namespace) as (daemon, _):
        await daemon.engage()
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, namespace.origin, "orders") == "laptop"
        (pod,) = namespace.pods("orders")
        agent = next(
            entry["name"] for entry in pod["spec"]["ephemeralContainers"] if entry["name"].startswith("tpd-agent-")
        )
        kill = "import os, signal; os.kill(1, signal.SIGTERM)"
        namespace.kubectl("exec", pod["metadata"]["name"], "-c", agent, "--", "python3", "-c", kill)
        await asyncio.wait_for(daemon.link.wait_closed(), 10)
        assert await loop.run_in_executor(None, namespace.origin, "orders") == "cluster"
