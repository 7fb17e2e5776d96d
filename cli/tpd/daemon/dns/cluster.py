"""Questions to the cluster's resolver over one TCP stream that stays open; many may be under way at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import dns.exception
import dns.message

from tpd.daemon.dns.cache import Answer
from tpd.daemon.dns.upstream import make_question, to_answer
from tpd_core.aio.stream import Stream
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import NetworkError

_log = logging.getLogger(__name__)

_READ: Final = 65536  # bytes at a time


class ClusterResolver:
    """Asks the cluster's resolver.

    Args:
        dial: Opens a stream to the resolver's port 53; raises NetworkError where none can be had.
    """

    def __init__(self, dial: Callable[[], Awaitable[Stream]]) -> None:
        self._dial = dial
        self._conversation: _Conversation | None = None
        self._lock = asyncio.Lock()

    async def ask(self, name: str, rdtype: int, rdclass: int) -> Answer:
        """The resolver's answer.

        Raises:
            NetworkError: The cluster cannot be reached.
        """
        used = self._conversation
        if used is not None and not used.ended:
            # Resolvers close connections that were idle; such a loss may show only when the next question is sent.
            try:
                return await used.ask(name, rdtype, rdclass)
            except NetworkError:
                pass
        async with self._lock:
            conversation = self._conversation
            if conversation is None or conversation.ended:
                conversation = self._conversation = _Conversation(await self._dial())
        return await conversation.ask(name, rdtype, rdclass)

    async def aclose(self) -> None:
        """Close the stream; questions under way fail."""
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            await conversation.aclose()


class _Conversation:
    """One stream and the questions under way on it."""

    def __init__(self, stream: Stream) -> None:
        self.ended = False
        self._stream = stream
        self._waiting: dict[int, tuple[dns.message.Message, asyncio.Future[dns.message.Message]]] = {}
        self._number = 0
        self._reader = spawn(self._read(), name="cluster-dns")

    async def ask(self, name: str, rdtype: int, rdclass: int) -> Answer:
        question = make_question(name, rdtype, rdclass)
        while self._number in self._waiting:
            self._number = (self._number + 1) & 0xFFFF
        question.id = number = self._number
        self._number = (self._number + 1) & 0xFFFF
        future: asyncio.Future[dns.message.Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (question, future)
        wire = question.to_wire()
        try:
            await self._stream.write(len(wire).to_bytes(2, "big") + wire)
            return to_answer(await future)
        finally:
            self._waiting.pop(number, None)

    async def aclose(self) -> None:
        await cancel_and_wait(self._reader)

    async def _read(self) -> None:
        buffer = bytearray()
        reason = "the cluster's resolver closed the stream"
        try:
            while data := await self._stream.read(_READ):
                buffer += data
                while len(buffer) >= 2 and len(buffer) >= (end := 2 + int.from_bytes(buffer[:2], "big")):
                    self._take(bytes(buffer[2:end]))
                    del buffer[:end]
        except NetworkError as error:
            reason = error.message
        finally:
            self.ended = True
            self._stream.reset()
            for _, future in self._waiting.values():
                if not future.done():
                    future.set_exception(NetworkError(reason))

    def _take(self, wire: bytes) -> None:
        try:
            reply = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError):
            _log.warning("the cluster's resolver sent something that is no DNS message")
            return
        question, future = self._waiting.get(reply.id, (None, None))
        if question is not None and future is not None and not future.done() and question.is_response(reply):
            future.set_result(reply)
