"""What a link may do: grants, dialling, environment, volumes, and how an agent ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator

import pytest

from tests.net.agent_pki import Pki
from tests.net.agent_pod import (
    NODE,
    PEEK_TOKEN,
    Laptop,
    Pod,
    answer_lines,
    ask_once,
    deadline,
    running_pod,
)
from tpd_core.aio.errors import LinkClosed, StreamRejected
from tpd_core.proto.link_pb2 import (
    AgentWelcome,
    Dial,
    Engage,
    Files,
    Inbound,
    Mount,
    OpenRequest,
    Problem,
    Stop,
)

pytestmark = pytest.mark.net


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    async with running_pod() as pod:
        yield pod


async def refused(laptop: Laptop, request: OpenRequest) -> StreamRejected:
    with pytest.raises(StreamRejected) as caught:
        await laptop.open(request)
    return caught.value


async def test_only_clients_of_the_managers_ca_get_a_link(pod: Pod) -> None:
    agents = pod.pki.server_only("another-agent")
    for credentials in (Pki().session("ann-1"), agents):
        with pytest.raises(LinkClosed):
            await Laptop.connect(pod, credentials)


async def test_a_second_developer_is_told_who_holds_the_port(pod: Pod) -> None:
    await pod.engaged()
    bob, credentials = await pod.session("bob-1")
    await bob.grant(pod.pki.grant(credentials, attachment="att-2", user="bob", session="bob-1"))
    await bob.send(engage=Engage(attachment="att-2"))
    refusal = await bob.receive("refused")
    assert refusal.attachment == "att-2"
    assert refusal.problem.message == "port 8080 of the pod is intercepted by ann (session ann-1)"
    assert await ask_once() == "laptop hello"
    assert not bob.inbound

    await bob.grant(pod.pki.grant(credentials, attachment="att-3", user="bob", session="bob-1", ports=(9090,)))
    await pod.serve_app(9090)
    assert await ask_once(port=9090) == f"app {NODE} hello"
    await bob.send(engage=Engage(attachment="att-3"))
    await bob.receive("engaged")
    assert await ask_once(port=9090) == "laptop hello"
    await bob.disengage(attachment="att-3")
    assert await ask_once(port=9090) == f"app {NODE} hello"
    assert await ask_once() == "laptop hello"


async def test_grants_of_others_are_refused(pod: Pod) -> None:
    laptop, credentials = await pod.session()
    other = pod.pki.session("bob-1")
    forged = pod.pki.grant(credentials)
    forged.signature = forged.signature[:-1] + bytes([forged.signature[-1] ^ 1])
    cases = {
        "belongs to session ann-1": pod.pki.grant(other),
        "this is": pod.pki.grant(credentials, pod_uid="another"),
        "expired": pod.pki.grant(credentials, lifetime=-100),
        "not signed": forged,
    }
    for words, signed in cases.items():
        await laptop.send(grant=signed)
        refusal = await laptop.receive("refused")
        assert refusal.attachment == "att-1"
        assert words in refusal.problem.message
    await laptop.send(engage=Engage(attachment="att-1"))
    assert "no valid grant" in (await laptop.receive("refused")).problem.message
    assert pod.tables() == ""


async def test_udp_is_refused_with_a_reason(pod: Pod) -> None:
    laptop, credentials = await pod.session()
    await laptop.grant(pod.pki.grant(credentials, protocol="UDP"))
    await laptop.send(engage=Engage(attachment="att-1"))
    assert "port 8080/UDP" in (await laptop.receive("refused")).problem.message


async def test_the_nodes_own_network_is_never_changed() -> None:
    async with running_pod(TPD_NODE_IP="10.99.0.2") as pod:
        laptop, credentials = await pod.session()
        await laptop.grant(pod.pki.grant(credentials))
        await laptop.send(engage=Engage(attachment="att-1"))
        assert "node's network" in (await laptop.receive("refused")).problem.message
        assert pod.tables() == ""


async def test_dialling_out_of_the_pod(pod: Pod) -> None:
    server = await asyncio.start_server(lambda r, w: answer_lines("inside", r, w), NODE, 0)
    port = server.sockets[0].getsockname()[1]
    laptop, credentials = await pod.session()
    request = OpenRequest(dial=Dial(host=NODE, port=port))
    assert (await refused(laptop, request)).code == 3
    await laptop.grant(pod.pki.grant(credentials))
    stream = await laptop.open(request)
    await stream.write(b"hello\n")
    stream.write_eof()
    async with deadline():
        answer = b""
        while data := await stream.read():
            answer += data
    assert answer == b"inside 10.99.0.2 hello\n"
    server.close()
    await server.wait_closed()
    for host, number, code in ((NODE, port, 1), ("127.0.0.1", 8080, 3), ("name", 80, 5), ("10.98.0.1", 80, 2)):
        if host == "10.98.0.1":
            pod.space.ip("route", "add", "unreachable", "10.98.0.0/16")
        error = await refused(laptop, OpenRequest(dial=Dial(host=host, port=number)))
        assert error.code == code, str(error)
    for request in (OpenRequest(inbound=Inbound()), OpenRequest(stop=Stop())):
        assert (await refused(laptop, request)).code == 5


async def test_environment_from_the_running_process() -> None:
    async with running_pod(TPD_PEEK_TOKEN=PEEK_TOKEN) as pod:
        laptop, credentials = await pod.session()
        waiting = asyncio.ensure_future(laptop.grant(pod.pki.grant(credentials)))  # noqa: TID251 - a test
        assert (await pod.peek(token="wrong")).startswith("refused")
        answer = await pod.peek(
            names=["DB", "LOST"],
            prefixes=[""],
            resolved={"DB": "declared", "EXTRA": "from a map", "PATH": "/bin", "LOST": "kept"},
            process={"DB": "real", "EXTRA": "seen", "HOME": "/"},
            uid=1000,
            gid=2000,
            groups=[3000],
        )
        assert answer == "ok\n"
        welcome = await waiting
        assert dict(welcome.environment) == {"DB": "real", "EXTRA": "seen", "LOST": "kept"}
        assert welcome.environment_source == AgentWelcome.PROCESS
        assert (welcome.uid, welcome.gid, welcome.note) == (1000, 2000, "")


async def test_environment_without_a_peek(pod: Pod) -> None:
    laptop, credentials = await pod.session()
    welcome = await laptop.grant(pod.pki.grant(credentials))
    assert welcome.environment_source == AgentWelcome.NONE
    assert "container app" in welcome.note


async def test_volumes_need_a_grant_that_names_them(pod: Pod) -> None:
    laptop, credentials = await pod.session()
    request = OpenRequest(files=Files(attachment="att-1", volume="data"))
    assert (await refused(laptop, request)).code == 3
    await laptop.grant(pod.pki.grant(credentials, mounts=(Mount(mount_path="/d", volume="other"),)))
    assert (await refused(laptop, request)).code == 3
    await laptop.send(grant=pod.pki.grant(credentials, mounts=(Mount(mount_path="/d", volume="data"),)))
    await laptop.engage(pod.pki.grant(credentials, attachment="att-9", ports=(1,)), "att-9")
    error = await refused(laptop, request)
    assert (error.code, str(error)) == (2, "the agent has no volume 'data'")


async def test_the_manager_stops_an_agent(pod: Pod) -> None:
    await pod.engaged()
    manager = await Laptop.connect(pod, pod.pki.manager(), control=False)
    stream = await manager.open(OpenRequest(stop=Stop()))
    with contextlib.suppress(LinkClosed):
        assert await stream.read() == b""
    assert await pod.agent_exit() == 0
    assert await ask_once() == f"app {NODE} hello"


async def test_an_idle_agent_ends() -> None:
    async with running_pod(TPD_IDLE_TIMEOUT="1.5") as pod:
        laptop, _ = await pod.engaged()
        async with deadline():
            while len(laptop.inbound) < 10:
                await ask_once()
        assert pod.process is not None
        assert pod.process.returncode is None
        await laptop.link.aclose()
        assert await pod.agent_exit() == 0
        assert await ask_once() == f"app {NODE} hello"


async def test_enrolment_refused_ends_the_agent(capfd: pytest.CaptureFixture[str]) -> None:
    async with running_pod(agent=False) as pod:
        pod.refuse = Problem(category="cluster", message="ticket is spent", hint="")
        await pod.run_agent()
        assert await pod.agent_exit() == 1
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "spent" in line]
        assert lines[-1]["message"] == "ticket is spent"


async def test_enrolment_is_tried_again_while_the_network_is_not_ready() -> None:
    async with running_pod(agent=False) as pod:
        pod.refuse = Problem(category="network", message="address not known yet", hint="")
        await pod.run_agent(TPD_ENROLL=f"{NODE}:1,{NODE}:{pod._enroll_port}")
        asyncio.get_running_loop().call_later(0.3, setattr, pod, "refuse", None)
        async with deadline(20):
            await pod.enrolled.wait()
        assert await pod.end_agent(signal.SIGTERM) == 0
