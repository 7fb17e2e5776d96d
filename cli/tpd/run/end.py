"""Ending runs from outside: by asking their keeper, or, where it is dead, in its place."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tpd.cli.report import Reporter
from tpd.control.client import DaemonClient
from tpd.engine.docker import Engine
from tpd.kube.access import open_cluster
from tpd.run.frame import remove_containers, stop_apps
from tpd.run.seat import delete_objects
from tpd.run.state import RunDirectory, RunRecord, all_runs
from tpd_core.errors import BugError, TpdError, UserError

_PATIENCE = 60.0  # seconds for a keeper to drain and clean up


async def end_run(directory: RunDirectory, record: RunRecord, report: Reporter) -> None:
    """End one run and wait until nothing of it is left.

    Raises:
        BugError: Its keeper does not end.
    """
    if not directory.take():
        with _last_words(directory.log_file, report):
            await _end_keeper(directory, record)
        if not directory.path.exists() or not directory.take():
            return
    await _end_in_place(directory, record, report)


async def make_way(project: str, engine: str, report: Reporter) -> None:
    """End what an earlier run of a compose project has left in the way: one that was detached, or whose keeper is dead.

    Args:
        project: The project's name.
        engine: The engine's address.

    Raises:
        UserError: The project is being run in the foreground.
    """
    for directory, record in all_runs():
        if record.project != project or record.engine != engine:
            continue
        if directory.kept() and not record.detached:
            raise UserError(
                f"the compose project {project!r} is being run already, by process {record.pid}",
                hint=f"End it there, or with `tpd quit {record.id}`.",
            )
        with report.step(f"ending the earlier run {record.id}"):
            await end_run(directory, record, report)


async def _end_keeper(directory: RunDirectory, record: RunRecord) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while directory.path.exists() and directory.kept():
        if time.monotonic() > deadline:
            raise BugError(
                f"process {record.pid}, which keeps {record.id!r}, does not end",
                hint=f"Its log: {directory.log_file}. End it by hand and run `tpd quit` again.",
            )
        await asyncio.sleep(0.1)  # processes that are not ours cannot be waited for


@contextlib.contextmanager
def _last_words(log: Path, report: Reporter) -> Iterator[None]:
    """Pass on what a watcher writes meanwhile: its log goes with it."""
    try:
        file = log.open(encoding="utf-8", errors="replace")
    except OSError:
        yield
        return
    with file:
        file.seek(0, os.SEEK_END)
        yield
        for line in file:
            report.warn(line.strip().removeprefix("tpd: ").removeprefix("warning: "))


async def _end_in_place(directory: RunDirectory, record: RunRecord, report: Reporter) -> None:
    """Do what the keeper can no longer do; what fails is said, and the rest is done."""
    engine = None
    try:
        engine = await asyncio.to_thread(Engine, record.engine)
    except TpdError as error:
        report.warn(f"containers of {record.id!r} may be left: {error.message}")
    if engine is not None:
        await asyncio.to_thread(stop_apps, engine, record.id)
        for seat in record.seats:
            await _disconnect(engine, seat.label)
    try:
        async with open_cluster(record.kubeconfig, record.context) as (_, api):
            await delete_objects(api, record.seats)
    except TpdError as error:
        report.warn(f"objects of {record.id!r} may be left in the cluster: {error.message}")
    if engine is not None:
        with contextlib.closing(engine):
            await asyncio.to_thread(remove_containers, engine, record.id, record.project)
            for remove, name in ((engine.remove_network, record.network), (engine.remove_volume, record.volume)):
                if name:
                    try:
                        await asyncio.to_thread(remove, name)
                    except TpdError as error:
                        report.warn(error.message)
    directory.remove()


async def _disconnect(engine: Engine, label: str) -> None:
    async def find() -> str | None:
        return await asyncio.to_thread(engine.find, label, "daemon")

    with contextlib.suppress(TpdError, TimeoutError):
        async with DaemonClient(find) as client, asyncio.timeout(10):
            await client.disconnect()


def strays(engine: Engine, known: set[str]) -> dict[str, int]:
    """Runs that have containers on the engine but no record here, with how many."""
    found: dict[str, int] = {}
    for item in engine.containers({"dev.tpd": "1", "dev.tpd.run": None}):
        run = str(item["Labels"]["dev.tpd.run"])
        if run not in known:
            found[run] = found.get(run, 0) + 1
    return found
