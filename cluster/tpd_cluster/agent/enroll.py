"""How an agent gets its certificate: by a one-use ticket, and by holding the key that it asks for.

The manager connects back to the address that the API server reports for the pod, and signs the key that answers
there; so a stolen ticket is of no use in another pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tpd_core import __version__
from tpd_core.aio.errors import LinkClosed, StreamReset
from tpd_core.aio.link import Link
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.tls import client_context
from tpd_core.errors import Category, NetworkError, TpdError, from_category
from tpd_core.linux.sockets import Address, connect_from
from tpd_core.proto.link_pb2 import Enroll, EnrollReply, EnrollRequest, OpenRequest
from tpd_core.wire.errors import ProtocolError
from tpd_core.wire.frames import RejectCode

if TYPE_CHECKING:
    from tpd_cluster.agent.identity import Identity
    from tpd_cluster.agent.settings import Settings

DEADLINE: Final = 60.0
"""Seconds after which the ticket is void and the agent gives up."""

_CONNECT: Final = 3.0  # seconds for one attempt to connect
_ANSWER: Final = 20.0  # seconds for the manager's answer
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 3.0

_log = logging.getLogger(__name__)

Install = Callable[[bytes, bytes], None]
"""Takes the certificate chain and the CA, both PEM, into use."""


async def enroll(settings: Settings, identity: Identity, port: int, install: Install) -> None:
    """Enrol with the first manager address that works, trying again until the deadline.

    Args:
        settings: Where, and with which ticket.
        identity: Whose key is to be certified; it must already be served on `port`.
        port: Where this agent listens.
        install: Called before the manager is told that the certificate is in use.

    Raises:
        TpdError: The manager refused, or could not be reached in time; the last reason is in the message.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE
    pause = _FIRST_PAUSE
    while True:
        failure: TpdError | None = None
        for address in settings.enroll:
            try:
                await _try(address, settings, identity, port, install)
            except NetworkError as error:
                failure = error
                _log.info("enrolment at %s port %d: %s", *address, error)
            else:
                return
        if loop.time() + pause > end:
            raise failure or NetworkError("no address to enrol at")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _try(address: Address, settings: Settings, identity: Identity, port: int, install: Install) -> None:
    try:
        sock = await connect_from(None, address, timeout=_CONNECT)
    except (OSError, TimeoutError) as error:
        raise NetworkError(str(error) or "no answer") from error
    link = await Link.connect(
        sock,
        tls=client_context(settings.ca),
        server_hostname="enroll.tpd",
        on_open=lambda incoming: incoming.reject(RejectCode.UNSUPPORTED),
    )
    async with link:
        try:
            async with asyncio.timeout(_ANSWER):
                stream = await link.open(OpenRequest(enroll=Enroll()).SerializeToString())
                talk = MessageStream(stream)
                await talk.send(
                    EnrollRequest(
                        ticket=settings.ticket,
                        pod_uid=settings.pod_uid,
                        port=port,
                        certificate_request=identity.request,
                        version=__version__,
                    )
                )
                reply = await talk.receive(EnrollReply)
                if reply is None:
                    raise NetworkError("the manager ended the enrolment without an answer")
                if reply.HasField("problem"):
                    raise _refusal(reply)
                install(reply.certificate, reply.ca)
                stream.write_eof()
                with contextlib.suppress(LinkClosed, StreamReset):
                    await talk.receive(EnrollReply)  # the manager's own end: it has registered the agent
        except TimeoutError as error:
            raise NetworkError("the manager did not answer") from error
        except ProtocolError as error:
            raise NetworkError(str(error)) from error


def _refusal(reply: EnrollReply) -> TpdError:
    problem = reply.problem
    if problem.category == Category.NETWORK:
        return NetworkError(problem.message, hint=problem.hint)
    return from_category(problem.category, problem.message, problem.hint)
