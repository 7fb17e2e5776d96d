"""Watching over a run's daemons: tokens, relays, and a daemon that starts anew."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from tpd.cli.report import Reporter
from tpd.control.client import DaemonGoneError
from tpd.control.relay import RelayCarrier
from tpd.run.attach import Attacher
from tpd.run.seat import Seat
from tpd_core.errors import TpdError
from tpd_core.proto import control_pb2

_RENEW_AT = 0.7  # of a token's life
_REVIVE_AFTER = 1.0  # seconds that the engine's own restart policy gets
_RETRY = (0.2, 5.0)  # seconds: first pause after a failure, and the longest


class Supervisor:
    """Keeps seats going until it is cancelled.

    It may start before a seat is engaged: a relayed transport is needed for that already.

    Args:
        attacher: Told of every daemon's state; None where mounts propagate.
    """

    def __init__(self, seats: Sequence[Seat], report: Reporter, attacher: Attacher | None = None) -> None:
        self._seats = seats
        self._report = report
        self._attacher = attacher
        self._resting = False

    def rest(self) -> None:
        """The run ends: daemons may go without being missed."""
        self._resting = True

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            for seat in self._seats:
                group.create_task(self._keep(seat))
                group.create_task(self._renew(seat))

    async def _keep(self, seat: Seat) -> None:
        pause = _RETRY[0]
        while True:
            begun = time.monotonic()
            try:
                async with asyncio.TaskGroup() as group:
                    await self._follow(seat, group)
            except* TpdError:
                pass  # the daemon is not there (yet, or any more)
            pause = _RETRY[0] if time.monotonic() - begun > _RETRY[1] else min(pause * 2, _RETRY[1])
            await asyncio.sleep(pause)
            if not self._resting and seat.engaged_instance and pause > _REVIVE_AFTER:
                with contextlib.suppress(TpdError):
                    await seat.revive()

    async def _follow(self, seat: Seat, group: asyncio.TaskGroup) -> None:
        carrier = RelayCarrier(
            group,
            seat.client,
            seat.cluster.login,
            lambda: seat.token.token if seat.token is not None else "",
            seat.cluster.manager_namespace,
        )
        engaging: asyncio.Task[None] | None = None
        watching = _Link(self._report, seat.record.label)
        async for state in seat.client.watch():
            carrier.want(state.relays_wanted, seat.manager_pods, seat.manager_port)
            if self._attacher is not None:
                self._attacher.observe(seat, state)
            known = seat.engaged_instance
            if known and state.instance != known and not self._resting and (engaging is None or engaging.done()):
                engaging = group.create_task(self._engage_again(seat))
            elif known == state.instance and not self._resting:
                watching.observe(state)
        raise DaemonGoneError("tpd's daemon ended its state stream")

    async def _engage_again(self, seat: Seat) -> None:
        self._report.note("the daemon has started anew: engaging again")
        pause = _RETRY[0]
        while not self._resting:
            try:
                await seat.engage()
            except DaemonGoneError:
                return
            except TpdError as error:
                self._report.warn(f"could not engage again: {error.message}")
            else:
                self._report.note("engaged again")
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY[1])

    async def _renew(self, seat: Seat) -> None:
        while True:
            token = seat.token
            if token is None:
                await asyncio.sleep(1.0)
                continue
            await asyncio.sleep(max(5.0, (token.expires - time.time()) * _RENEW_AT))
            try:
                await seat.renew_token()
            except TpdError as error:
                self._report.warn(f"could not renew the link's token: {error.message}")
                await asyncio.sleep(_RETRY[1])


class _Link:
    """Says when the link to the cluster is lost, is back, or is over."""

    def __init__(self, report: Reporter, label: str) -> None:
        self._report = report
        self._label = label
        self._connected = True
        self._ended = ""

    def observe(self, state: control_pb2.State) -> None:
        if state.ended and state.ended != self._ended:
            self._report.warn(f"session {self._label} was ended: {state.ended}; the cluster answers for itself")
        elif self._connected and not state.connected:
            self._report.warn(f"the link to the cluster is lost{_why(state)}; trying again")
        elif state.connected and not self._connected:
            self._report.note("the link to the cluster is back")
        self._ended, self._connected = state.ended, state.connected or bool(state.ended)


def _why(state: control_pb2.State) -> str:
    return f" ({state.problem.message})" if state.problem.message else ""
