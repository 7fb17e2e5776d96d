"""Says in sessions' statuses whether their daemons are here: once when one comes, once when it goes, no heartbeats."""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Awaitable, Callable, Iterable

from tpd_cluster.manager.model import Object
from tpd_cluster.manager.sessions import rfc3339
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import TpdError
from tpd_core.kube import SESSIONS, ApiClient, Conflict, NotFound

_RETRY = 2.0  # seconds between attempts to write a status
_LAST_WORDS = 2.0  # seconds that writing may take when the replica ends

_log = logging.getLogger(__name__)


class Presence:
    """Writes `status.link` and `status.lostAt`.

    Args:
        replica: This replica's name.
    """

    def __init__(self, client: ApiClient, replica: str) -> None:
        self._client = client
        self._replica = replica
        self._writing: dict[str, asyncio.Task[None]] = {}  # by connection

    def came(self, session: str, connection: str) -> None:
        """A daemon has linked; `connection` names this very link."""
        link = {"replica": self._replica, "id": connection, "connectedAt": _now()}
        path = SESSIONS.path(name=session, subresource="status")
        self._write(connection, lambda: self._client.patch(path, {"status": {"link": link, "lostAt": None}}))

    def went(self, session: str, connection: str) -> None:
        """Its link is gone; nothing is written if it has come back here or elsewhere."""

        async def attempt() -> None:
            item = await self._client.get(SESSIONS.path(name=session))
            if ((item.get("status") or {}).get("link") or {}).get("id") != connection:
                return
            version = item["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version}, "status": {"link": None, "lostAt": _now()}}
            await self._client.patch(SESSIONS.path(name=session, subresource="status"), body)

        self._write(connection, attempt)

    def forget_former_life(self, sessions: Iterable[Object]) -> None:
        """Sessions that this replica served before it was started again: their daemons must come back."""
        for session in sessions:
            link = (session.get("status") or {}).get("link") or {}
            if link.get("replica") == self._replica:
                self.went(session["metadata"]["name"], link.get("id", ""))

    async def close(self) -> None:
        """Wait a little for what is still being written."""
        tasks = set(self._writing.values())
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_WORDS)
        await cancel_and_wait(*tasks)

    def _write(self, connection: str, attempt: Callable[[], Awaitable[object]]) -> None:
        before = self._writing.get(connection)
        task = spawn(self._persist(before, attempt), name="presence")
        self._writing[connection] = task

        def finished(_: asyncio.Task[None]) -> None:
            if self._writing.get(connection) is task:
                del self._writing[connection]

        task.add_done_callback(finished)

    async def _persist(self, before: asyncio.Task[None] | None, attempt: Callable[[], Awaitable[object]]) -> None:
        """Try until it is written or the session is gone; what was to be written before is given up."""
        await cancel_and_wait(before)
        while True:
            try:
                await attempt()
            except NotFound:
                return
            except Conflict:
                continue
            except TpdError as error:
                _log.warning("a session's status could not be written: %s", error.message)
                await asyncio.sleep(_RETRY)
                continue
            return


def _now() -> str:
    return rfc3339(datetime.datetime.now(datetime.UTC))
