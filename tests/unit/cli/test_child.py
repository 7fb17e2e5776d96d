"""The child process: its status, and who hears of a wish to end first."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from tpd.run.child import Child
from tpd.run.signals import Signals
from tpd_core.aio.tasks import spawn
from tpd_core.errors import EngineError

# Says when it is ready, and which signal ended it.
PATIENT = """
import signal, sys, time
def end(number, frame):
    print("ended by", number, flush=True)
    sys.exit(5)
signal.signal(signal.SIGINT, end); signal.signal(signal.SIGTERM, end)
open(sys.argv[1], "w").close()
while True: signal.pause()
"""


async def nothing() -> None:
    """No clean-up before the end."""


def child(*argv: str, signals: Signals, before: object = nothing) -> Child:
    return Child(argv, dict(os.environ), signals, before_end=before, keys_end=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(("words", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)])
async def test_the_exit_status_is_a_shell_s(words: str, status: int) -> None:
    with Signals() as signals:
        assert await child("sh", "-c", words, signals=signals).run() == status


async def test_a_missing_program_is_named() -> None:
    with Signals() as signals, pytest.raises(EngineError, match="'no-such-program'"):
        await child("no-such-program", signals=signals).run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_reaches_the_child_after_the_traffic_is_back(
    number: signal.Signals, tmp_path: os.PathLike[str]
) -> None:
    ready = os.path.join(tmp_path, "ready")  # noqa: PTH118
    order: list[str] = []

    async def before() -> None:
        order.append("given back")
        await asyncio.sleep(0)

    with Signals() as signals:
        running = spawn(child(sys.executable, "-c", PATIENT, ready, signals=signals, before=before).run(), name="child")
        async with asyncio.timeout(20):
            while not os.path.exists(ready):  # noqa: PTH110, ASYNC110 (another process makes it)
                await asyncio.sleep(0.01)
        os.kill(os.getpid(), number)
        status = await asyncio.wait_for(running, 20)
    assert order == ["given back"]
    assert status == (130 if number == signal.SIGINT else 5)
    assert signals.received == number


async def test_before_a_child_runs_a_signal_cancels() -> None:
    async def work() -> None:
        with Signals():
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(spawn(work(), name="work"), 20)
