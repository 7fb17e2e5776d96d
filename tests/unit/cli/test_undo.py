"""Clean-up: the order, and that one failure does not stop the rest."""

from __future__ import annotations

import asyncio

from tpd.run.undo import Undo
from tpd_core.errors import EngineError


async def test_the_latest_goes_first_and_each_once() -> None:
    done: list[str] = []
    undo = Undo(lambda message: None)

    def push(name: str) -> None:
        async def action() -> None:
            done.append(name)

        undo.push(name, action)

    for name in ("directory", "containers", "session"):
        push(name)
    await undo.run()
    await undo.run()
    assert done == ["session", "containers", "directory"]


async def test_failures_are_said_and_the_rest_is_done() -> None:
    said: list[str] = []
    done: list[str] = []
    undo = Undo(said.append, patience=0.05)

    async def fine() -> None:
        done.append("fine")

    async def refused() -> None:
        raise EngineError("in use")

    async def endless() -> None:
        await asyncio.Event().wait()

    undo.push("finish", fine)
    undo.push("remove the volume", refused)
    undo.push("give the traffic back", endless)
    await undo.run()
    assert done == ["fine"]
    assert said == ["could not give the traffic back within 0 s", "could not remove the volume: in use"]


async def test_what_another_takes_over_is_left_alone() -> None:
    undo = Undo(lambda message: None)

    async def never() -> None:
        raise AssertionError

    undo.push("never", never)
    undo.forget()
    await undo.run()
