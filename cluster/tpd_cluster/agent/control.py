"""The control conversation with one daemon: grants, engaging, counters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from tpd_cluster.agent.environment import environment_of
from tpd_core import __version__
from tpd_core.aio.errors import LinkClosed, StreamReset
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.tasks import spawn
from tpd_core.errors import TpdError
from tpd_core.proto.link_pb2 import (
    AgentToDaemon,
    AgentWelcome,
    Counters,
    DaemonToAgent,
    Disengaged,
    Engaged,
    Grant,
    Problem,
    Refused,
    SignedGrant,
)
from tpd_core.wire.errors import ProtocolError

if TYPE_CHECKING:
    from tpd_cluster.agent.attachments import Attachments
    from tpd_cluster.agent.files import Owner
    from tpd_cluster.agent.peeks import Peeks
    from tpd_core.aio.link import Link
    from tpd_core.aio.stream import Stream

COUNTERS_EVERY: Final = 1.0
"""Seconds between two reports of changed counters, at least."""

_LONGEST_DRAIN: Final = 60.0  # seconds, whatever the daemon asks for

_log = logging.getLogger(__name__)

Verify = Callable[[SignedGrant], Grant]
"""Checks a grant for the link's peer; raises TpdError."""

OwnerOf = Callable[[str], "Owner"]
"""Whom a container runs as."""


class Control:
    """One conversation.

    Args:
        link: What it runs over.
        grants: Filled with what was verified, by attachment; the link's other streams live by it.
        verify: Checks a grant.
        attachments: What is engaged in the pod.
        peeks: What peek containers saw.
        common: The agent's own environment.
        owner_of: Whom a container runs as.
    """

    def __init__(
        self,
        link: Link,
        grants: dict[str, Grant],
        *,
        verify: Verify,
        attachments: Attachments,
        peeks: Peeks,
        common: Mapping[str, str],
        owner_of: OwnerOf,
    ) -> None:
        self._link = link
        self._grants = grants
        self._verify = verify
        self._attachments = attachments
        self._peeks = peeks
        self._common = common
        self._owner_of = owner_of
        self._talk: MessageStream | None = None
        self._sending = asyncio.Lock()
        self._dirty: dict[str, Counters] = {}
        self._reporting: asyncio.TimerHandle | None = None
        self._reported = 0.0

    async def run(self, stream: Stream) -> None:
        """Until the daemon or the link ends it; then its attachments wait for another link."""
        self._talk = MessageStream(stream)
        try:
            async with asyncio.TaskGroup() as group:
                while (message := await self._talk.receive(DaemonToAgent)) is not None:
                    self._handle(message, group)
        except* (LinkClosed, StreamReset):
            pass
        except* ProtocolError as errors:
            _log.warning("control conversation broken: %s", errors.exceptions[0])
        finally:
            if self._reporting is not None:
                self._reporting.cancel()
            self._attachments.lost(self._link)

    def _handle(self, message: DaemonToAgent, group: asyncio.TaskGroup) -> None:
        kind = message.WhichOneof("message")
        if kind == "grant":
            self._on_grant(message.grant, group)
        elif kind == "engage":
            group.create_task(self._send(self._engage(message.engage.attachment)))
        elif kind == "disengage":
            group.create_task(self._disengage(message.disengage.attachment, message.disengage.drain))
        else:
            _log.warning("a message of an unknown kind was ignored")

    def _on_grant(self, signed: SignedGrant, group: asyncio.TaskGroup) -> None:
        try:
            grant = self._verify(signed)
        except TpdError as error:
            _log.warning("grant refused: %s", error.message)
            group.create_task(self._send(refused(_named_attachment(signed), error)))
            return
        known = grant.attachment in self._grants
        self._grants[grant.attachment] = grant
        self._attachments.renew(grant)
        if not known:
            group.create_task(self._welcome(grant))

    async def _welcome(self, grant: Grant) -> None:
        peek = await self._peeks.wait(grant.container)
        owner = self._owner_of(grant.container)
        welcome = AgentWelcome(version=__version__, attachment=grant.attachment, uid=owner.uid, gid=owner.gid)
        if peek is None:
            welcome.environment_source = AgentWelcome.NONE
            welcome.note = f"nothing could look at container {grant.container}: its environment is not known"
        else:
            welcome.environment.update(environment_of(peek, self._common))
            welcome.environment_source = AgentWelcome.DECLARED if peek.process is None else AgentWelcome.PROCESS
            welcome.note = peek.note
        await self._send(AgentToDaemon(welcome=welcome))

    def _engage(self, uid: str) -> AgentToDaemon:
        grant = self._grants.get(uid)
        try:
            if grant is None or grant.not_after <= time.time():
                raise TpdError(f"no valid grant was shown for attachment {uid}")
            existing = self._attachments.engage(grant, self._link, lambda: self._changed(uid))
        except TpdError as error:
            _log.warning("not engaged: %s", error.message)
            return refused(uid, error)
        except OSError as error:
            _log.warning("not engaged: %s", error)
            return refused(uid, TpdError(f"the ports could not be taken: {error}"))
        return AgentToDaemon(engaged=Engaged(attachment=uid, existing=existing))

    async def _disengage(self, uid: str, drain: float) -> None:
        if uid in self._grants:
            await self._attachments.disengage(uid, min(max(drain, 0.0), _LONGEST_DRAIN))
        await self._send(AgentToDaemon(disengaged=Disengaged(attachment=uid)))

    def _changed(self, uid: str) -> None:
        """Report the attachment's counters, at most once a second."""
        counts = self._attachments.counts(uid)
        if counts is None:
            return
        self._dirty[uid] = Counters(
            attachment=uid, connections=counts.connections, fallback=counts.fallback, probes=counts.probes
        )
        if self._reporting is None:
            loop = asyncio.get_running_loop()
            self._reporting = loop.call_at(self._reported + COUNTERS_EVERY, self._report)

    def _report(self) -> None:
        self._reporting = None
        self._reported = asyncio.get_running_loop().time()
        messages = [AgentToDaemon(counters=counters) for counters in self._dirty.values()]
        self._dirty.clear()
        spawn(self._send(*messages), name="counters")

    async def _send(self, *messages: AgentToDaemon) -> None:
        assert self._talk is not None
        with contextlib.suppress(LinkClosed, StreamReset):
            async with self._sending:
                for message in messages:
                    await self._talk.send(message)


def refused(attachment: str, error: TpdError) -> AgentToDaemon:
    """The message that says why not."""
    problem = Problem(category=error.category.value, message=error.message, hint=error.hint)
    return AgentToDaemon(refused=Refused(attachment=attachment, problem=problem))


def _named_attachment(signed: SignedGrant) -> str:
    """What a refused grant says it is for: only good for the answer to whoever sent it."""
    try:
        return Grant.FromString(signed.grant).attachment
    except DecodeError:
        return ""
