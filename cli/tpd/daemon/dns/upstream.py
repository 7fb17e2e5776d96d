"""Questions to the upstream resolvers: UDP, and TCP for what does not fit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

from tpd.daemon.dns.cache import Answer
from tpd_core.linux.sockets import family_of

_TRY: Final = 0.9
"""Seconds for one server; with three tries an answer or a failure is there before the engine's own patience ends."""

_PAYLOAD: Final = 1232
"""EDNS size in bytes that crosses networks unfragmented (DNS flag day 2020)."""

PORT: Final = 53


async def ask_upstream(question: dns.message.Message, servers: Sequence[str]) -> Answer:
    """Ask the servers one after the other, the whole list again if none answers, for three tries at most.

    Args:
        question: The query; its number is used as it is.
        servers: IP addresses.

    Returns:
        The first answer that is not a server failure, else a failure.
    """
    failure = Answer(dns.rcode.SERVFAIL)
    tries = [servers[index % len(servers)] for index in range(3)] if servers else []
    for server in tries:
        with contextlib.suppress(OSError, TimeoutError, dns.exception.DNSException, ValueError):
            async with asyncio.timeout(_TRY):
                reply = await _udp(question, server)
                if reply.flags & dns.flags.TC:
                    reply = await _tcp(question, server)
            answer = to_answer(reply)
            if answer.rcode not in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):
                return answer
            failure = answer
    return failure


def make_question(name: str, rdtype: int, rdclass: int) -> dns.message.Message:
    """A query with recursion wanted and a fresh random number."""
    return dns.message.make_query(name, RdataType.make(rdtype), RdataClass.make(rdclass), use_edns=0, payload=_PAYLOAD)


def to_answer(reply: dns.message.Message) -> Answer:
    """What a reply says, without its envelope."""
    return Answer(dns.rcode.Rcode(reply.rcode()), tuple(reply.answer), tuple(reply.authority))


async def _udp(question: dns.message.Message, server: str) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    with socket.socket(family_of(server), socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((server, PORT))
        sock.send(question.to_wire())
        while True:
            reply = dns.message.from_wire(await loop.sock_recv(sock, 65535))
            if question.is_response(reply):
                return reply


async def _tcp(question: dns.message.Message, server: str) -> dns.message.Message:
    reader, writer = await asyncio.open_connection(server, PORT)
    try:
        wire = question.to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
        reply = dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
        if not question.is_response(reply):
            raise dns.exception.FormError
        return reply
    except EOFError as error:
        raise ConnectionResetError from error
    finally:
        writer.close()
