"""The manager's own TLS port, where it can be reached: LoadBalancer, NodePort, Ingress passthrough."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from tpd.daemon.transports.base import Opened
from tpd_core.errors import NetworkError
from tpd_core.proto import control_pb2

_TIMEOUT = 2.0  # seconds for one address; a network that has just come back is met by the next attempt, not this one


class EndpointTransport:
    """Plain TCP to one of the endpoints, the one that worked last first.

    Attributes:
        endpoints: Host and port of each; replaced when the manager tells of others.
    """

    kind = control_pb2.TRANSPORT_ENDPOINT
    head_start = 0.3

    def __init__(self, endpoints: Sequence[tuple[str, int]]) -> None:
        self.endpoints = list(endpoints)

    def available(self) -> bool:
        """See Transport."""
        return bool(self.endpoints)

    async def open(self) -> Opened:
        """See Transport."""
        failures = []
        for endpoint in list(self.endpoints):
            host, port = endpoint
            try:
                async with asyncio.timeout(_TIMEOUT):
                    sock = await _connect(host, port)
            except (OSError, TimeoutError) as error:
                failures.append(f"{host}:{port}: {_words(error)}")
                continue
            if endpoint in self.endpoints:
                self.endpoints.remove(endpoint)
                self.endpoints.insert(0, endpoint)
            return Opened(sock, self.kind)
        raise NetworkError(f"the manager's endpoint cannot be reached: {'; '.join(failures)}")


async def _connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError = OSError(f"no address for {host}")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def _words(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)
