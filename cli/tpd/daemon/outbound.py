"""The app's connections to cluster addresses: taken by the capture, dialled by an agent or the manager."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from tpd.daemon.dns.server import DnsServer
from tpd_core.aio.stream import Stream
from tpd_core.aio.tasks import spawn
from tpd_core.errors import NetworkError
from tpd_core.linux.sockets import Address, original_destination

_log = logging.getLogger(__name__)

_BATCH: Final = 64  # connections accepted before the loop looks at other events
_LINGER_ZERO: Final = b"\1\0\0\0\0\0\0\0"  # struct linger: close sends RST


class Outbound:
    """Accepts what the capture takes.

    Args:
        listener: The transparent listener.
        dns: Gets the connections to `dns_address`, port 53.
        dns_address: The captured resolver address.
        dial: Opens a stream to an address in the cluster; raises NetworkError or TimeoutError.
    """

    def __init__(
        self,
        listener: socket.socket,
        dns: DnsServer,
        dns_address: str,
        dial: Callable[[str, int], Awaitable[Stream]],
    ) -> None:
        self._listener = listener
        self._dns = dns
        self._dns_target = (dns_address, 53)
        self._dial = dial
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept no more; the listener is its maker's."""
        asyncio.get_running_loop().remove_reader(self._listener)

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # the caller is gone already, or descriptors ran out
                _log.warning("accept failed", extra={"reason": str(error)})
                return
            sock.setblocking(False)
            target = original_destination(sock)
            if target == self._dns_target:
                spawn(self._dns.serve_tcp(sock), name="dns-tcp")
            else:
                spawn(self._carry(sock, peer, target), name=f"outbound-{target[0]}:{target[1]}")

    async def _carry(self, sock: socket.socket, peer: Address, target: Address) -> None:
        try:
            stream = await self._dial(*target)
        except (NetworkError, TimeoutError) as error:
            # The kernel accepted before anyone knew the far side: a reset is the nearest thing to a refusal.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            sock.close()
            _log.info("not reached", extra={"target": f"{target[0]}:{target[1]}", "reason": str(error)})
            return
        except BaseException:
            sock.close()
            raise
        with contextlib.suppress(NetworkError):
            await stream.splice(sock)
