"""Makes links: a transport, TLS with the session's key, the peer's name."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from tpd.daemon.transports.base import NAMES, Kind
from tpd.daemon.transports.chooser import TransportChooser
from tpd_core.aio.errors import LinkClosed
from tpd_core.aio.link import Link
from tpd_core.aio.stream import Incoming
from tpd_core.errors import NetworkError

_log = logging.getLogger(__name__)

MANAGER: Final = "manager.tpd"
"""SNI of the manager itself."""


def agent_name(pod_uid: str) -> str:
    """SNI of a pod's agent."""
    return f"{pod_uid}.agent.tpd"


class Linker:
    """Makes links for one session.

    Args:
        chooser: Finds the way.
        tls: Client context with the session's certificate.
    """

    def __init__(self, chooser: TransportChooser, tls: ssl.SSLContext) -> None:
        self._chooser = chooser
        self._tls = tls

    async def connect(self, name: str, on_open: Callable[[Incoming], None]) -> tuple[Link, Kind]:
        """A link to the manager or an agent.

        Args:
            name: SNI, which the peer's certificate must carry too.
            on_open: See Link.

        Returns:
            The link, and what carries it.

        Raises:
            TpdError: No way, or the peer refused.
        """
        opened = await self._chooser.open()

        async def redial() -> socket.socket:
            return (await self._chooser.open()).sock

        try:
            link = await Link.connect(opened.sock, tls=self._tls, server_hostname=name, on_open=on_open, redial=redial)
        except LinkClosed as error:
            # An agent may be gone while its router is well: only the manager's own link judges the way.
            if name == MANAGER:
                self._chooser.failed(opened.kind)
            words = opened.complaint() or error.reason
            raise NetworkError(f"no link to {name} over {NAMES[opened.kind]}: {words}") from error
        self._chooser.worked(opened.kind)
        _log.info("link up", extra={"peer": name, "transport": NAMES[opened.kind]})
        return link, opened.kind
