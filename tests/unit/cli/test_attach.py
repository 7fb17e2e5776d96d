"""Volumes attached in app containers: when the helper runs, for whom, and what becomes of its complaints."""

from __future__ import annotations

import asyncio
import contextlib
import io
import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tpd.cli.report import Reporter
from tpd.compose.model import Bind
from tpd.engine.docker import Engine
from tpd.run.attach import Attacher, app_record, propagates
from tpd.run.seat import Seat
from tpd.run.state import AppRecord, AttachmentRecord, SeatRecord
from tpd_core.proto import control_pb2

SERVICE = "com.docker.compose.service"


class Helped:
    """An engine of containers that are only described; notes what its helpers are told."""

    def __init__(self) -> None:
        self.running = {"app1": ("orders", "first"), "other1": ("other", "first")}
        self.helpers: list[tuple[list[str], str]] = []
        self.outcome = (0, "")
        self.queue: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def info(self) -> dict[str, Any]:
        return {"SecurityOptions": []}

    def find(self, session: str, role: str) -> str:
        return f"{session}-{role}"

    def inspect(self, container: str) -> dict[str, Any] | None:
        if container == "one-daemon":
            return {"Image": "the-daemons"}
        if container not in self.running:
            return None
        return {"State": {"Running": True, "StartedAt": self.running[container][1]}}

    def containers(self, labels: object, *, running: bool) -> list[dict[str, Any]]:
        network = {"NetworkMode": "container:one-anchor"}
        return [
            {"Id": key, "Names": [f"/{key}"], "HostConfig": network, "Labels": {SERVICE: service}}
            for key, (service, _) in self.running.items()
        ] + [{"Id": "x", "Names": ["/x"], "HostConfig": network, "Labels": {"dev.tpd": "1", SERVICE: "orders"}}]

    def finish(self, image: str, command: Sequence[str], **settings: Any) -> tuple[int, str]:
        assert image == "the-daemons"
        assert settings["network_mode"] == "container:one-anchor"
        assert settings["labels"]["dev.tpd.run"] == "run"
        self.helpers.append((list(command), settings["pid_mode"].removeprefix("container:")))
        return self.outcome

    @contextlib.contextmanager
    def events(self, filters: object) -> Iterator[Iterator[dict[str, Any]]]:
        def stream() -> Iterator[dict[str, Any]]:
            while (event := self.queue.get()) is not None:
                yield event

        yield stream()
        self.queue.put(None)


class Scene:
    """One seat with one intercepted service."""

    def __init__(self) -> None:
        self.engine = Helped()
        self.said = io.StringIO()
        attachment = AttachmentRecord("shop", "orders-x", "uid-1", "deployment/orders", "app", [])
        app = AppRecord("orders", "deployment/orders", ["/own"])
        self.record = SeatRecord("one", "one", "a", "d", ["orders"], attachments=[attachment], apps=[app])
        self.seat = cast(Seat, SimpleNamespace(record=self.record))
        self.saves: asyncio.Queue[None] = asyncio.Queue()
        self.attacher = Attacher(
            cast(Engine, self.engine),
            "run",
            [self.seat],
            Reporter(stream=self.said),
            lambda: self.saves.put_nowait(None),
        )

    def state(self, instance: str = "i", *paths: str, uid: str = "uid-1") -> None:
        volumes = [control_pb2.VolumeStatus(mount_path=path, mounted=True) for path in paths]
        item = control_pb2.AttachmentStatus(uid=uid, volumes=volumes)
        state = control_pb2.State(instance=instance, attachments=[item] if paths else [])
        self.attacher.observe(self.seat, state)

    async def attend(self) -> list[tuple[list[str], str]]:
        """What helpers were told in one pass."""
        self.engine.helpers.clear()
        await self.attacher._pass()
        return list(self.engine.helpers)


HELP = (["hotmount", "--without", "/own", "uid-1"], "app1")


async def test_once_for_each_start_and_for_the_intercepted_service_alone() -> None:
    scene = Scene()
    assert await scene.attend() == [], "nothing is known of volumes yet"
    scene.state("i", "/data")
    assert await scene.attend() == [HELP]
    assert await scene.attend() == []
    scene.engine.running["app1"] = ("orders", "second")
    assert await scene.attend() == [HELP]
    assert not scene.saves.empty()


async def test_again_for_a_new_daemon_and_for_other_volumes() -> None:
    scene = Scene()
    for instance, paths in (("i", ["/data"]), ("j", ["/data"]), ("j", ["/data", "/etc"])):
        scene.state(instance, *paths)
        assert await scene.attend() == [HELP]
        assert await scene.attend() == []


async def test_another_process_goes_on_where_this_one_ended() -> None:
    scene, next_one = Scene(), Scene()
    scene.state("i", "/data")
    await scene.attacher.hand_over()
    assert scene.engine.helpers == [HELP]
    scene.engine.running["app1"] = ("orders", "second")
    assert await scene.attend() == []
    scene.engine.running["app1"] = ("orders", "first")
    next_one.record.apps = scene.record.apps
    next_one.state("i", "/data")
    assert await next_one.attend() == []


@pytest.mark.parametrize("end", ["left", "ended"])
async def test_volumes_that_have_gone_are_taken_out(end: str) -> None:
    scene = Scene()
    scene.state("i", "/data")
    await scene.attend()
    scene.engine.helpers.clear()
    if end == "left":
        scene.state("i")
        await scene.attacher._pass()
    else:
        await scene.attacher.detach()
    assert scene.engine.helpers == [(["hotmount", "--without", "/own"], "app1")]
    assert await scene.attend() == []


async def test_a_failure_is_said_once() -> None:
    scene = Scene()
    scene.engine.outcome = (1, "tpd: /data: Read-only file system")
    scene.state("i", "/data")
    await scene.attend()
    assert await scene.attend() == []
    assert scene.said.getvalue().splitlines() == [
        "tpd: warning: not all volumes are attached in app1: /data: Read-only file system"
    ]
    assert scene.record.apps[0].problem == "/data: Read-only file system"


async def test_a_start_wakes_it() -> None:
    scene = Scene()
    scene.state("i", "/data")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(scene.attacher.run())
        for started in ("second", "third"):
            await scene.saves.get()
            scene.engine.running["app1"] = ("orders", started)
            scene.engine.queue.put({"Actor": {"Attributes": {SERVICE: "orders"}}})
        await scene.saves.get()
        running.cancel()
    assert scene.engine.helpers == [HELP] * 3


def test_the_users_own_mounts_are_left_alone() -> None:
    given = (Bind("w/a", "/a/"), Bind("w/b", "/b"))
    assert app_record("s", "deployment/w", given, (Bind("w/a", "/a"),)) == AppRecord("s", "deployment/w", ["/b"])


def test_an_engine_that_can_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    tried: list[str] = []
    answers = iter((False, True))

    def attempt(image: str, path: str) -> bool:
        tried.append(path)
        return next(answers)

    engine = cast(Engine, SimpleNamespace(propagates=attempt, address="unix:///x"))
    info = {"ID": "AB:CD", "DockerRootDir": "/var/lib/docker"}
    assert [propagates(engine, info, "anchor") for _ in range(3)] == [False, True, True]
    assert tried == ["/var/lib/docker/volumes"] * 2
