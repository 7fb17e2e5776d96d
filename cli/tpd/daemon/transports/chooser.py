"""Which transport to try, in which order, and when to try the next one beside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from tpd.daemon.transports.base import NAMES, Kind, Opened, Transport
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import NetworkError, TpdError

_log = logging.getLogger(__name__)

_FIRST_PENALTY = 0.1  # seconds
_MOST_PENALTY = 30.0


class Standing:
    """Order of preference, less what failed a moment ago. Pure: the caller brings the clock.

    Args:
        kinds: Best first.
    """

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = list(kinds)
        self._failures: dict[Kind, tuple[int, float]] = {}  # how often in a row, and when it may be tried again

    def order(self, now: float) -> list[Kind]:
        """All kinds: those in good standing by preference, then the others, the soonest forgiven first."""

        def rank(kind: Kind) -> tuple[float, int]:
            _, until = self._failures.get(kind, (0, 0.0))
            return (until if until > now else 0.0, self._kinds.index(kind))

        return sorted(self._kinds, key=rank)

    def failed(self, kind: Kind, now: float) -> None:
        """It did not work: it comes last for a while that doubles with each failure."""
        count = self._failures.get(kind, (0, 0.0))[0] + 1
        self._failures[kind] = (count, now + min(_FIRST_PENALTY * 2.0**count, _MOST_PENALTY))

    def worked(self, kind: Kind) -> None:
        """It did work: all is forgiven."""
        self._failures.pop(kind, None)


class TransportChooser:
    """Opens the best transport that works.

    A kind that neither fails nor works within its head start gets company, so that an address that swallows packets
    costs a moment and not its whole timeout; whichever is there first is taken.

    Args:
        transports: Best first, one of each kind.
    """

    def __init__(self, transports: Sequence[Transport]) -> None:
        self._transports = {transport.kind: transport for transport in transports}
        self._standing = Standing(list(self._transports))

    async def open(self) -> Opened:
        """A way to the router.

        Raises:
            TpdError: None works; the first preference's error, or one that names them all.
        """
        now = asyncio.get_running_loop().time()
        waiting = [transport for kind in self._standing.order(now) if (transport := self._transports[kind]).available()]
        if not waiting:
            raise NetworkError("there is no way to the manager: neither an endpoint nor an API server is known")
        running: dict[asyncio.Task[Opened], Transport] = {}
        errors: list[tuple[Transport, BaseException]] = []
        try:
            while waiting or running:
                if waiting:
                    transport = waiting.pop(0)
                    # its error is collected below
                    task = spawn(transport.open(), name="transport", on_error=lambda _error: None)
                    running[task] = transport
                patience = transport.head_start if waiting else None
                done, _ = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    tried = running.pop(task)
                    if (error := task.exception()) is None:
                        return task.result()
                    self.failed(tried.kind)
                    errors.append((tried, error))
                    _log.info("transport failed", extra={"transport": NAMES[tried.kind], "reason": str(error)})
        finally:
            await _discard(running)
        raise _summary(errors)

    def failed(self, kind: Kind) -> None:
        """A link over this kind did not come up."""
        self._standing.failed(kind, asyncio.get_running_loop().time())

    def worked(self, kind: Kind) -> None:
        """A link over this kind came up."""
        self._standing.worked(kind)


async def _discard(running: dict[asyncio.Task[Opened], Transport]) -> None:
    for task in running:
        if task.done() and not task.cancelled() and task.exception() is None:
            task.result().sock.close()
    await cancel_and_wait(*running)
    for task in running:
        if not task.cancelled() and task.exception() is None:
            task.result().sock.close()


def _summary(errors: Sequence[tuple[Transport, BaseException]]) -> TpdError:
    if len(errors) == 1 and isinstance(errors[0][1], TpdError):
        return errors[0][1]
    words = "; ".join(f"{NAMES[transport.kind]}: {getattr(error, 'message', error)}" for transport, error in errors)
    hint = next((error.hint for _, error in errors if isinstance(error, TpdError) and error.hint), "")
    return NetworkError(f"the cluster's manager cannot be reached: {words}", hint=hint)
