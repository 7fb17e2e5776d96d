"""The agent process: listener, links, and everything that a link may ask for."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import signal
import socket
import ssl
import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from tpd_cluster.agent.attachments import Attachments, drain_connections
from tpd_cluster.agent.control import Control
from tpd_cluster.agent.dialling import serve_dial
from tpd_cluster.agent.enroll import enroll
from tpd_cluster.agent.files import Owner, serve_files
from tpd_cluster.agent.inbound import Connection
from tpd_cluster.agent.peeks import Peeks
from tpd_cluster.agent.probes import filtered_ports
from tpd_cluster.agent.redirect import Redirect, has_ipv6
from tpd_core import grants as grant_rules
from tpd_core.aio.errors import LinkClosed, StreamReset
from tpd_core.aio.link import Link
from tpd_core.aio.resume import LinkKeeper
from tpd_core.aio.tasks import spawn
from tpd_core.aio.tls import server_context
from tpd_core.proto.link_pb2 import Grant, OpenRequest, SignedGrant
from tpd_core.wire.frames import RejectCode

if TYPE_CHECKING:
    from tpd_cluster.agent.identity import Identity, Peer
    from tpd_cluster.agent.settings import Settings
    from tpd_core.aio.stream import Incoming

_MAX_HANDSHAKES: Final = 64
"""Links that may be in their handshake: whoever reaches the pod's network can connect."""

_DRAIN: Final = 5.0
"""Seconds that connections may go on when the pod or the agent ends."""

_log = logging.getLogger(__name__)


class Agent:
    """One pod's agent.

    Args:
        settings: From the manager.
        identity: The fresh key.
        environ: The agent's own environment.
    """

    def __init__(self, settings: Settings, identity: Identity, environ: Mapping[str, str]) -> None:
        from tpd_cluster.agent.identity import ca_key

        self._settings = settings
        self._identity = identity
        self._environ = environ
        self._tls = server_context(identity.temporary, identity.key, settings.ca)
        self._ca_key = ca_key(settings.ca)
        self._peeks = Peeks(settings.pod_uid, settings.peek_token)
        redirect = Redirect(self._on_connection, node_ip=settings.node_ip, probe_ports=filtered_ports(settings.probes))
        self._attachments = Attachments(redirect)
        self._keeper = _Keeper(self._attachments)
        self._links: set[Link] = set()
        self._handshakes = 0
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._idle: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Enrol and serve until a signal, the manager or idleness ends it.

        Raises:
            TpdError: Enrolment failed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, "signal")
        with _listener() as listener:
            loop.add_reader(listener, self._accept, listener)
            try:
                async with self._peeks:
                    port = listener.getsockname()[1]
                    enrolment = spawn(
                        enroll(self._settings, self._identity, port, self._install),
                        name="enrolment",
                        on_error=self._fail,
                    )
                    self._watch_idle()
                    try:
                        reason = await self._stop
                    finally:
                        enrolment.cancel()
                    _log.info("ending", extra={"reason": reason})
                    await self._shut_down(reason)
            finally:
                loop.remove_reader(listener)

    def stop(self, reason: str) -> None:
        """End in order."""
        if not self._stop.done():
            self._stop.set_result(reason)

    def _fail(self, error: BaseException) -> None:
        if not self._stop.done():
            self._stop.set_exception(error)

    async def _shut_down(self, reason: str) -> None:
        if reason == "signal":
            # The pod ends: its app goes at the same time, so the laptop answers while it can.
            await drain_connections(self._attachments.connections(), _DRAIN)
        await self._attachments.close(_DRAIN)
        for link in list(self._links):
            await link.aclose("the agent ends")

    def _install(self, certificate: bytes, ca: bytes) -> None:
        from tpd_cluster.agent.identity import ca_key

        self._tls = server_context(certificate, self._identity.key, ca)
        self._ca_key = ca_key(ca)
        _log.info("enrolled", extra={"pod": self._settings.pod, "container": self._settings.container})

    # -- links ---------------------------------------------------------------------------------------------------
    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, peer = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            _log.warning("a link could not be accepted: %s", error)
            return
        sock.setblocking(False)
        if self._handshakes >= _MAX_HANDSHAKES:
            sock.close()
            return
        self._handshakes += 1
        spawn(self._serve_link(sock, self._tls), name=f"link from {peer[0]}")

    async def _serve_link(self, sock: socket.socket, tls: ssl.SSLContext) -> None:
        session = _Session(self)
        try:
            link = await Link.accept_or_resume(sock, self._keeper, tls=tls, on_open=session.on_open)
        except LinkClosed as error:
            _log.debug("no link: %s", error.reason)
            return
        finally:
            self._handshakes -= 1
        if link is None:
            return  # a known link has a connection again
        self._links.add(link)
        self._watch_idle()
        try:
            reason = await link.wait_closed()
            _log.info("link closed", extra={"reason": reason})
        finally:
            self._links.discard(link)
            self._watch_idle()

    def _watch_idle(self) -> None:
        """The only timer of an idle agent."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._links:
            _release_memory()
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._settings.idle_timeout, self.stop, "idle")

    # -- what links ask for --------------------------------------------------------------------------------------
    def control(self, link: Link, peer: Peer, grants: dict[str, Grant]) -> Control:
        """The conversation on a link."""

        def verify(signed: SignedGrant) -> Grant:
            return grant_rules.verify(
                signed,
                self._ca_key,
                pod_uid=self._settings.pod_uid,
                session_key=peer.session_key,
                now=time.time(),
            )

        return Control(
            link,
            grants,
            verify=verify,
            attachments=self._attachments,
            peeks=self._peeks,
            common=self._environ,
            owner_of=self.owner_of,
        )

    def owner_of(self, container: str) -> Owner:
        """Whom a container runs as: what was seen, else what the pod spec says, else the image's usual root."""
        peek = self._peeks.get(container)
        if peek is not None and peek.uid is not None:
            return Owner(peek.uid, peek.gid or 0, peek.groups)
        user = self._settings.users.get(container)
        return Owner(0, 0) if user is None else Owner(user.uid or 0, user.gid or 0)

    def _on_connection(self, sock: socket.socket) -> None:
        try:
            connection = Connection(sock, self._attachments.choose, self._settings.probes)
        except OSError:
            sock.close()  # the caller has gone already
            return
        spawn(connection.serve(), name="connection")


class _Keeper(LinkKeeper):
    """Keeps links that have lost their connection, and tells the attachments."""

    def __init__(self, attachments: Attachments) -> None:
        super().__init__()
        self._attachments = attachments

    def on_suspended(self, link: Link, reason: str) -> None:
        """See LinkKeeper."""
        super().on_suspended(link, reason)
        self._attachments.suspended(link)
        _log.info("link suspended", extra={"reason": reason})

    def on_resumed(self, link: Link) -> None:
        """See LinkKeeper."""
        super().on_resumed(link)
        if link.reason is None:  # the base class says so of links that end, too
            self._attachments.resumed(link)


class _Session:
    """One link's streams; they live by the grants that its control conversation showed."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._peer: Peer | None = None
        self._grants: dict[str, Grant] = {}

    def on_open(self, incoming: Incoming) -> None:
        """A stream that the peer opens."""
        try:
            request = OpenRequest.FromString(incoming.request)
        except DecodeError:
            incoming.reject(RejectCode.UNSUPPORTED, "not a request")
            return
        peer = self._peer_of(incoming)
        kind = request.WhichOneof("kind")
        if peer.is_manager:
            if kind == "stop":
                incoming.accept().write_eof()
                self._agent.stop("the manager says so")
            else:
                incoming.reject(RejectCode.UNSUPPORTED, f"{kind} is not for a manager")
        elif kind == "control":
            control = self._agent.control(incoming.link, peer, self._grants)
            self._run(control.run(incoming.accept()), "control")
        elif kind == "dial":
            if any(grant.not_after > time.time() for grant in self._grants.values()):
                self._run(serve_dial(incoming, request.dial), "dial")
            else:
                incoming.reject(RejectCode.DENIED, "no valid grant was shown on this link")
        elif kind == "files":
            self._files(incoming, request.files.attachment, request.files.volume)
        else:
            incoming.reject(RejectCode.UNSUPPORTED, f"an agent does not serve {kind}")

    def _files(self, incoming: Incoming, attachment: str, volume: str) -> None:
        grant = self._grants.get(attachment)
        if grant is None or grant.not_after <= time.time():
            incoming.reject(RejectCode.DENIED, "no valid grant was shown on this link")
            return
        mounts = [mount for mount in grant.mounts if mount.volume == volume]
        if not mounts:
            incoming.reject(RejectCode.DENIED, f"the grant does not include volume {volume!r}")
            return
        owner = self._agent.owner_of(grant.container)
        read_only = all(mount.read_only for mount in mounts)
        self._run(serve_files(incoming, volume, owner, read_only=read_only), f"files {volume}")

    def _peer_of(self, incoming: Incoming) -> Peer:
        if self._peer is None:
            from tpd_cluster.agent.identity import Peer

            certificate = incoming.link.peer_certificate
            assert certificate is not None, "the TLS context demands one"
            self._peer = Peer.from_certificate(certificate)
        return self._peer

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        spawn(_quietly(work), name=name)


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    """The end of a link or stream is no error of whoever serves it."""
    try:
        await work
    except (LinkClosed, StreamReset):
        pass


def _release_memory() -> None:
    """Give what is free back to the system: the memory that an idle agent holds is its pod's."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _listener() -> socket.socket:
    """On all addresses of the pod, at a port of the kernel's choice: two agents must never collide."""
    family = socket.AF_INET6 if has_ipv6() else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("", 0))
    sock.listen(128)
    return sock
