"""The process that stays after `up -d`, `docker run -d` and `connect`: it keeps a run until somebody ends it.

Started as `python -m tpd.run.watcher DIRECTORY`; waits for "go" on stdin (whose end means that it is not needed), and
says "ready" on stdout when it has taken over. Ends on SIGTERM, or when the project's containers are gone, and cleans
up either way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from pathlib import Path

from tpd.cli.report import Reporter
from tpd.engine.docker import Engine
from tpd.kube.access import client_for
from tpd.kube.config import load_login
from tpd.kube.session import who_am_i
from tpd.run.frame import Ground, Run
from tpd.run.reach import find_reach
from tpd.run.seat import Cluster, SeatPlan
from tpd.run.signals import Signals
from tpd.run.state import RunDirectory, RunRecord
from tpd_core.errors import TpdError, UserError

_GRACE = 15.0  # seconds without any of the project's containers, e.g. while compose recreates them


async def watch(directory: RunDirectory, report: Reporter) -> int:
    """Keep the run until its end; returns the exit status.

    Raises:
        TpdError: It cannot be taken over.
    """
    record = directory.read()
    if record is None or not directory.take():
        raise UserError(f"there is no run to watch in {directory.path}")
    login = await asyncio.to_thread(load_login, record.kubeconfig, record.context)
    engine = await asyncio.to_thread(Engine, record.engine)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(engine.close)
        api = await stack.enter_async_context(client_for(login))
        running = await asyncio.to_thread(engine.containers, {}, running=True)
        identity = await who_am_i(api)
        cluster = Cluster(login, api, identity, record.manager_namespace, find_reach(login, running))
        ground = Ground(engine, {}, cluster, record.namespace, (), record.mount)
        with Signals() as signals:
            run = Run.taken_over(directory, record, ground, report)
            ended = asyncio.Event()
            try:
                with signals.handled(lambda number: ended.set()):
                    await run.resume(stack, [(seat, SeatPlan.from_json(seat.plan)) for seat in record.seats])
                    _say_ready()
                    await _until_over(engine, record, ended, report)
            finally:
                with signals.ignored():
                    await run.undo.run()
    return 0


async def _until_over(engine: Engine, record: RunRecord, ended: asyncio.Event, report: Reporter) -> None:
    """Return when asked to end, or when the project's containers have been gone for a while."""
    loop = asyncio.get_running_loop()
    moved = asyncio.Event()
    with engine.events({"type": "container", "event": ["start", "die", "destroy", "stop"]}) as events:

        def follow() -> None:
            for _ in events:
                loop.call_soon_threadsafe(moved.set)

        threading.Thread(target=follow, name="engine-events", daemon=True).start()
        while not ended.is_set():
            moved.clear()
            if record.kind == "run" and not await asyncio.to_thread(apps_running, engine, record):
                report.note("the project's containers are gone")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GRACE):
                        await ended.wait()
                        return
                if not await asyncio.to_thread(apps_running, engine, record):
                    return
            await _either(ended, moved)


async def _either(*events: asyncio.Event) -> None:
    async def one(event: asyncio.Event) -> None:
        await event.wait()
        raise _HappenedError

    try:
        async with asyncio.TaskGroup() as group:
            for event in events:
                group.create_task(one(event))
    except* _HappenedError:
        pass


class _HappenedError(Exception):
    pass


def apps_running(engine: Engine, record: RunRecord) -> bool:
    """Whether any container of the user's still lives in one of the run's namespaces (or is about to restart)."""
    ours = engine.containers({"dev.tpd.run": record.id})
    anchors = {item["Id"] for item in ours if item["Labels"].get("dev.tpd.role") == "anchor"}
    for item in engine.containers({}):
        mode = str((item.get("HostConfig") or {}).get("NetworkMode", ""))
        mine = mode.removeprefix("container:") in anchors and "dev.tpd" not in (item.get("Labels") or {})
        if mine and item["State"] in ("running", "restarting", "paused"):
            return True
    return False


def _say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    # Whoever started us must not be kept waiting for the end of this pipe.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def main() -> int:
    """The process."""
    import grpc.aio  # noqa: F401  (what takes long to load is loaded while there is time)

    report = Reporter()
    if not sys.stdin.readline():
        return 0
    try:
        return asyncio.run(watch(RunDirectory(Path(sys.argv[1])), report))
    except TpdError as error:
        report.error(error)
        return error.category.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
