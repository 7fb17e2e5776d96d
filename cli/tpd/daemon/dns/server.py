"""The DNS server at the captured address: UDP and TCP in, the resolver's answers out."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode

from tpd.daemon.dns.cache import Answer, Key
from tpd.daemon.dns.resolver import FAILURE, Resolver
from tpd_core.aio.tasks import spawn

_log = logging.getLogger(__name__)

_BATCH: Final = 64  # datagrams read before the loop looks at other events
_PLAIN_SIZE: Final = 512  # bytes of a UDP answer without EDNS (RFC 1035)
_MAX_SIZE: Final = 65535
_IDLE: Final = 10.0  # seconds that a TCP client may stay silent


class DnsServer:
    """Serves one UDP socket and any number of TCP connections.

    Args:
        resolver: Who knows.
        udp: Non-blocking, bound.
    """

    def __init__(self, resolver: Resolver, udp: socket.socket) -> None:
        self._resolver = resolver
        self._udp = udp
        asyncio.get_running_loop().add_reader(udp, self._on_datagrams)

    def close(self) -> None:
        """Stop reading; the socket is its maker's."""
        asyncio.get_running_loop().remove_reader(self._udp)

    def _on_datagrams(self) -> None:
        for _ in range(_BATCH):
            try:
                data, peer = self._udp.recvfrom(_MAX_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # an ICMP error of an earlier answer
                _log.debug("DNS socket", extra={"reason": str(error)})
                return
            query = _parse(data)
            if query is None:
                continue
            key = _key(query)
            if key is not None and (answer := self._resolver.cached(key)) is not None:
                self._send(query, answer, peer)
            else:
                spawn(self._serve_datagram(query, key, peer), name="dns-udp")

    async def _serve_datagram(self, query: dns.message.Message, key: Key | None, peer: tuple[str, int]) -> None:
        self._send(query, await self._answer(key), peer)

    def _send(self, query: dns.message.Message, answer: Answer, peer: tuple[str, int]) -> None:
        limit = max(_PLAIN_SIZE, query.payload) if query.edns >= 0 else _PLAIN_SIZE
        try:
            self._udp.sendto(encode(query, answer, limit), peer)
        except OSError as error:
            _log.debug("DNS answer not sent", extra={"peer": peer[0], "reason": str(error)})

    async def serve_tcp(self, sock: socket.socket) -> None:
        """Answer a connection until it ends or falls silent; questions may be pipelined, answers come as known."""
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    async with asyncio.timeout(_IDLE):
                        size = int.from_bytes(await reader.readexactly(2), "big")
                        query = _parse(await reader.readexactly(size))
                    if query is None:
                        break
                    group.create_task(self._serve_message(query, writer))
        except* (EOFError, OSError, TimeoutError):
            pass
        finally:
            writer.close()

    async def _serve_message(self, query: dns.message.Message, writer: asyncio.StreamWriter) -> None:
        wire = encode(query, await self._answer(_key(query)), _MAX_SIZE)
        writer.write(len(wire).to_bytes(2, "big") + wire)
        await writer.drain()

    async def _answer(self, key: Key | None) -> Answer:
        return Answer(dns.rcode.NOTIMP) if key is None else await self._resolver.resolve(key)


def encode(query: dns.message.Message, answer: Answer, limit: int) -> bytes:
    """A reply of at most `limit` bytes; one that does not fit is sent empty and marked as truncated."""
    reply = dns.message.make_response(query, recursion_available=True)
    reply.set_rcode(answer.rcode)
    reply.answer = list(answer.answer)
    reply.authority = list(answer.authority)
    try:
        return reply.to_wire(max_size=limit)
    except dns.exception.TooBig:
        reply.answer, reply.authority = [], []
        reply.flags |= dns.flags.TC
        return reply.to_wire()
    except dns.exception.DNSException:
        _log.exception("an answer cannot be encoded")
        reply.answer, reply.authority = [], []
        reply.set_rcode(FAILURE.rcode)
        return reply.to_wire()


def _parse(data: bytes) -> dns.message.Message | None:
    """A query, or None for what is none; it gets no answer."""
    try:
        message = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return None
    return None if message.flags & dns.flags.QR else message


def _key(query: dns.message.Message) -> Key | None:
    """The question, None where it is not a plain one."""
    if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        return None
    question = query.question[0]
    return question.name.to_text(omit_final_dot=True).lower(), int(question.rdtype), int(question.rdclass)
