"""Enrolment: an agent that the manager put into a pod gets its certificate.

The ticket in its environment says that the manager put it there. The connection back to the address that the API
server reports for the pod shows that the key is held in that pod, and nowhere else.
"""

from __future__ import annotations

import asyncio
import datetime
import hmac
import logging
import socket
import ssl
import time

from google.protobuf.message import DecodeError

from tpd_cluster.manager import pki, pods, tickets
from tpd_cluster.manager.board import Board
from tpd_cluster.manager.model import AgentRecord, Object, Problem
from tpd_core import grants
from tpd_core.aio.errors import LinkClosed, StreamReset
from tpd_core.aio.link import Link
from tpd_core.aio.loop import start_tls
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.stream import Incoming
from tpd_core.aio.tasks import spawn
from tpd_core.errors import ClusterError, NetworkError, TpdError
from tpd_core.kube import ApiClient, NotFound
from tpd_core.kube.paths import PODS
from tpd_core.proto import link_pb2
from tpd_core.wire.errors import ProtocolError
from tpd_core.wire.frames import RejectCode

_DEADLINE = 30.0  # seconds for a whole enrolment
_CONNECT_BACK = 5.0  # seconds

_log = logging.getLogger(__name__)


class Enroller:
    """Serves the name `enroll.tpd`.

    Args:
        tls: Server context without client certificates.
        back: Client context for connecting back: it shows the manager's certificate and verifies nothing, because
            the agent has no certificate yet.
    """

    def __init__(
        self, client: ApiClient, board: Board, authority: pki.Authority, *, tls: ssl.SSLContext, back: ssl.SSLContext
    ) -> None:
        self._client = client
        self._board = board
        self._authority = authority
        self._tls = tls
        self._back = back
        self._secret = tickets.secret_from(authority.key_pem)
        self._busy: set[str] = set()

    async def serve(self, sock: socket.socket) -> None:
        """Be the accepting end of one agent's link: one enrolment, then it is over."""
        asked: asyncio.Future[Incoming] = asyncio.get_running_loop().create_future()

        def on_open(incoming: Incoming) -> None:
            if asked.done() or not _is_enroll(incoming.request):
                incoming.reject(RejectCode.UNSUPPORTED, "only one enrolment is served here")
            else:
                asked.set_result(incoming)

        try:
            async with asyncio.timeout(_DEADLINE), await Link.accept(sock, tls=self._tls, on_open=on_open) as link:
                closed = spawn(link.wait_closed(), name="enrolling link")
                await asyncio.wait((asked, closed), return_when=asyncio.FIRST_COMPLETED)
                if asked.done():
                    await self._enroll(MessageStream(asked.result().accept()))
        except (LinkClosed, StreamReset, ProtocolError, TimeoutError) as error:
            _log.info("an enrolment broke off: %s", error or "too slow")

    async def _enroll(self, messages: MessageStream) -> None:
        request = await messages.receive(link_pb2.EnrollRequest)
        if request is None:
            return
        try:
            claim = tickets.check(request.ticket, self._secret, now=time.time())
        except TpdError as error:
            await self._refuse(messages, error)
            return
        if claim.container in self._busy:
            await self._refuse(messages, tickets.BadTicket("This ticket is being used"))
            return
        self._busy.add(claim.container)
        try:
            await self._issue(messages, request, claim)
        except TpdError as error:
            await self._refuse(messages, error)
        finally:
            self._busy.discard(claim.container)

    async def _issue(self, messages: MessageStream, request: link_pb2.EnrollRequest, claim: tickets.Claim) -> None:
        record = self._board.agents.get(claim.pod_uid)
        if record is not None and record.container == claim.container:
            raise tickets.BadTicket(f"The ticket of {claim.container} in pod {claim.pod} was used before")
        key = pki.public_key_of(request.certificate_request)
        address = pod_address(await self._pod(claim), claim, request.pod_uid)
        served = await fetch_certificate(address, request.port, claim.pod_uid + pki.AGENT_SUFFIX, self._back)
        digest = grants.key_digest(key)
        if not hmac.compare_digest(grants.session_key_of(served), digest):
            raise ClusterError(f"Another key than the requested one is served at {address}:{request.port}")
        issued = self._authority.issue_agent(key, claim.pod_uid, datetime.datetime.now(datetime.UTC))
        await messages.send(link_pb2.EnrollReply(certificate=issued.pem, ca=self._authority.pem))
        # the agent ends its side once it serves with the certificate: only then may daemons be sent there
        if await messages.receive(link_pb2.EnrollRequest) is not None:
            raise ClusterError("The agent asked twice")
        enrolled = AgentRecord(
            namespace=claim.namespace,
            pod=claim.pod,
            ip=address,
            port=request.port,
            container=claim.container,
            version=request.version[:64],
            key=digest.hex(),
            enrolled=int(time.time()),
        )
        await self._board.enroll(claim.pod_uid, enrolled)
        messages.stream.write_eof()
        _log.info("agent enrolled", extra={"namespace": claim.namespace, "pod": claim.pod, "agent": claim.container})

    async def _pod(self, claim: tickets.Claim) -> Object:
        try:
            return await self._client.get(PODS.path(claim.namespace, claim.pod))
        except NotFound as error:
            raise ClusterError(f"Pod {claim.namespace}/{claim.pod} does not exist (any more)") from error

    async def _refuse(self, messages: MessageStream, error: TpdError) -> None:
        _log.warning("enrolment refused: %s", error.message)
        await messages.send(link_pb2.EnrollReply(problem=Problem.of(error).to_message()))
        messages.stream.write_eof()
        await messages.receive(link_pb2.EnrollRequest)  # the agent ends the link once it has read why


def pod_address(pod: Object, claim: tickets.Claim, asked_uid: str) -> str:
    """Where the pod of a ticket must answer.

    Raises:
        NetworkError: It has no address yet: the agent asks again.
        ClusterError: It is not the ticket's pod.
    """
    if not claim.pod_uid == asked_uid == pod["metadata"]["uid"]:
        raise ClusterError(f"Pod {claim.namespace}/{claim.pod} is not the one that the ticket was made for")
    if all(item.name != claim.container for item in pods.ephemerals_of(pod, pods.AGENT_PREFIX)):
        raise ClusterError(f"Pod {claim.namespace}/{claim.pod} has no container {claim.container}")
    address = pods.ip_of(pod)
    if not address:
        raise NetworkError(f"Pod {claim.namespace}/{claim.pod} has no address yet")
    return address


async def fetch_certificate(host: str, port: int, name: str, tls: ssl.SSLContext) -> bytes:
    """The certificate (DER) that is served at an address.

    Raises:
        NetworkError: Nothing serves TLS there.
    """
    try:
        async with asyncio.timeout(_CONNECT_BACK):
            sock = await connect(host, port)
            transport, _ = await start_tls(asyncio.Protocol, sock, tls, server_hostname=name, timeout=_CONNECT_BACK)
            certificate: bytes = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
            transport.abort()
            return certificate
    except (OSError, TimeoutError) as error:
        raise NetworkError(f"No agent answers at {host}:{port}: {error or 'too slow'}") from error


async def connect(host: str, port: int) -> socket.socket:
    """A TCP connection to an IP address. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _is_enroll(request: bytes) -> bool:
    try:
        return link_pb2.OpenRequest.FromString(request).WhichOneof("kind") == "enroll"
    except DecodeError:
        return False
