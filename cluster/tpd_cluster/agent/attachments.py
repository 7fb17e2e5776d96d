"""Every transition of an attachment in this pod.

    granted ──engage──▶ engaged ──link lost──▶ waiting ──10 s──▶ gone
       │                  │  ▲                   │
       │                  │  └──────engage───────┘
       └──expiry, link lost─▶ gone ◀──disengage, expiry──┘

While *engaged*, a link carries the attachment's connections. While *waiting*, because the link is gone or has lost its
connection (it may come back to that), its ports are still taken; a new connection waits a second, then goes to the
app. When it is *gone*, so are its ports, and with the last of them the redirect. A grant that is not renewed ends its
attachment, whatever the link does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tpd_cluster.agent.existing import count_established
from tpd_cluster.agent.ports import Holder, PortTable
from tpd_core.errors import ClusterError

if TYPE_CHECKING:
    from tpd_cluster.agent.inbound import Connection
    from tpd_cluster.agent.redirect import Redirect
    from tpd_core.aio.link import Link
    from tpd_core.proto.link_pb2 import Grant

KEEP_WITHOUT_LINK: Final = 10.0
"""Seconds after which an attachment without a link gives its ports back."""

_IDLE: Final = 0.25
"""A connection without a byte for so many seconds may be ended when its attachment leaves."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """Connections since the attachment was engaged."""

    connections: int = 0
    fallback: int = 0
    probes: int = 0


@dataclass(slots=True, eq=False)
class Attachment:
    """One session's claim on the pod.

    Attributes:
        grant: The newest.
        link: What carries its connections, None when it is gone.
        existing: Connections that the app had when the attachment was first engaged; they stay with it.
        linked: Set while `link` can carry connections, and when there is no use in waiting.
        gone: It has given its ports back.
        counts: What became of the connections.
        connections: Those that the laptop answers, or is being asked to.
        on_counts: Told when `counts` change.
    """

    grant: Grant
    existing: int
    link: Link | None = None
    linked: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False
    counts: Counts = field(default_factory=Counts)
    connections: set[Connection] = field(default_factory=set)
    on_counts: Callable[[], None] | None = None
    loss: asyncio.TimerHandle | None = None
    expiry: asyncio.TimerHandle | None = None

    def count(self, *, connections: int = 0, fallback: int = 0, probes: int = 0) -> None:
        """Add to the counts and tell whoever reports them."""
        self.counts.connections += connections
        self.counts.fallback += fallback
        self.counts.probes += probes
        if self.on_counts is not None:
            self.on_counts()


class Attachments:
    """The attachments that are engaged here, and their ports."""

    def __init__(self, redirect: Redirect) -> None:
        self._redirect = redirect
        self._table = PortTable()
        self._attachments: dict[str, Attachment] = {}

    def __len__(self) -> int:
        return len(self._attachments)

    def choose(self, port: int) -> Attachment | None:
        """Whose connection to `port` is; None: the app's."""
        holder = self._table.choose(port)
        return None if holder is None else self._attachments[holder.attachment]

    def counts(self, uid: str) -> Counts | None:
        """Counters of an attachment that is engaged."""
        attachment = self._attachments.get(uid)
        return None if attachment is None else attachment.counts

    def engage(self, grant: Grant, link: Link, on_counts: Callable[[], None]) -> int:
        """Take the grant's ports for a link; a newer link of the same attachment takes over.

        Returns:
            Connections that stay with the app because it has them already.

        Raises:
            ClusterError: Another attachment holds a port (`PortTaken`), or the redirect cannot be made.
            OSError: The same.
        """
        for port in grant.ports:
            if port.protocol not in ("", "TCP"):
                raise ClusterError(
                    f"port {port.container_port}/{port.protocol} cannot be intercepted",
                    hint="This version takes TCP ports only.",
                )
        wanted = frozenset(port.container_port for port in grant.ports)
        self._table.claim(Holder(grant.attachment, grant.user, grant.session), wanted)
        try:
            self._redirect.set_ports(self._table.ports)
        except (ClusterError, OSError):
            if grant.attachment not in self._attachments:
                self._table.release(grant.attachment)
            raise
        attachment = self._attachments.get(grant.attachment)
        if attachment is None:
            attachment = Attachment(grant, count_established(wanted))
            self._attachments[grant.attachment] = attachment
        attachment.link, attachment.on_counts = link, on_counts
        attachment.linked.set()
        _cancel(attachment.loss)
        attachment.loss = None
        self.renew(grant)
        _log.info("engaged", extra=_fields(grant))
        return attachment.existing

    def renew(self, grant: Grant) -> None:
        """A verified grant for an attachment, which may be engaged or not."""
        attachment = self._attachments.get(grant.attachment)
        if attachment is not None:
            attachment.grant = grant
            _cancel(attachment.expiry)
            left = max(0.0, grant.not_after - time.time())
            attachment.expiry = asyncio.get_running_loop().call_later(left, self._expire, attachment)

    async def disengage(self, uid: str, drain: float) -> None:
        """Give an attachment's ports back, then let its connections end.

        Args:
            uid: The attachment.
            drain: Seconds that busy connections may go on; then they are reset.
        """
        attachment = self._attachments.get(uid)
        if attachment is None:
            return
        connections = set(attachment.connections)
        self._drop(attachment, "disengaged")
        await drain_connections(connections, drain)

    def suspended(self, link: Link) -> None:
        """A link has lost its connection and may get another: its attachments wait."""
        for attachment in self._of(link):
            self._wait(attachment)

    def resumed(self, link: Link) -> None:
        """The link has a connection again."""
        for attachment in self._of(link):
            _cancel(attachment.loss)
            attachment.loss = None
            attachment.linked.set()

    def lost(self, link: Link) -> None:
        """A link is gone: its attachments wait for another one."""
        for attachment in self._of(link):
            attachment.link, attachment.on_counts = None, None
            self._wait(attachment)

    def _of(self, link: Link) -> list[Attachment]:
        return [attachment for attachment in self._attachments.values() if attachment.link is link]

    def _wait(self, attachment: Attachment) -> None:
        attachment.linked.clear()
        if attachment.loss is None:
            loop = asyncio.get_running_loop()
            attachment.loss = loop.call_later(KEEP_WITHOUT_LINK, self._drop, attachment, "no link came back")

    async def close(self, drain: float) -> None:
        """Give everything back.

        Args:
            drain: Seconds that busy connections may go on.
        """
        connections = self.connections()
        for attachment in list(self._attachments.values()):
            self._drop(attachment, "the agent ends")
        await drain_connections(connections, drain)

    def connections(self) -> set[Connection]:
        """Connections that a laptop answers."""
        return {connection for attachment in self._attachments.values() for connection in attachment.connections}

    def _expire(self, attachment: Attachment) -> None:
        self._drop(attachment, "the grant expired")

    def _drop(self, attachment: Attachment, reason: str) -> None:
        if attachment.gone:
            return
        attachment.gone = True
        _cancel(attachment.loss)
        _cancel(attachment.expiry)
        attachment.linked.set()
        del self._attachments[attachment.grant.attachment]
        self._table.release(attachment.grant.attachment)
        self._redirect.set_ports(self._table.ports)
        _log.info("attachment gone", extra={**_fields(attachment.grant), "reason": reason})


async def drain_connections(connections: set[Connection], drain: float) -> None:
    """End connections when they fall idle, and reset those that have not within `drain` seconds."""
    if connections:
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(connection.end(_IDLE, drain))


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _fields(grant: Grant) -> dict[str, object]:
    ports = [port.container_port for port in grant.ports]
    return {"attachment": grant.attachment, "session": grant.session, "user": grant.user, "ports": ports}
