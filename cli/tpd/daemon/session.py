"""A session: what one Connect starts and the next one replaces."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

import tpd_core
from tpd.daemon.attachment import Attachment
from tpd.daemon.capture import Capture
from tpd.daemon.changes import Backoff, Changes
from tpd.daemon.dns.cluster import ClusterResolver
from tpd.daemon.dns.policy import DEFAULT_DOMAIN, NameConfig
from tpd.daemon.dns.resolver import Resolver
from tpd.daemon.identity import Identity
from tpd.daemon.linker import MANAGER, Linker
from tpd.daemon.transports.api_server import ApiServerTransport
from tpd.daemon.transports.base import Transport
from tpd.daemon.transports.chooser import TransportChooser
from tpd.daemon.transports.endpoint import EndpointTransport
from tpd.daemon.transports.relay import RelayTransport
from tpd_core.aio.errors import LinkClosed
from tpd_core.aio.link import Link
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.aio.tls import client_context
from tpd_core.errors import ClusterError, ConfigError, NetworkError, TpdError, from_category
from tpd_core.proto import control_pb2, link_pb2
from tpd_core.wire.errors import ProtocolError
from tpd_core.wire.frames import RejectCode

_log = logging.getLogger(__name__)

_OPEN_TIMEOUT: Final = 10.0  # seconds
_TRIES: Final = 6
"""Attempts at the manager's link, three seconds of pauses, until the one who connects is told that it does not work."""

_LINK_WAIT: Final = 3.0  # seconds that a connection of the app waits for a link that is just being remade
_REST_WAIT: Final = 2.0  # seconds that Attach waits for the other pods once one is engaged
_DNS_PORT: Final = 53
_DEFAULT_ORDER: Final = (
    control_pb2.TRANSPORT_ENDPOINT,
    control_pb2.TRANSPORT_API_SERVER,
    control_pb2.TRANSPORT_RELAY,
)


class Session:
    """Links, names and captured ranges for one Session object.

    Args:
        request: What the CLI asked for.
        identity: The key that the request's certificate belongs to.
        capture: Where the cluster's ranges are captured.
        resolver: Where the cluster's names are served.
        changes: Rung on every change of state.
        volume_root: Where volumes are mounted; None where none are wanted.

    Attributes:
        cluster: What the manager said of the cluster, None before.
        link: The link to the manager, None while there is none.
        transport: What carries it, or carried it last.
        attachments: By UID.
        problem: The last trouble with the manager's link; None while it is up.
        ended: Why the manager ended the session; empty while it goes on.
        api_server: For newer tokens.
        relay: Wishes for the CLI.
    """

    def __init__(
        self,
        request: control_pb2.ConnectRequest,
        identity: Identity,
        capture: Capture,
        resolver: Resolver,
        changes: Changes,
        volume_root: str | None,
    ) -> None:
        self.name = request.session
        self.cluster: link_pb2.ClusterInfo | None = None
        self.link: Link | None = None
        self.transport = control_pb2.TRANSPORT_UNSPECIFIED
        self.attachments: dict[str, Attachment] = {}
        self.problem: TpdError | None = None
        self.ended = ""
        self.api_server = ApiServerTransport(request.api_server)
        self.relay = RelayTransport(changes)
        self._failures = 0  # in a row
        self._endpoint = EndpointTransport([(one.host, one.port) for one in request.endpoints])
        self._request = request
        self._capture = capture
        self._resolver = resolver
        self._changes = changes
        self._volume_root = volume_root
        try:
            tls = client_context(request.ca, request.certificate, identity.key)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the session's certificates cannot be used: {error}") from error
        kinds: dict[int, Transport] = {
            transport.kind: transport for transport in (self._endpoint, self.api_server, self.relay)
        }
        order = [kind for kind in request.transports if kind in kinds] or list(_DEFAULT_ORDER)
        self._linker = Linker(TransportChooser([kinds[kind] for kind in order]), tls)
        self._names = ClusterResolver(self._dial_names)
        self._configure_names(None)
        self._task = spawn(self._run(), name="session")

    # -- for the control server ----------------------------------------------------------------------------------
    async def wait_connected(self, timeout: float) -> link_pb2.ClusterInfo:
        """Until the cluster's addresses are captured and its names served.

        Raises:
            TpdError: The last trouble, when that is not so in `timeout` seconds, or at once when trying is useless.
        """

        def decided() -> bool:
            useless = isinstance(self.problem, ConfigError | ClusterError) or self._failures >= _TRIES
            return self.cluster is not None or bool(self.ended) or useless

        await self._changes.until(decided, timeout)
        if self.cluster is not None:
            return self.cluster
        if self.ended:
            raise ClusterError(f"the manager ended session {self.name}: {self.ended}")
        raise self.problem or NetworkError(f"the manager did not answer within {timeout:g} s")

    async def attach(self, uid: str, *, mount: bool, timeout: float) -> Attachment:
        """Until an attachment is engaged wherever it can be, and mounted if asked.

        Raises:
            TpdError: The manager or every agent refused, or nothing happened in `timeout` seconds.
        """

        def engaged() -> bool:
            attachment = self.attachments.get(uid)
            return attachment is not None and (attachment.engaged or attachment.failure is not None)

        await self._changes.until(lambda: engaged() or bool(self.ended), timeout)
        attachment = self.attachments.get(uid)
        if attachment is None:
            words = f": {self.ended}" if self.ended else ""
            raise ClusterError(f"the manager did not tell of attachment {uid} within {timeout:g} s{words}")
        if not attachment.engaged:
            name, problem = attachment.state.name, attachment.problem
            if problem is not None:
                raise from_category(problem.category, problem.message, problem.hint)
            raise ClusterError(f"no pod of attachment {name} was engaged within {timeout:g} s")
        await self._changes.until(lambda: attachment.settled, _REST_WAIT)
        if mount:
            await attachment.volumes.mount()
        return attachment

    async def detach(self, uid: str, drain: float) -> None:
        """Give an attachment's traffic back; its volumes stay until the manager says that it is gone."""
        attachment = self.attachments.get(uid)
        if attachment is not None:
            await attachment.disengage(drain)

    async def aclose(self, drain: float | None = None) -> None:
        """Leave everything: attachments, links, captured ranges, names.

        Args:
            drain: Seconds that open connections may take to fall idle; None to drop them.
        """
        # First of all: another snapshot from the manager would begin a given-up attachment anew.
        await cancel_and_wait(self._task)
        attachments, self.attachments = list(self.attachments.values()), {}
        await asyncio.gather(*(attachment.aclose(drain) for attachment in attachments))
        await self._names.aclose()
        self._resolver.configure(None, (), None)
        self._capture.set_ranges(())
        self._changes.ring()

    # -- the app's connections -----------------------------------------------------------------------------------
    async def dial(self, host: str, port: int) -> Stream:
        """A connection inside the cluster, from the attached pod where there is one.

        Raises:
            NetworkError: It cannot be had; the peer's word says why.
            TimeoutError: No answer in time.
        """
        request = link_pb2.OpenRequest(dial=link_pb2.Dial(host=host, port=port)).SerializeToString()
        if not self._links() and not await self._changes.until(lambda: bool(self._links()), _LINK_WAIT):
            raise LinkClosed("no link to the cluster")
        failure: NetworkError = LinkClosed("no link to the cluster")
        for link in self._links():
            try:
                return await link.open(request, timeout=_OPEN_TIMEOUT)
            except LinkClosed as error:
                failure = error
        raise failure

    def _links(self) -> list[Link]:
        """All links, the best one for dialling first."""
        own = self._request.namespace
        pods = [
            (attachment.state.namespace != own, pod.link)
            for attachment in self.attachments.values()
            for pod in attachment.pods.values()
        ]
        links = [link for _, link in sorted(pods, key=lambda pair: pair[0]) if link is not None]
        if self.link is not None:
            links.append(self.link)
        return sorted(links, key=lambda link: link.suspended)

    async def _dial_names(self) -> Stream:
        if self.cluster is None:
            raise NetworkError("not connected to the cluster")
        return await self.dial(self.cluster.dns_address, _DNS_PORT)

    # -- the manager ---------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        backoff = Backoff()
        while not self.ended:
            try:
                link, self.transport = await self._linker.connect(MANAGER, _refuse)
                try:
                    await self._converse(link, backoff)
                finally:
                    self.link = None
                    link.close()
            except TpdError as error:
                self.problem = error
            except (ProtocolError, TimeoutError) as error:
                self.problem = NetworkError(f"the manager's link failed: {error or 'no answer in time'}")
            self._failures += 1
            _log.warning("no manager link", extra={"reason": self.problem.message if self.problem else self.ended})
            self._changes.ring()
            if not self.ended:
                await asyncio.sleep(backoff.next())
        attachments, self.attachments = list(self.attachments.values()), {}
        await asyncio.gather(*(attachment.aclose(None) for attachment in attachments))
        self._changes.ring()

    async def _converse(self, link: Link, backoff: Backoff) -> None:
        request = link_pb2.OpenRequest(control=link_pb2.Control())
        control = MessageStream(await link.open(request.SerializeToString(), timeout=_OPEN_TIMEOUT))
        hello = link_pb2.DaemonHello(version=tpd_core.__version__, session=self.name)
        await control.send(link_pb2.DaemonToManager(hello=hello))
        while (message := await control.receive(link_pb2.ManagerToDaemon)) is not None:
            match message.WhichOneof("message"):
                case "cluster":
                    await self._on_cluster(link, message.cluster)
                    backoff.reset()
                case "attachment":
                    self._on_attachment(message.attachment)
                case "gone":
                    await self._on_gone(message.gone.uid)
                case "ended":
                    self.ended = message.ended.reason or "the session was deleted"
                    return
        raise NetworkError("the manager closed the conversation")

    async def _on_cluster(self, link: Link, info: link_pb2.ClusterInfo) -> None:
        self._endpoint.endpoints = [(one.host, one.port) for one in info.endpoints] or self._endpoint.endpoints
        if info != self.cluster:
            cidrs = [*info.service_cidrs, *info.pod_cidrs]
            self._capture.set_ranges(cidrs, await self._own_targets())
            self.cluster = info
            self._configure_names(info)
        self.link, self.problem, self._failures = link, None, 0
        _log.info("connected", extra={"session": self.name, "manager": info.manager_version})
        self._changes.ring()

    def _on_attachment(self, state: link_pb2.AttachmentState) -> None:
        attachment = self.attachments.get(state.uid)
        if attachment is None:
            attachment = self.attachments[state.uid] = Attachment(
                state,
                self._linker,
                self._changes,
                may_speak_from=self._capture.covers,
                root=self._volume_root,
            )
        attachment.update(state)

    async def _on_gone(self, uid: str) -> None:
        attachment = self.attachments.pop(uid, None)
        if attachment is not None:
            await attachment.aclose(None)
        self._changes.ring()

    def _configure_names(self, info: link_pb2.ClusterInfo | None) -> None:
        request = self._request
        ranges = [*info.service_cidrs, *info.pod_cidrs] if info is not None else []
        config = NameConfig(
            namespace=request.namespace,
            domain=(info.cluster_domain if info is not None else "").strip(".").lower() or DEFAULT_DOMAIN,
            ranges=tuple(_ipv4(ranges)),
            local_names=frozenset(name.lower() for name in request.local_names),
            remote_names=frozenset(name.lower() for name in request.remote_names),
        )
        # Docker's resolver would send the question back to where it came from.
        unusable = {self._capture.dns_address, "127.0.0.11"}
        upstreams = [host for host in request.dns_upstreams if host not in unusable]
        self._resolver.configure(config, upstreams, self._names if info is not None else None)

    async def _own_targets(self) -> list[str]:
        """Addresses outside the cluster's ranges' meaning: what the daemon's own sockets connect to."""
        names = {urlsplit(self._request.api_server.url).hostname, *(host for host, _ in self._endpoint.endpoints)}
        loop = asyncio.get_running_loop()
        found = {str(address) for address in _ip_literals(self._request.dns_upstreams)}
        for name in names:
            if not name:
                continue
            try:
                answers = await loop.getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
            except OSError:
                continue
            found.update(str(answer[4][0]) for answer in answers)
        return sorted(found)


def _refuse(incoming: Incoming) -> None:
    incoming.reject(RejectCode.UNSUPPORTED, "a daemon takes no streams from the manager")


def _ipv4(cidrs: Iterable[str]) -> list[ipaddress.IPv4Network]:
    return [net for cidr in cidrs if isinstance(net := ipaddress.ip_network(cidr), ipaddress.IPv4Network)]


def _ip_literals(hosts: Iterable[str]) -> list[ipaddress.IPv4Address]:
    result = []
    for host in hosts:
        try:
            result.append(ipaddress.IPv4Address(host))
        except ValueError:
            continue
    return result
