"""What happens to one connection to an intercepted port.

Until the laptop has accepted, the caller's bytes are only looked at (MSG_PEEK) and stay in the kernel. So when the
laptop does not want the connection, the app gets it whole, and nothing needs to be kept or replayed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tpd_cluster.agent.probes import MAX_HEAD, Probe, ProbeMatcher, Verdict
from tpd_core.aio.errors import LinkClosed, StreamRejected, StreamReset
from tpd_core.aio.relay import relay
from tpd_core.linux.sockets import Address, connect_from, original_destination
from tpd_core.proto.link_pb2 import Inbound, OpenRequest

if TYPE_CHECKING:
    from tpd_cluster.agent.attachments import Attachment
    from tpd_core.aio.stream import Stream

PATIENCE: Final = 1.0
"""Seconds that the laptop has to accept a connection before the app gets it."""

_APP_TIMEOUT: Final = 5.0  # seconds to connect to the app, which is on the same machine
_EARLY: Final = 64 << 10  # bytes that go with the request to the laptop at once
_LINGER_ZERO: Final = b"\1\0\0\0\0\0\0\0"  # struct linger: close sends RST

_log = logging.getLogger(__name__)


class Connection:
    """One caller's connection, from `accept` to its end.

    Args:
        sock: Accepted by a transparent listener; owned.
        choose: Whose connection to a port is.
        probes: All probes of the pod.
    """

    def __init__(
        self, sock: socket.socket, choose: Callable[[int], Attachment | None], probes: Sequence[Probe]
    ) -> None:
        self._sock = sock
        self._choose = choose
        self._destination = original_destination(sock)
        self._matcher = ProbeMatcher(probes, self._destination[1])
        self._stream: Stream | None = None
        self._decided = asyncio.Event()
        self._finished = asyncio.Event()

    async def serve(self) -> None:
        """Give the connection to the laptop or to the app; returns when it has ended."""
        with contextlib.closing(self._sock):
            try:
                probe = bool(self._matcher) and await self._is_probe()
                # Looked up only here: what was held when a silent caller connected may have changed hands since.
                attachment = self._choose(self._destination[1])
                if attachment is None:
                    await self._to_app()
                elif probe:
                    attachment.count(probes=1)
                    await self._to_app()
                elif not await self._to_laptop(attachment):
                    attachment.count(fallback=1)
                    await self._to_app()
            except OSError as error:
                _log.debug("connection lost: %s", error)
                self._reset()
            finally:
                self._finished.set()

    async def end(self, idle: float, drain: float) -> None:
        """End the connection, if the laptop answers it.

        Args:
            idle: Seconds without a byte that allow an orderly end.
            drain: Seconds until it is reset otherwise.
        """
        await self._decided.wait()
        stream = self._stream
        if stream is not None and not await stream.finish_when_idle(idle, drain):
            stream.reset()
            await self._finished.wait()

    async def _is_probe(self) -> bool:
        """Look at the first bytes until they tell."""
        seen = 0
        while True:
            head = await self._peek(MAX_HEAD + 1, more_than=seen)
            verdict = self._matcher.match(head)
            if verdict is not Verdict.MORE or len(head) == seen:
                return verdict is Verdict.PROBE
            seen = len(head)

    async def _peek(self, limit: int, *, more_than: int) -> bytes:
        """First bytes of the connection, left where they are; returns what is there at the end of data."""
        loop = asyncio.get_running_loop()
        low_water = more_than + 1
        while True:
            # The kernel wakes the poller only for more bytes than were seen, or for the end of data.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water)
            readable = asyncio.Event()
            loop.add_reader(self._sock, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(self._sock)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            with contextlib.suppress(BlockingIOError, InterruptedError):
                return self._sock.recv(limit, socket.MSG_PEEK)

    async def _to_laptop(self, attachment: Attachment) -> bool:
        """False when the laptop did not take it in time."""
        attachment.connections.add(self)
        try:
            try:
                async with asyncio.timeout(PATIENCE):
                    stream = await self._open(attachment)
            except TimeoutError:
                return False
            finally:
                self._decided.set()
            if stream is None:
                return False
            attachment.count(connections=1)
            await stream.splice(self._sock)
        except (LinkClosed, StreamReset):
            self._reset()
        finally:
            attachment.connections.discard(self)
        return True

    async def _open(self, attachment: Attachment) -> Stream | None:
        """A stream that the laptop has accepted, waiting for a link if there is none; None when it does not want it."""
        request = self._request(attachment).SerializeToString()
        while True:
            await attachment.linked.wait()
            link = attachment.link
            if link is None or attachment.gone:
                return None
            try:
                head = self._sock.recv(_EARLY, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                head = b""
            try:
                stream = await link.open(request, head=head)
            except LinkClosed:
                if attachment.link is link and not attachment.gone:
                    attachment.linked.clear()
                continue
            except (StreamRejected, StreamReset) as error:
                _log.debug("the laptop refused: %s", error)
                return None
            if head:
                self._sock.recv(len(head))
            self._stream = stream
            return stream

    def _request(self, attachment: Attachment) -> OpenRequest:
        source: Address = self._sock.getpeername()[:2]
        return OpenRequest(
            inbound=Inbound(
                attachment=attachment.grant.attachment,
                destination_host=self._destination[0],
                destination_port=self._destination[1],
                source_host=source[0],
                source_port=source[1],
            )
        )

    async def _to_app(self) -> None:
        """The original container, at the address that the caller dialled: never at one that only the pod can reach."""
        try:
            app = await connect_from(None, self._destination, timeout=_APP_TIMEOUT)
        except (OSError, TimeoutError) as error:
            _log.debug("the app refused: %s", error)
            self._reset()
            return
        await relay(self._sock, app)

    def _reset(self) -> None:
        if self._sock.fileno() >= 0:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
