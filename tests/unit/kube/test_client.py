"""The REST client and the reflector against an API server of one page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.kube.fakeapi import FakeApi
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import Category, ConfigError, NetworkError
from tpd_core.kube import (
    ATTACHMENTS,
    SESSIONS,
    ApiClient,
    ApiError,
    Change,
    Conflict,
    Forbidden,
    Gone,
    InCluster,
    NotFound,
    Reflector,
)
from tpd_core.kube.client import wait_for
from tpd_core.kube.paths import PODS

THINGS = "/api/v1/namespaces/shop/things"


@pytest.fixture
async def fake() -> AsyncIterator[FakeApi]:
    async with FakeApi() as api:
        yield api


@pytest.fixture
async def client(fake: FakeApi) -> AsyncIterator[ApiClient]:
    async with fake.client() as made:
        yield made


def test_paths() -> None:
    assert PODS.path("shop", "a", "ephemeralcontainers") == "/api/v1/namespaces/shop/pods/a/ephemeralcontainers"
    assert SESSIONS.path() == "/apis/tpd.dev/v1alpha1/sessions"
    assert SESSIONS.path(name="x", subresource="status") == "/apis/tpd.dev/v1alpha1/sessions/x/status"
    assert ATTACHMENTS.path("shop") == "/apis/tpd.dev/v1alpha1/namespaces/shop/attachments"


async def test_lists_put_pages_together(fake: FakeApi, client: ApiClient) -> None:
    for index in range(5):
        fake.put(f"{THINGS}/t{index}", {})
    fake.page = 2
    listing = await client.list(THINGS)
    assert [item["metadata"]["name"] for item in listing["items"]] == ["t0", "t1", "t2", "t3", "t4"]


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (409, Conflict), (410, Gone), (404, NotFound)])
async def test_errors_have_types_and_the_servers_words(
    fake: FakeApi, client: ApiClient, status: int, kind: type[ApiError]
) -> None:
    fake.refuse["GET", f"{THINGS}/x"] = (status, {"message": "no, you don't", "reason": "Because"})
    with pytest.raises(kind, match="no, you don't") as caught:
        await client.get(f"{THINGS}/x")
    assert (caught.value.status, caught.value.reason) == (status, "Because")
    assert caught.value.category is Category.CLUSTER
    assert f"GET {THINGS}/x" in caught.value.message


async def test_an_answer_that_is_no_status(fake: FakeApi, client: ApiClient) -> None:
    fake.refuse["GET", "/x"] = (502, "<html>bad gateway</html>")
    with pytest.raises(ApiError, match="bad gateway") as caught:
        await client.get("/x")
    assert caught.value.status == 502


async def test_an_unreachable_server_is_named() -> None:
    async with ApiClient("http://127.0.0.1:1", timeout=5) as client:
        with pytest.raises(NetworkError, match=r"http://127\.0\.0\.1:1"):
            await client.get("/version")


async def test_a_patch_of_an_old_version_conflicts(fake: FakeApi, client: ApiClient) -> None:
    old = fake.put(f"{THINGS}/a", {"data": {"x": 1}})["metadata"]["resourceVersion"]
    await client.patch(f"{THINGS}/a", {"data": {"x": 2}})
    with pytest.raises(Conflict):
        await client.patch(f"{THINGS}/a", {"metadata": {"resourceVersion": old}, "data": {"x": 3}})


async def test_headers_are_asked_for_every_time(fake: FakeApi) -> None:
    count = 0

    async def headers() -> dict[str, str]:
        nonlocal count
        count += 1
        return {"Authorization": f"Bearer {count}"}

    fake.put(f"{THINGS}/a", {})
    async with fake.client(headers=headers) as client:
        await client.get(f"{THINGS}/a")
        await client.get(f"{THINGS}/a")
    assert count == 2


async def test_watch_lines_may_be_long(fake: FakeApi, client: ApiClient) -> None:
    fake.put(f"{THINGS}/a", {})
    long = "x" * 300_000
    events = []

    async def read() -> None:
        async for kind, item in client.watch(THINGS):
            events.append((kind, item["data"]))

    task = spawn(read(), name="watch")
    await fake.watched()
    fake.put(f"{THINGS}/a", {"data": long})
    fake.put(f"{THINGS}/b", {"data": "short"})
    fake.end_watches()
    await task
    assert events == [("MODIFIED", long), ("ADDED", "short")]


async def test_wait_for_sees_what_comes(fake: FakeApi, client: ApiClient) -> None:
    fake.put(f"{THINGS}/a", {"phase": "Pending"})
    waiter = spawn(
        wait_for(client, THINGS, "a", done=lambda item: item is not None and item["phase"] == "Ready", timeout=10),
        name="wait",
    )
    await fake.watched()
    fake.put(f"{THINGS}/a", {"phase": "Ready"})
    found = await waiter
    assert found is not None
    assert found["phase"] == "Ready"


class Seen:
    """Changes as short words, and a way to wait for them."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, change: Change) -> None:
        self.words.append(f"{change.kind.value} {change.object['metadata']['name']}")
        self._more.set()

    async def until(self, *words: str) -> None:
        async with asyncio.timeout(10):
            while len(self.words) < len(words):
                self._more.clear()
                await self._more.wait()
        assert self.words == list(words)


@contextlib.asynccontextmanager
async def following(client: ApiClient) -> AsyncIterator[tuple[Reflector, Seen]]:
    seen = Seen()
    reflector = Reflector(client, THINGS, on_change=seen)
    task = spawn(reflector.run(), name="reflector")
    try:
        await asyncio.wait_for(reflector.synced.wait(), 10)
        yield reflector, seen
    finally:
        await cancel_and_wait(task)


async def test_a_reflector_follows(fake: FakeApi, client: ApiClient) -> None:
    fake.put(f"{THINGS}/a", {})
    async with following(client) as (reflector, seen):
        await fake.watched()
        fake.put(f"{THINGS}/b", {})
        fake.put(f"{THINGS}/a", {"data": 1})
        fake.remove(f"{THINGS}/b")
        await seen.until("added a", "added b", "modified a", "deleted b")
        assert set(reflector.objects) == {("", "a")}


async def test_after_gone_it_lists_anew_and_tells_only_what_changed(fake: FakeApi, client: ApiClient) -> None:
    for name in ("a", "b", "c"):
        fake.put(f"{THINGS}/{name}", {})
    async with following(client) as (_, seen):
        await fake.watched()
        watchers, fake.watchers = fake.watchers, []
        fake.remove(f"{THINGS}/a")
        fake.put(f"{THINGS}/b", {"data": 1})
        del fake.objects[f"{THINGS}/c"]
        fake.put(f"{THINGS}/c", {}, uid="another")
        gone = '{"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}'
        for _, queue in watchers:
            queue.put_nowait(gone)
            queue.put_nowait(None)
        await seen.until("added a", "added b", "added c", "deleted a", "modified b", "deleted c", "added c")


async def test_an_ended_watch_goes_on_where_it_was(fake: FakeApi, client: ApiClient) -> None:
    fake.put(f"{THINGS}/a", {})
    async with following(client) as (_, seen):
        await fake.watched()
        fake.say(THINGS, {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "777"}}})
        fake.end_watches()
        await fake.watched()
        assert fake.requests[-1][2]["resourceVersion"] == "777"
        fake.put(f"{THINGS}/b", {})
        await seen.until("added a", "added b")


def test_outside_a_pod_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST"):
        _ = InCluster({}, tmp_path).url
    with pytest.raises(ConfigError, match="namespace"):
        _ = InCluster({}, tmp_path).namespace


async def test_the_token_is_read_from_the_mount(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    inside = InCluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)
    assert inside.url == "https://[fd00::1]:443"
    assert await inside.headers() == {"Authorization": "Bearer abc"}
