"""What every transport can do."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from tpd_core.proto import control_pb2

if TYPE_CHECKING:
    Kind: TypeAlias = control_pb2.TransportKind.ValueType
else:
    Kind = int  # the generated module has no such name when it runs

NAMES: dict[int, str] = {
    control_pb2.TRANSPORT_ENDPOINT: "endpoint",
    control_pb2.TRANSPORT_API_SERVER: "API server",
    control_pb2.TRANSPORT_RELAY: "relay",
}


def _nothing() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A way to the router.

    Attributes:
        sock: Connected and non-blocking; the taker owns it.
        kind: Which transport made it.
        complaint: What the transport knows about why the socket ended; empty if nothing.
    """

    sock: socket.socket
    kind: Kind
    complaint: Callable[[], str] = _nothing


class Transport(Protocol):
    """One kind of way to the router.

    Attributes:
        kind: Which.
        head_start: Seconds that an attempt gets before the next kind is tried beside it.
    """

    kind: Kind
    head_start: float

    def available(self) -> bool:
        """There is something to try."""
        ...

    async def open(self) -> Opened:
        """A new way; raises TpdError, OSError or TimeoutError."""
        ...
