"""Work queue, election, the CA's Secret and the registry, against an API server of one page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.kube.fakeapi import FakeApi
from tests.unit.manager import samples
from tpd_cluster.manager import ca_secret, election
from tpd_cluster.manager.board import Board
from tpd_cluster.manager.model import AgentRecord, load_registry
from tpd_cluster.manager.presence import Presence
from tpd_cluster.manager.workqueue import WorkQueue
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import ClusterError
from tpd_core.kube import ApiClient

LEASE = "/apis/coordination.k8s.io/v1/namespaces/tpd/leases/tpd-manager"
SECRET = "/api/v1/namespaces/tpd/secrets/tpd-ca"
REGISTRY = "/api/v1/namespaces/tpd/configmaps/tpd-agents"


@pytest.fixture
async def fake() -> AsyncIterator[FakeApi]:
    async with FakeApi() as api:
        yield api


@pytest.fixture
async def client(fake: FakeApi) -> AsyncIterator[ApiClient]:
    async with fake.client() as made:
        yield made


# -- work queue ----------------------------------------------------------------------------------------------------
class Worker:
    """Handles keys one gate at a time."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.gates: dict[str, asyncio.Event] = {}
        self.answers: list[float | Exception | None] = []

    async def handle(self, key: str) -> float | None:
        gate = self.gates[key] = asyncio.Event()
        self.started.put_nowait(key)
        await gate.wait()
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def next(self) -> str:
        return await asyncio.wait_for(self.started.get(), 10)


async def test_a_key_is_handled_by_one_worker_at_a_time_and_again_if_it_changed() -> None:
    worker = Worker()
    queue: WorkQueue[str] = WorkQueue(worker.handle)
    task = spawn(queue.run(), name="queue")
    queue.add("a")
    assert await worker.next() == "a"
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert await worker.next() == "b"
    worker.gates["a"].set()
    assert await worker.next() == "a"
    worker.gates["a"].set()
    worker.gates["b"].set()
    queue.add("c")
    assert await worker.next() == "c"
    await cancel_and_wait(task)


@pytest.mark.parametrize("answer", [0.01, ClusterError("no"), pytest.param(RuntimeError("bug"), id="bug")])
async def test_a_key_comes_back_by_itself(answer: float | Exception, caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    worker.answers = [answer]
    queue: WorkQueue[str] = WorkQueue(worker.handle)
    task = spawn(queue.run(), name="queue")
    queue.add("a")
    await worker.next()
    worker.gates["a"].set()
    assert await worker.next() == "a"
    assert bool(caplog.records) is isinstance(answer, Exception)
    await cancel_and_wait(task)


# -- election ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("holder", "unchanged", "may"),
    [("", 0, True), ("me", 0, True), ("other", election.DURATION - 0.1, False), ("other", election.DURATION, True)],
)
def test_who_may_take_the_lease(holder: str, unchanged: float, may: bool) -> None:
    assert election.may_take(holder, "me", unchanged) is may


def test_a_leader_stops_before_another_may_start() -> None:
    assert election.STOP_AFTER + election.RENEW_EVERY < election.DURATION


async def test_one_leads_and_hands_over(fake: FakeApi, client: ApiClient) -> None:
    fake.put(LEASE, {})
    leaders: list[str] = []

    async def lead(name: str) -> None:
        leaders.append(name)
        await asyncio.Event().wait()

    def take_part(name: str) -> tuple[election.Election, asyncio.Task[None]]:
        own = election.Election(client, "tpd", "tpd-manager", name, asyncio.get_running_loop().time)
        return own, spawn(own.run(lambda: lead(name)), name=name)

    first, first_task = take_part("one")
    await asyncio.wait_for(first.leading.wait(), 10)
    second, second_task = take_part("two")
    assert fake.objects[LEASE]["spec"]["holderIdentity"] == "one"
    await cancel_and_wait(first_task)
    await first.release()
    await asyncio.wait_for(second.leading.wait(), 10)
    assert leaders == ["one", "two"]
    spec = fake.objects[LEASE]["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("two", 2)
    await cancel_and_wait(second_task)


async def test_a_leader_whose_lease_was_taken_stops(
    fake: FakeApi, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(election, "RENEW_EVERY", 0.01)
    fake.put(LEASE, {})
    stopped = asyncio.Event()

    async def lead() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    own = election.Election(client, "tpd", "tpd-manager", "one", asyncio.get_running_loop().time)
    task = spawn(own.run(lead), name="one")
    await asyncio.wait_for(own.leading.wait(), 10)
    fake.put(LEASE, {"spec": {"holderIdentity": "two"}})
    await asyncio.wait_for(stopped.wait(), 10)
    await cancel_and_wait(task)


# -- the CA's Secret -----------------------------------------------------------------------------------------------
async def test_replicas_that_start_together_share_one_ca(fake: FakeApi, client: ApiClient) -> None:
    fake.put(SECRET, {})
    first, second = await asyncio.gather(*(ca_secret.load_or_create(client, "tpd") for _ in range(2)))
    assert first.pem == second.pem
    assert (await ca_secret.load_or_create(client, "tpd")).key_pem == first.key_pem


async def test_a_strange_secret_is_told(fake: FakeApi, client: ApiClient) -> None:
    fake.put(SECRET, {"data": {"tls.crt": "eA=="}})
    with pytest.raises(ClusterError, match=r"tls\.key"):
        await ca_secret.load_or_create(client, "tpd")


# -- registry ------------------------------------------------------------------------------------------------------
def test_records_survive_the_config_map_and_rubbish_is_passed_over() -> None:
    record = samples.record()
    assert AgentRecord.load(record.dump()) == record
    found = load_registry({"data": {"pod-1": record.dump(), "pod-2": "rubbish", "pod-3": "{}", "pod-4": "[]"}})
    assert found == {"pod-1": record}


async def test_the_registry_is_known_at_once_and_old_news_do_not_undo_it(fake: FakeApi, client: ApiClient) -> None:
    fake.put(REGISTRY, {})
    board = Board(client, "tpd")
    changes: list[set[str]] = []
    board.on_registry.append(lambda: changes.append(set(board.agents)))
    await board.enroll("pod-1", samples.record())
    assert board.agents == {"pod-1": samples.record()}
    await board.enroll("pod-2", samples.record())
    await board.forget("pod-1")
    assert set(board.agents) == {"pod-2"}
    assert changes == [{"pod-1"}, {"pod-1", "pod-2"}, {"pod-2"}]


# -- presence ------------------------------------------------------------------------------------------------------
SESSION = "/apis/tpd.dev/v1alpha1/sessions/ada-1"


@pytest.fixture
def served_status(fake: FakeApi) -> None:
    """Patches of the status subresource reach the object."""
    fake.aliases[f"{SESSION}/status"] = SESSION


@pytest.mark.usefixtures("served_status")
async def test_a_daemons_coming_and_going_is_written(fake: FakeApi, client: ApiClient) -> None:
    fake.put(SESSION, {"status": {"lostAt": "2027-01-15T08:00:00Z"}})
    presence = Presence(client, "tpd-manager-0")
    presence.came("ada-1", "c1")
    await presence.close()
    status = fake.objects[SESSION]["status"]
    assert (status["link"]["replica"], status["link"]["id"]) == ("tpd-manager-0", "c1")
    assert "lostAt" not in status
    presence.went("ada-1", "c1")
    await presence.close()
    status = fake.objects[SESSION]["status"]
    assert "link" not in status
    assert status["lostAt"]


@pytest.mark.usefixtures("served_status")
async def test_a_daemon_that_is_back_elsewhere_is_not_lost(fake: FakeApi, client: ApiClient) -> None:
    fake.put(SESSION, {"status": {"link": {"replica": "tpd-manager-1", "id": "c2"}}})
    presence = Presence(client, "tpd-manager-0")
    presence.went("ada-1", "c1")
    presence.went("gone-long-ago", "c0")
    await presence.close()
    assert fake.objects[SESSION]["status"] == {"link": {"replica": "tpd-manager-1", "id": "c2"}}


@pytest.mark.usefixtures("served_status")
async def test_a_started_replica_knows_that_its_daemons_are_gone(fake: FakeApi, client: ApiClient) -> None:
    mine = fake.put(SESSION, {"status": {"link": {"replica": "tpd-manager-0", "id": "c1"}}})
    other = {"metadata": {"name": "bob-1"}, "status": {"link": {"replica": "tpd-manager-1", "id": "c2"}}}
    presence = Presence(client, "tpd-manager-0")
    presence.forget_former_life([mine, other])
    await presence.close()
    assert fake.objects[SESSION]["status"].keys() == {"lostAt"}
    assert [method for method, *_ in fake.requests] == ["GET", "PATCH"]
