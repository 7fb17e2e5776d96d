"""Ends agents: all of a namespace or of the cluster when asked to, and records of those that ended by themselves.

The request is an annotation of the registry, so that whoever may change the ConfigMap may ask, and a new leader
carries on. It is removed when done.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final

from tpd_cluster.manager import pki, pods
from tpd_cluster.manager.board import Board
from tpd_cluster.manager.enroll import connect
from tpd_cluster.manager.model import AgentRecord
from tpd_core.aio.errors import LinkClosed, StreamRejected, StreamReset
from tpd_core.aio.link import Link
from tpd_core.kube import ApiClient, NotFound
from tpd_core.kube.paths import PODS
from tpd_core.proto import link_pb2
from tpd_core.wire.frames import RejectCode

ANNOTATION: Final = "tpd.dev/stop-agents"
"""Value: a namespace, or "*"."""

_TIMEOUT = 5.0  # seconds for one agent
_AT_ONCE = 32

_log = logging.getLogger(__name__)


class Stopper:
    """Ends agents.

    Args:
        tls: Client context with the manager's own certificate.
    """

    def __init__(self, client: ApiClient, board: Board, tls: ssl.SSLContext) -> None:
        self._client = client
        self._board = board
        self._tls = tls

    async def obey(self) -> None:
        """Do what the registry's annotation asks for, if it is there."""
        annotations = (self._board.registry_object.get("metadata") or {}).get("annotations") or {}
        scope = annotations.get(ANNOTATION)
        if not scope:
            return
        wanted = {
            uid: record for uid, record in self._board.agents.items() if scope == "*" or record.namespace == scope
        }
        _log.info("stopping agents", extra={"scope": scope, "count": len(wanted)})
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(uid: str, record: AgentRecord) -> None:
            async with turns:
                await self._stop(uid, record)

        await asyncio.gather(*(one(uid, record) for uid, record in wanted.items()))
        await self._board.forget(*wanted)
        await self._board.annotate({ANNOTATION: None})

    async def sweep(self) -> None:
        """Forget agents whose pods are gone, or which have ended."""
        gone = [uid for uid, record in list(self._board.agents.items()) if not await self._lives(uid, record)]
        await self._board.forget(*gone)

    async def _stop(self, uid: str, record: AgentRecord) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                sock = await connect(record.ip, record.port)
                link = await Link.connect(
                    sock,
                    tls=self._tls,
                    server_hostname=uid + pki.AGENT_SUFFIX,
                    on_open=lambda incoming: incoming.reject(RejectCode.UNSUPPORTED, "the manager serves nothing here"),
                )
                async with link:
                    await link.open(link_pb2.OpenRequest(stop=link_pb2.Stop()).SerializeToString())
                    await link.wait_closed()
        except (OSError, TimeoutError, LinkClosed, StreamRejected, StreamReset) as error:
            _log.info("an agent did not answer to stop", extra={"pod": record.pod, "error": str(error)})

    async def _lives(self, uid: str, record: AgentRecord) -> bool:
        try:
            pod = await self._client.get(PODS.path(record.namespace, record.pod))
        except NotFound:
            return False
        if pod["metadata"]["uid"] != uid or pods.is_leaving(pod):
            return False
        agents = pods.ephemerals_of(pod, pods.AGENT_PREFIX)
        return any(agent.name == record.container and agent.life is not pods.Life.ENDED for agent in agents)
