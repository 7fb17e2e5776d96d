"""Traffic between callers, the app and the laptop, through a real agent over real links."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator

import pytest

from tests.net.agent_pod import NODE, NODE6, POD, POD6, Client, Laptop, Pod, ask_once, deadline, running_pod
from tpd_core.proto.link_pb2 import Engage

pytestmark = pytest.mark.net
APP, LAPTOP = f"app {NODE} hello", "laptop hello"


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    async with running_pod() as pod:
        yield pod


async def test_taken_and_given_back(pod: Pod) -> None:
    assert await ask_once() == APP
    before = await Client.connect()
    assert await before.ask() == APP
    assert pod.tables() == ""

    laptop, _ = await pod.session()
    await laptop.grant(pod.pki.grant(_))
    assert pod.tables() == "", "a grant alone takes nothing"
    await laptop.send(engage=Engage(attachment="att-1"))
    assert (await laptop.receive("engaged")).existing == 1
    assert await ask_once() == LAPTOP
    assert await before.ask() == APP, "older connections stay with the app"
    (inbound,) = laptop.inbound
    assert (inbound.destination_host, inbound.destination_port) == (POD, 8080)
    assert inbound.source_host == NODE
    assert inbound.attachment == "att-1"

    await laptop.disengage()
    assert pod.tables() == ""
    assert await ask_once() == APP
    assert await before.ask() == APP
    await before.close()


async def test_idle_connections_end_in_order_when_the_laptop_leaves(pod: Pod) -> None:
    laptop, _ = await pod.engaged()
    client = await Client.connect()
    assert await client.ask() == LAPTOP
    await laptop.disengage(drain=5.0)
    assert await client.read() == "", "the end of data, not a reset"
    await client.close()


async def test_busy_connections_are_reset_at_the_end_of_the_drain(pod: Pod) -> None:
    laptop, _ = await pod.engaged()
    client = await Client.connect()
    assert await client.ask() == LAPTOP
    leaving = asyncio.ensure_future(laptop.disengage(drain=1.0))  # noqa: TID251 - a test

    async def keep_busy() -> None:
        while await client.ask() == LAPTOP:
            assert pod.tables() == ""

    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await keep_busy()
    await leaving
    await client.close()


async def test_a_server_that_speaks_first(pod: Pod) -> None:
    laptop, _ = await pod.engaged()
    laptop.greeting = b"220 ready\n"
    client = await Client.connect()
    assert await client.read() == "220 ready"
    await client.close()


async def test_large_requests_pass_whole(pod: Pod) -> None:
    await pod.engaged()
    line = "x" * 3_000_000
    client = await Client.connect()
    client.reader._limit = 4_000_000  # type: ignore[attr-defined] # the line is longer than asyncio's default
    assert await client.ask(line) == f"laptop {line}"
    await client.close()


async def test_refused_by_the_laptop_goes_to_the_app_with_all_its_bytes(pod: Pod) -> None:
    laptop, _ = await pod.engaged()
    laptop.decide = lambda _inbound: 1
    assert await ask_once("first bytes") == f"app {POD} first bytes"
    await laptop.counters(fallback=1, connections=0)
    laptop.decide = lambda _inbound: None
    assert await ask_once() == LAPTOP
    await laptop.counters(fallback=1, connections=1)


async def test_a_silent_laptop_costs_a_second(pod: Pod) -> None:
    laptop, _ = await pod.engaged()
    laptop.decide = lambda _inbound: ...
    start = asyncio.get_running_loop().time()
    assert await ask_once() == f"app {POD} hello"
    assert 0.9 < asyncio.get_running_loop().time() - start < 2.0


async def test_nobody_listens_resets_the_caller(pod: Pod) -> None:
    laptop, _ = await pod.engaged(ports=(9999,))
    laptop.decide = lambda _inbound: 1
    client = await Client.connect(9999)
    with pytest.raises(ConnectionResetError):
        await client.ask()
    await client.close()


async def test_loopback_only_ports_are_not_opened(pod: Pod) -> None:
    await pod.serve_app(7070, "127.0.0.1")
    laptop, _ = await pod.engaged(ports=(7070,))
    laptop.decide = lambda _inbound: 1
    client = await Client.connect(7070)
    with pytest.raises(ConnectionResetError):
        await client.ask()
    await client.close()


async def test_a_lost_link_is_waited_for(pod: Pod) -> None:
    laptop, credentials = await pod.engaged()
    assert await ask_once() == LAPTOP
    await laptop.link.aclose()
    asking = asyncio.ensure_future(ask_once())  # noqa: TID251 - a test
    again = await Laptop.connect(pod, credentials)
    await again.engage(pod.pki.grant(credentials))
    assert await asking == LAPTOP
    assert len(again.inbound) == 1


async def test_a_link_that_stays_away_gives_everything_back(pod: Pod) -> None:
    laptop, _ = await pod.engaged()
    client = await Client.connect()
    assert await client.ask() == LAPTOP
    laptop.cut()
    with pytest.raises(ConnectionResetError):
        await client.ask()
    start = asyncio.get_running_loop().time()
    assert await ask_once() == f"app {POD} hello"
    assert asyncio.get_running_loop().time() - start < 2.0
    assert "tpd_agent" in pod.tables()
    async with deadline(15):
        while await ask_once() != APP:  # through the redirect the app sees the agent
            pass
    assert pod.tables() == ""


async def test_connections_outlive_a_lost_transport(pod: Pod) -> None:
    credentials = pod.pki.session("ann-1")
    laptop = await Laptop.connect(pod, credentials, resume=True)
    await laptop.engage(pod.pki.grant(credentials))
    client = await Client.connect()
    assert await client.ask() == LAPTOP
    laptop.may_dial.clear()
    laptop.cut()
    asking = asyncio.ensure_future(client.ask("during"))  # noqa: TID251 - a test
    assert await ask_once() == f"app {POD} hello", "new ones are not kept waiting"
    laptop.may_dial.set()
    assert await asking == "laptop during"
    assert await ask_once() == LAPTOP
    assert await client.ask() == LAPTOP
    await client.close()


async def test_a_suspended_link_gives_everything_back_in_time(pod: Pod) -> None:
    credentials = pod.pki.session("ann-1")
    laptop = await Laptop.connect(pod, credentials, resume=True)
    await laptop.engage(pod.pki.grant(credentials))
    laptop.may_dial.clear()
    laptop.cut()
    start = asyncio.get_running_loop().time()
    async with deadline(15):
        while await ask_once() != APP:
            pass
    assert 8.0 < asyncio.get_running_loop().time() - start < 13.0
    assert pod.tables() == ""
    assert await laptop.link.wait_closed()


async def test_an_expired_grant_gives_everything_back(pod: Pod) -> None:
    laptop, credentials = await pod.session()
    await laptop.engage(pod.pki.grant(credentials, lifetime=3))
    assert await ask_once() == LAPTOP
    async with deadline(10):
        while await ask_once() == LAPTOP:
            pass
    assert pod.tables() == ""


async def test_a_renewed_grant_lives_on(pod: Pod) -> None:
    laptop, credentials = await pod.session()
    await laptop.engage(pod.pki.grant(credentials, lifetime=2))
    await laptop.send(grant=pod.pki.grant(credentials))
    end = asyncio.get_running_loop().time() + 3.0
    while asyncio.get_running_loop().time() < end:
        assert await ask_once() == LAPTOP


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_end_of_the_agent_gives_the_traffic_back(pod: Pod, number: int) -> None:
    before = await Client.connect()
    assert await before.ask() == APP
    await pod.engaged()
    assert await ask_once() == LAPTOP
    await pod.end_agent(number)
    assert pod.tables() == ""
    assert await ask_once() == APP
    assert await before.ask() == APP
    await before.close()


async def test_no_request_is_lost_while_attachments_come_and_go(pod: Pod) -> None:
    """A steady stream of new connections, several at a time, over many changes."""
    answers: set[str] = set()
    done = asyncio.Event()

    async def call() -> None:
        while not done.is_set():
            answers.add(await ask_once())

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(call())
        laptop, credentials = await pod.session()
        await laptop.grant(pod.pki.grant(credentials))
        for _ in range(5):
            await laptop.send(engage=Engage(attachment="att-1"))
            await laptop.receive("engaged")
            assert await ask_once() == LAPTOP
            await laptop.disengage(drain=5.0)
            assert await ask_once() == APP
        done.set()
    # Who was accepted just before the end is taken to the app by the agent.
    assert answers - {f"app {POD} hello"} == {APP, LAPTOP}


async def test_ipv6(pod: Pod) -> None:
    await pod.serve_app(8080, POD6)
    assert await ask_once(host=POD6) == f"app {NODE6} hello"
    laptop, _ = await pod.engaged()
    assert await ask_once(host=POD6) == LAPTOP
    assert (laptop.inbound[0].destination_host, laptop.inbound[0].source_host) == (POD6, NODE6)
    laptop.decide = lambda _inbound: 1
    assert await ask_once(host=POD6) == f"app {POD6} hello"


async def test_leaving_while_a_connection_is_being_decided(pod: Pod) -> None:
    laptop, _ = await pod.engaged()
    asked = asyncio.Event()
    laptop.decide = lambda _inbound: asked.set() or ...  # type: ignore[func-returns-value]
    asking = asyncio.ensure_future(ask_once())  # noqa: TID251 - a test
    async with deadline():
        await asked.wait()
    await laptop.disengage(drain=5.0)
    assert await asking == f"app {POD} hello"


async def test_http_probes_go_to_the_app() -> None:
    probes = [{"container": "app", "kind": "http", "port": 8080, "path": "/healthz", "scheme": "HTTP", "headers": []}]
    async with running_pod(TPD_PROBES=json.dumps(probes)) as pod:
        laptop, _ = await pod.engaged()
        client = await Client.connect()
        request = f"GET /healthz HTTP/1.1\r\nHost: {POD}:8080\r\nUser-Agent: kube-probe/1.35\r\n\r\n"
        for piece in (request[:10], request[10:40], request[40:]):
            client.writer.write(piece.encode())
            await client.writer.drain()
        assert await client.read() == f"app {POD} GET /healthz HTTP/1.1\r"
        await client.close()
        await laptop.counters(probes=1, connections=0)
        assert await ask_once("GET /healthz HTTP/1.1\r\nUser-Agent: curl/8\r\n\r") == "laptop GET /healthz HTTP/1.1\r"
        assert await ask_once("GET /orders HTTP/1.1\r") == "laptop GET /orders HTTP/1.1\r"
        silent = await Client.connect()
        silent.writer.write_eof()
        assert await silent.read() == ""
        await silent.close()


async def test_tcp_probes_never_reach_the_agent() -> None:
    probes = [{"container": "app", "kind": "tcp", "port": 8080}]
    async with running_pod(TPD_PROBES=json.dumps(probes)) as pod:
        await pod.engaged()
        assert await ask_once() == APP, "from the gateway with an untouched TTL"
        assert await ask_once(ttl=63) == LAPTOP, "from farther away by the gateway's address"
