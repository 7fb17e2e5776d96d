"""Who holds which port of the pod. Pure.

The table knows several holders per port, so that a connection may be given to one of them by what it carries; today
every holder wants all connections, so a port has one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tpd_core.errors import ClusterError


class PortTaken(ClusterError):
    """Somebody else holds the port; the message names them."""


@dataclass(frozen=True, slots=True)
class Holder:
    """One attachment's claim.

    Attributes:
        attachment: Attachment object's UID.
        user: Who it belongs to.
        session: Session object's name.
    """

    attachment: str
    user: str
    session: str


class PortTable:
    """Holders per port, in the order of their claims."""

    def __init__(self) -> None:
        self._holders: dict[int, list[Holder]] = {}

    @property
    def ports(self) -> frozenset[int]:
        """Ports that somebody holds."""
        return frozenset(self._holders)

    def claim(self, holder: Holder, ports: Collection[int]) -> frozenset[int]:
        """Give `ports` to a holder, all or none; what it holds already is fine.

        Returns:
            The ports that nobody held before.

        Raises:
            PortTaken: Another attachment holds one.
        """
        for port in sorted(ports):
            for other in self._holders.get(port, ()):
                if other.attachment != holder.attachment:
                    raise PortTaken(
                        f"port {port} of the pod is intercepted by {other.user} (session {other.session})",
                        hint="Ask them to leave, or intercept another port.",
                    )
        fresh = frozenset(ports) - self._holders.keys()
        for port in ports:
            self._holders[port] = [holder]
        return fresh

    def release(self, attachment: str) -> frozenset[int]:
        """Take all ports from an attachment.

        Returns:
            The ports that nobody holds any more.
        """
        for port, holders in list(self._holders.items()):
            self._holders[port] = [holder for holder in holders if holder.attachment != attachment]
        freed = frozenset(port for port, holders in self._holders.items() if not holders)
        for port in freed:
            del self._holders[port]
        return freed

    def choose(self, port: int) -> Holder | None:
        """Who gets a connection to `port`; None for the original container."""
        holders: Iterable[Holder] = self._holders.get(port, ())
        return next(iter(holders), None)
