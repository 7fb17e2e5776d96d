"""Links that outlive their connection.

When the connection of such a link is lost, the link is suspended: its streams stall, both ends keep what the other has
not acknowledged. The connecting end dials again and presents the link's id; the accepting end keeps suspended links
for a while and continues with whoever presents the id and the same certificate.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

from tpd_core.aio.handshake import greet, turn_away
from tpd_core.aio.tasks import spawn
from tpd_core.errors import TpdError
from tpd_core.wire.hello import Capability, Hello

if TYPE_CHECKING:
    from tpd_core.aio.link import Link

GRACE: Final = 10.0
"""Seconds for which a link without a connection is kept."""

_FIRST_PAUSE: Final = 0.05  # seconds before the second attempt; doubles
_LONGEST_PAUSE: Final = 1.0

_log = logging.getLogger(__name__)


class Recovery(Protocol):
    """What a link asks for help when its connection is lost."""

    def on_suspended(self, link: Link, reason: str) -> None:
        """The connection is gone; `Link.resume` or `Link.give_up` must follow."""

    def on_resumed(self, link: Link) -> None:
        """There is a new one."""

    def on_ended(self, link: Link) -> None:
        """The link is gone for good."""


class Redial:
    """The connecting end's recovery: dial until it works or the grace is over."""

    def __init__(
        self,
        dial: Callable[[], Awaitable[socket.socket]],
        *,
        tls: ssl.SSLContext,
        server_hostname: str,
        grace: float,
        handshake_timeout: float,
    ) -> None:
        self._dial = dial
        self._tls, self._server_hostname = tls, server_hostname
        self._grace, self._timeout = grace, handshake_timeout
        self._task: asyncio.Task[None] | None = None

    def on_suspended(self, link: Link, reason: str) -> None:
        """See Recovery."""
        self._task = spawn(self._run(link, reason), name="redial")

    def on_resumed(self, link: Link) -> None:
        """See Recovery."""

    def on_ended(self, link: Link) -> None:
        """See Recovery."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _run(self, link: Link, reason: str) -> None:
        try:
            async with asyncio.timeout(self._grace):
                await self._attempts(link)
        except TimeoutError:
            link.give_up(f"{reason}; no new connection within {self._grace:g} s")

    async def _attempts(self, link: Link) -> None:
        def answer(_peer: Hello | None, _certificate: bytes | None) -> Hello:
            return Hello(link.id, Capability.RESUME, resume=True, received=link.mux.received)

        pause = _FIRST_PAUSE
        while True:
            try:
                sock = await self._dial()
                greeted = await greet(
                    sock, self._tls, server_hostname=self._server_hostname, answer=answer, timeout=self._timeout
                )
            except (OSError, TpdError) as error:
                _log.debug("link %s: no new connection yet: %s", link.id.hex(), error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if greeted.peer.resume:
                link.resume(greeted)
            else:
                await turn_away(greeted)
                link.give_up("the peer no longer has this link")
            return


class LinkKeeper:
    """The accepting end's recovery: knows the links of one listener and keeps suspended ones for the grace.

    Attributes:
        links: The links that live, by their id and their peer's certificate.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self.links: dict[tuple[bytes, bytes | None], Link] = {}
        self._grace = grace
        self._timers: dict[Link, asyncio.TimerHandle] = {}

    def add(self, link: Link) -> None:
        """A new link."""
        if link.reason is None:
            self.links[link.id, link.peer_certificate] = link

    def find(self, link_id: bytes, certificate: bytes | None) -> Link | None:
        """The link that a peer may continue."""
        return self.links.get((link_id, certificate))

    def on_suspended(self, link: Link, reason: str) -> None:
        """See Recovery."""
        text = f"{reason}; the peer did not come back within {self._grace:g} s"
        self._timers[link] = link.loop.call_later(self._grace, link.give_up, text)

    def on_resumed(self, link: Link) -> None:
        """See Recovery."""
        if (timer := self._timers.pop(link, None)) is not None:
            timer.cancel()

    def on_ended(self, link: Link) -> None:
        """See Recovery."""
        self.on_resumed(link)
        if self.links.get((link.id, link.peer_certificate)) is link:
            del self.links[link.id, link.peer_certificate]
