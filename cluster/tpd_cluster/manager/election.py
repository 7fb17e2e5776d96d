"""One replica leads: a Lease in the manager's namespace says which.

A leader that cannot renew stops leading before another may take over: it counts from its own last renewal, the others
from when they last saw the Lease change, each by its own monotonic clock, so clocks need not agree.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Callable
from typing import Any, Final

from tpd_core.aio.tasks import cancel_and_wait
from tpd_core.errors import TpdError
from tpd_core.kube import ApiClient, Conflict
from tpd_core.kube.paths import LEASES

DURATION: Final = 12.0
"""Seconds without a change after which another replica takes the Lease."""
RENEW_EVERY: Final = 2.0
"""Seconds between renewals, and between looks of the others."""
STOP_AFTER: Final = 8.0
"""Seconds without a successful renewal after which a leader stops."""

_log = logging.getLogger(__name__)


class Election:
    """Takes part until cancelled.

    Args:
        me: This replica's name.
        monotonic: Seconds.
    """

    def __init__(self, client: ApiClient, namespace: str, name: str, me: str, monotonic: Callable[[], float]) -> None:
        self.leading = asyncio.Event()
        self._client = client
        self._path = LEASES.path(namespace, name)
        self._me = me
        self._monotonic = monotonic
        self._seen_version = ""
        self._seen_at = monotonic()
        self._renewed_at = float("-inf")

    async def run(self, lead: Callable[[], Any]) -> None:
        """Lead (run the coroutine made by `lead`) while this replica holds the Lease."""
        while True:
            if not await self._attempt():
                await asyncio.sleep(RENEW_EVERY)
                continue
            _log.info("leading")
            self.leading.set()
            try:
                async with asyncio.TaskGroup() as group:
                    work = group.create_task(lead())
                    keeper = group.create_task(self._keep())
                    await asyncio.wait((work, keeper), return_when=asyncio.FIRST_COMPLETED)
                    await cancel_and_wait(work, keeper)
            finally:
                self.leading.clear()
            _log.warning("no longer leading")

    async def _keep(self) -> None:
        """Renew; returns when the Lease is lost."""
        while self._monotonic() - self._renewed_at < STOP_AFTER:
            await asyncio.sleep(RENEW_EVERY)
            if not await self._attempt() and self._seen_holder != self._me:
                return

    async def release(self) -> None:
        """Give the Lease up, so that another replica need not wait."""
        if self._renewed_at == float("-inf"):
            return
        try:
            lease = await self._client.get(self._path)
            if lease.get("spec", {}).get("holderIdentity") == self._me:
                version = lease["metadata"]["resourceVersion"]
                await self._client.patch(
                    self._path, {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": ""}}
                )
        except TpdError as error:
            _log.warning("the lease could not be released: %s", error.message)

    _seen_holder = ""

    async def _attempt(self) -> bool:
        """Take or renew the Lease if it is free or ours."""
        try:
            async with asyncio.timeout(STOP_AFTER / 2):
                lease = await self._client.get(self._path)
                now = self._monotonic()
                metadata, spec = lease["metadata"], lease.get("spec") or {}
                self._seen_holder = spec.get("holderIdentity") or ""
                if metadata["resourceVersion"] != self._seen_version:
                    self._seen_version, self._seen_at = metadata["resourceVersion"], now
                if not may_take(self._seen_holder, self._me, now - self._seen_at):
                    return False
                time = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                fields: dict[str, Any] = {
                    "holderIdentity": self._me,
                    "leaseDurationSeconds": int(DURATION),
                    "renewTime": time,
                }
                if self._seen_holder != self._me:
                    fields |= {"acquireTime": time, "leaseTransitions": spec.get("leaseTransitions", 0) + 1}
                body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "spec": fields}
                await self._client.patch(self._path, body)
        except Conflict:
            return False
        except (TpdError, TimeoutError) as error:
            _log.warning("the lease could not be looked at: %s", error or "no answer")
            return False
        self._seen_holder = self._me
        self._renewed_at = now
        return True


def may_take(holder: str, me: str, unchanged: float) -> bool:
    """Whether the Lease is ours, free, or given up by a leader that has not renewed for too long.

    Args:
        unchanged: Seconds since this replica saw the Lease change.
    """
    return holder in ("", me) or unchanged >= DURATION
