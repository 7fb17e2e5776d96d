"""Tasks, TLS contexts, the choice of a loop, messages on streams."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from pathlib import Path

import pytest
import trustme
import uvloop
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.unit.aio.conftest import Accepting, MakePair, pem
from tpd_core.aio.loop import is_fastnet, is_hangup, loop_factory, run
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.aio.tls import client_context, server_context
from tpd_core.wire.errors import RemoteProtocolError


# -- tasks ---------------------------------------------------------------------------------------------------------
async def test_a_failing_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    await asyncio.wait([spawn(fail(), name="worker")])
    await asyncio.sleep(0)
    assert "task worker failed" in caplog.text
    assert "broken" in caplog.text


async def test_a_failing_task_tells_its_owner(caplog: pytest.LogCaptureFixture) -> None:
    told: list[BaseException] = []

    async def fail() -> None:
        raise RuntimeError("broken")

    await asyncio.wait([spawn(fail(), name="worker", on_error=told.append)])
    await asyncio.sleep(0)
    assert [str(error) for error in told] == ["broken"]
    assert not caplog.records


async def test_cancel_and_wait_waits_for_the_clean_up() -> None:
    cleaned: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    async def done() -> None: ...

    finished = spawn(done(), name="finished")
    await finished
    task = spawn(work(), name="worker")
    await asyncio.sleep(0)
    await cancel_and_wait(task, None, finished)
    assert cleaned == [True]
    assert task.cancelled()


# -- the loop ------------------------------------------------------------------------------------------------------
def test_the_fastest_installed_loop_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def which() -> tuple[bool, bool]:
        loop = asyncio.get_running_loop()
        return isinstance(loop, uvloop.Loop), is_fastnet(loop)

    assert run(which()) == (True, True)
    hidden = {"aiofastnet"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in hidden else object())
    assert loop_factory() is uvloop.new_event_loop
    assert run(which()) == (True, False)
    hidden.add("uvloop")
    assert run(which()) == (False, False)


def test_only_lost_peers_are_kept_out_of_the_log() -> None:
    assert is_hangup({"exception": ConnectionResetError, "transport": object()})
    assert not is_hangup({"exception": ConnectionResetError()})
    assert not is_hangup({"exception": RuntimeError, "transport": object()})
    assert not is_hangup({"message": "Task was destroyed but it is pending"})


# -- TLS -----------------------------------------------------------------------------------------------------------
def test_contexts_verify_and_speak_tls_1_3_only(ca: trustme.CA) -> None:
    cert = pem(ca.issue_cert("manager.tpd"))
    server = server_context(*cert, ca.cert_pem.bytes())
    client = client_context(ca.cert_pem.bytes(), *cert)
    for context in (server, client):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert len(context.get_ca_certs()) == 1
    assert client.check_hostname
    assert not client.hostname_checks_common_name
    assert server_context(*cert, None).verify_mode is ssl.CERT_NONE


def test_a_key_of_another_certificate_is_refused(ca: trustme.CA) -> None:
    (cert, _), (_, key) = pem(ca.issue_cert("a.tpd")), pem(ca.issue_cert("b.tpd"))
    with pytest.raises(ssl.SSLError):
        server_context(cert, key, None)


@pytest.mark.skipif(sys.platform != "linux", reason="memfd is Linux's")
def test_loading_a_key_leaves_no_file_and_no_descriptor(
    ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cert = pem(ca.issue_cert("manager.tpd"))
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    server_context(*cert, None)
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert not list(tmp_path.iterdir())


# -- messages ------------------------------------------------------------------------------------------------------
async def test_messages_arrive_whole_and_in_order(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, _ = await make_pair(accepting)
    sender = MessageStream(await near.open(b""))
    receiver = MessageStream(await accepting.streams.get())
    for seconds in range(20):
        await sender.send(Duration(seconds=seconds))
    await sender.send(Timestamp(seconds=99))
    sender.stream.write_eof()
    assert [message.seconds for _ in range(20) if (message := await receiver.receive(Duration))] == list(range(20))
    assert await receiver.receive(Timestamp) == Timestamp(seconds=99)
    assert await receiver.receive(Timestamp) is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [(b"\0\0\0\3abc", "not a google.protobuf.Duration"), (b"\xff\0\0\0", "limit"), (b"\0\0\0\3a", "inside a message")],
)
async def test_bytes_that_are_no_message_reset_the_stream(make_pair: MakePair, raw: bytes, reason: str) -> None:
    accepting = Accepting()
    near, _ = await make_pair(accepting)
    stream = await near.open(b"")
    await stream.write(raw)
    stream.write_eof()
    receiver = MessageStream(await accepting.streams.get())
    with pytest.raises(RemoteProtocolError, match=reason):
        await receiver.receive(Duration)
    assert receiver.stream.over
